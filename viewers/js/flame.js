// The differential flame graph: frames of both sides (diff_flame.py), phase below phase's parts. A frame is as wide as
// the larger side; its two bars are the time of a and b on one scale. Only frames of some pixels are made.
"use strict";
(() => {
  const HIGH = 40, LEAST = 3; // pixels: of a level, and the narrowest frame that is drawn
  const NAME = 0, A = 1, B = 2, CHANGED = 3, WIDTH = 4, NOTE = 5, PARTS = 6;
  const { duration } = window.FlowprofWords;

  class FlowprofFlame {
    constructor(root, phases, choice) {
      this.root = root;
      this.sides = [root.dataset.a, root.dataset.b];
      this.phases = phases;
      this.choice = choice;
      this.stage = root.querySelector(".stage");
      this.detail = root.querySelector(".detail");
      this.out = root.querySelector("[data-do=out]");
      this.out.addEventListener("click", () => this.zoom(this.path.slice(0, -1)));
      if (choice) choice.addEventListener("change", () => this.zoom([this.phase().root]));
      this.stage.addEventListener("keydown", (event) => this.key(event));
      let width = this.stage.clientWidth;
      new ResizeObserver(() => { if (this.stage.clientWidth !== width) { width = this.stage.clientWidth; this.draw(); } }).observe(this.stage);
      this.zoom([this.phase().root]);
    }

    phase() {
      const input = this.choice && (this.choice.querySelector("input:checked") || this.choice.querySelector("input"));
      return this.phases[input ? input.value : Object.keys(this.phases)[0]];
    }

    // `path`: frames from the phase to the one that is as wide as the stage.
    zoom(path, focus = false) {
      if (path.length === 0) return;
      this.path = path;
      this.out.disabled = path.length === 1;
      this.draw();
      const last = this.stage.querySelector(`[data-depth="${path.length - 1}"]`);
      if (focus && last) last.focus({ preventScroll: true });
      this.tell(path.at(-1), path);
    }

    draw() {
      if (!this.path) return;
      const focused = this.stage.contains(document.activeElement) ? document.activeElement.flowprofPath.at(-1) : null;
      this.stage.textContent = "";
      let deepest = 0, first = null;
      const wide = this.stage.clientWidth || 1;
      const put = (frame, path, left, width, depth) => {
        const button = this.frame(frame, path, left, width, depth);
        if (path.length === this.path.length && !first) first = button;
        deepest = Math.max(deepest, depth);
        this.stage.append(button);
      };
      this.path.slice(0, -1).forEach((frame, depth) => put(frame, this.path.slice(0, depth + 1), 0, wide, depth));
      const below = (frame, path, left, scale, depth) => {
        put(frame, path, left, frame[WIDTH] * scale, depth);
        let at = left;
        for (const part of frame[PARTS]) {
          const width = part[WIDTH] * scale;
          if (width >= LEAST) below(part, [...path, part], at, scale, depth + 1);
          at += width;
        }
      };
      const top = this.path.at(-1);
      below(top, this.path, 0, wide / (top[WIDTH] || 1), this.path.length - 1);
      this.stage.style.height = `${(deepest + 1) * HIGH}px`;
      if (first) first.tabIndex = 0;
      const again = focused && [...this.stage.children].find((one) => one.flowprofPath.at(-1) === focused);
      if (again) again.focus({ preventScroll: true });
    }

    frame(frame, path, left, width, depth) {
      const button = document.createElement("button"), label = document.createElement("span");
      button.type = "button";
      button.className = `frame ${this.kind(frame)}`;
      button.dataset.depth = depth;
      button.tabIndex = -1;
      const share = (pixels) => (100 * pixels) / (this.stage.clientWidth || 1); // in %, so that it holds on paper, too
      button.style.left = `${share(left)}%`;
      button.style.width = `max(${LEAST - 1}px, calc(${share(width)}% - 1px))`;
      button.style.top = `${depth * HIGH}px`;
      button.style.setProperty("--strength", `${Math.round(100 * this.strength(frame))}%`);
      button.setAttribute("aria-label", this.words(frame));
      label.textContent = width > 26 ? frame[NAME] : "";
      button.append(label);
      for (const side of [A, B]) {
        const bar = document.createElement("i");
        bar.className = side === A ? "a" : "b";
        bar.style.width = `${Math.min(100, (100 * (frame[side] || 0)) / (frame[WIDTH] || 1))}%`;
        button.append(bar);
      }
      button.flowprofPath = path;
      button.addEventListener("click", () => this.zoom(path.length === this.path.length && path.length > 1 && path.at(-1) === this.path.at(-1) ? path.slice(0, -1) : path, true));
      button.addEventListener("focus", () => this.tell(frame, path));
      button.addEventListener("pointerenter", () => this.tell(frame, path));
      return button;
    }

    kind(frame) {
      const one = frame[A] === null ? "new" : frame[B] === null ? "gone" : "";
      return `${one} ${frame[CHANGED] > 0 ? "slower" : frame[CHANGED] < 0 ? "faster" : "unsure"}`.trim();
    }

    // 0 … 1: the change that is no noise, as a share of the larger side; a half is full colour.
    strength(frame) {
      const most = Math.max(frame[A] || 0, frame[B] || 0);
      return frame[CHANGED] && most ? Math.min(1, 0.15 + (1.7 * Math.abs(frame[CHANGED])) / most) : 0;
    }

    words(frame) {
      const [a, b] = this.sides, per = `per ${this.phase().per}`;
      if (frame[A] === null) return `${frame[NAME]}: only ${b}, ${duration(frame[B] || 0)} ${per}`;
      if (frame[B] === null) return `${frame[NAME]}: only ${a}, ${duration(frame[A] || 0)} ${per}`;
      const delta = frame[B] - frame[A], sign = delta < 0 ? "−" : "+";
      const share = frame[A] > 0 ? ` (${sign}${Math.abs((100 * delta) / frame[A]).toFixed(1)} %)` : "";
      return `${frame[NAME]}: ${duration(frame[A])} → ${duration(frame[B])} ${per}, ${sign}${duration(Math.abs(delta))}${share}${frame[CHANGED] ? "" : ", not tested or not beyond the noise"}`;
    }

    tell(frame, path) {
      this.detail.textContent = "";
      const where = document.createElement("span"), what = document.createElement("b");
      where.textContent = path.slice(0, -1).map((one) => one[NAME]).join(" › ");
      what.textContent = this.words(frame) + (frame[NOTE] ? ` · ${frame[NOTE]}` : "");
      this.detail.append(what, where);
    }

    key(event) {
      const now = document.activeElement;
      if (!now || !now.flowprofPath || event.ctrlKey || event.metaKey || event.altKey) return;
      const path = now.flowprofPath, depth = path.length - 1, all = [...this.stage.querySelectorAll(".frame")];
      const level = all.filter((one) => one.flowprofPath.length === path.length), at = level.indexOf(now);
      const found = {
        ArrowLeft: () => level[at - 1],
        ArrowRight: () => level[at + 1],
        ArrowUp: () => all.find((one) => one.flowprofPath.length === depth && one.flowprofPath.at(-1) === path[depth - 1]),
        ArrowDown: () => all.find((one) => one.flowprofPath.length === path.length + 1 && one.flowprofPath[depth] === path[depth]),
        Escape: () => { this.zoom(this.path.slice(0, -1), true); return null; },
      }[event.key];
      if (!found) return;
      event.preventDefault();
      const next = found();
      if (next) { all.forEach((one) => { one.tabIndex = -1; }); next.tabIndex = 0; next.focus(); }
    }
  }

  window.FlowprofFlame = FlowprofFlame;
})();
