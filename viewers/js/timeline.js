// The timeline: lanes of graph executions, operators and threads' stretches off the processor on a canvas. A million
// items stay smooth because a frame never touches more than a few per pixel: wide views add up sums of blocks of items
// (lanes.js), narrow views find their items by binary search.
"use strict";
(() => {
  const { unpackLane, arranged, waited, endOf, firstAfter } = window.FlowprofLanes;
  const { duration, tickText } = window.FlowprofWords;
  const { drawItems, drawColumns, drawMatches } = window.FlowprofLaneDrawing;
  const AXIS = 24, STRIP = 7, LABEL = 17, GAP = 7;
  const MIN_SPAN_NS = 200;
  const THIN = 9, NEAR = 2; // of a strip of states: its height, and the gap to its thread's operators
  const STATE_WORDS = { runnable: "ready, without a processor", sleeping: "asleep", fault: "reads a page from disk",
    disk: "uninterruptible: disk or driver", stopped: "stopped" };

  class FlowprofTimeline {
    constructor(root, description, buffer) {
      this.root = root;
      this.description = description;
      const bytes = new Uint8Array(buffer);
      this.packed = description.lanes.map((lane) => unpackLane(bytes, lane, description));
      this.lanes = arranged(this.packed);
      this.end = Math.max(description.end, 1000);
      this.canvas = root.querySelector("canvas");
      this.stage = root.querySelector(".stage");
      this.tip = root.querySelector(".tip");
      this.search = root.querySelector("input");
      this.context = this.canvas.getContext("2d", { alpha: false });
      const wide = this.lanes.filter((lane) => lane.type !== "states").length;
      const bar = wide <= 5 ? 36 : wide <= 12 ? 28 : 20; // a lane's height
      let y = AXIS + STRIP + 4;
      this.lanes.forEach((lane, number) => {
        const next = this.lanes[number + 1];
        lane.y = y + (lane.under ? 0 : LABEL);
        lane.high = lane.type === "states" ? THIN : bar;
        y = lane.y + lane.high + (next && next.under ? NEAR : GAP);
      });
      this.below = y;
      this.t0 = 0;
      this.t1 = this.end;
      this.pointers = new Map();
      this.found = null;
      this.hover = null;
      this.frames = 0;
      this.pending = false;
      this.scheme();
      this.legend();
      this.listen();
      this.resize();
      root.querySelectorAll("[disabled]").forEach((control) => { control.disabled = false; });
    }

    scheme() {
      const style = getComputedStyle(document.documentElement);
      const colour = (name) => style.getPropertyValue(`--${name}`).trim();
      this.ink = colour("ink"); this.soft = colour("soft-ink"); this.paper = colour("card"); this.line = colour("line");
      this.laneColour = colour("lane"); this.mark = colour("mark"); this.font = getComputedStyle(document.body).fontFamily;
      const other = colour("other");
      this.palette = {
        operators: [...this.description.blocks.map((name) => colour(name.replace(" ", "-")) || other), colour("wait")],
        graphs: this.description.phases.map((name) => (name === "other" ? other : colour(name))),
        states: this.description.states.map((name) => colour(`state-${name}`) || other),
      };
      const word = (hex) => {
        const value = parseInt(hex.slice(1), 16);
        return (255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
      };
      this.words = Object.fromEntries(Object.entries(this.palette).map(([type, colours]) => [type, new Int32Array(colours.map(word))]));
      this.laneWord = word(this.laneColour);
      this.levelColour = { token: this.line, op: colour("faint-ink"), thread: this.soft };
    }

    legend() {
      const place = this.root.querySelector(".legend");
      place.textContent = "";
      const add = (name, colour) => {
        const item = document.createElement("span"), dot = document.createElement("span");
        dot.className = "dot";
        dot.style.setProperty("--c", colour);
        item.append(dot, name);
        place.append(item);
      };
      const blocks = new Set(this.description.kinds.map((kind) => kind[2]));
      const operators = this.lanes.filter((lane) => lane.type === "operators" && lane.length);
      if (operators.length) this.description.blocks.forEach((name, i) => { if (blocks.has(i)) add(name, this.palette.operators[i]); });
      if (operators.some((lane) => lane.compute.some((c) => c < 254))) add("barrier wait", this.palette.operators.at(-1));
      const phases = new Set();
      for (const lane of this.lanes) if (lane.type === "graphs") for (const phase of lane.kind) phases.add(phase);
      this.description.phases.forEach((name, i) => { if (phases.has(i)) add(`${name} graph`, this.palette.graphs[i]); });
      const states = new Set();
      for (const lane of this.lanes) if (lane.type === "states") for (const state of lane.kind) states.add(state);
      this.description.states.forEach((name, i) => { if (states.has(i)) add(`off the processor: ${STATE_WORDS[name]}`, this.palette.states[i]); });
      const levels = this.description.levels.filter((level) => level !== "token");
      for (const level of levels) add(`${level} window`, this.levelColour[level] || this.soft);
    }

    resize() {
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      this.ratio = ratio;
      this.width = Math.max(1, this.stage.clientWidth);
      this.height = this.below + 2;
      this.canvas.style.height = `${this.height}px`;
      this.canvas.width = Math.round(this.width * ratio);
      this.canvas.height = Math.round(this.height * ratio);
      this.images = new Map(); // by height
      this.draw();
    }

    later() {
      if (this.pending) return;
      this.pending = true;
      requestAnimationFrame(() => { this.pending = false; this.draw(); });
    }

    view(t0, t1) {
      let span = Math.min(Math.max(t1 - t0, MIN_SPAN_NS), this.end * 1.04);
      const middle = (t0 + t1) / 2;
      t0 = middle - span / 2;
      t0 = Math.max(-this.end * 0.02, Math.min(t0, this.end * 1.02 - span));
      this.t0 = t0;
      this.t1 = t0 + span;
      this.later();
    }

    zoom(factor, x = this.width / 2) {
      const at = this.t0 + (x / this.width) * (this.t1 - this.t0);
      const span = Math.min(Math.max((this.t1 - this.t0) * factor, MIN_SPAN_NS), this.end * 1.04);
      const t0 = at - (x / this.width) * span;
      this.view(t0, t0 + span);
    }

    pan(fraction) { const by = (this.t1 - this.t0) * fraction; this.view(this.t0 + by, this.t1 + by); }

    // ---- drawing

    draw() {
      const c = this.context;
      c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      c.fillStyle = this.paper;
      c.fillRect(0, 0, this.width, this.height);
      this.axis(c);
      this.windows(c);
      this.lanes.forEach((lane) => this.lane(c, lane));
      if (this.hover) {
        c.strokeStyle = this.ink;
        c.lineWidth = 1.5;
        const { lane, item } = this.hover;
        const x0 = this.x(lane.start[item]), x1 = this.x(endOf(lane, item));
        c.strokeRect(x0, lane.y, Math.max(2, x1 - x0), lane.high);
        const call = this.launch(lane, item);
        if (call) {
          const from = this.x(endOf(call.lane, call.item)), below = call.lane.y + call.lane.high;
          const up = lane.y < call.lane.y, y0 = up ? call.lane.y : below, y1 = up ? lane.y + lane.high : lane.y;
          c.beginPath(); c.moveTo(from, y0); c.bezierCurveTo(from, (y0 + y1) / 2, x0, (y0 + y1) / 2, x0, y1); c.stroke();
        }
      }
      this.frames++;
    }

    // The call that launched an item of a GPU's lane.
    launch(lane, item) {
      if (!lane.flowLane || lane.flowLane[item] === 65535) return null;
      return { lane: this.packed[lane.flowLane[item]], item: lane.flowItem[item] };
    }

    x(time) { return ((time - this.t0) / (this.t1 - this.t0)) * this.width; }

    axis(c) {
      const span = this.t1 - this.t0, wanted = Math.max(2, this.width / 110);
      const rough = span / wanted, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
      c.font = `12px ${this.font}`;
      c.textBaseline = "middle";
      c.lineWidth = 1;
      for (let k = Math.ceil(Math.max(0, this.t0) / step); k * step <= Math.min(this.t1, this.end * 1.02); k++) {
        const x = Math.round(this.x(k * step)) + 0.5;
        c.strokeStyle = this.line;
        c.beginPath(); c.moveTo(x, 0); c.lineTo(x, this.height); c.stroke();
        c.fillStyle = this.soft;
        const text = tickText(k * step, step);
        if (x + c.measureText(text).width + 6 < this.width) c.fillText(text, x + 4, AXIS / 2);
      }
    }

    windows(c) {
      const { windows, levels } = this.description;
      let drawn = -1;
      for (const [level, start, end] of windows) {
        if (end < this.t0 || start > this.t1) continue;
        const x0 = Math.max(0, this.x(start)), x1 = Math.min(this.width, this.x(end));
        if (x1 < drawn + 0.5) continue;
        drawn = x1;
        c.fillStyle = this.levelColour[levels[level]] || this.soft;
        c.fillRect(x0, AXIS, Math.max(0.6, x1 - x0 - 0.4), STRIP);
      }
    }

    lane(c, lane) {
      const { y } = lane, top = y - LABEL;
      c.fillStyle = this.laneColour;
      c.fillRect(0, y, this.width, lane.high);
      if (!lane.under) {
        c.font = `12px ${this.font}`;
        c.textBaseline = "middle";
        c.fillStyle = this.paper;
        const text = c.measureText(lane.label).width;
        c.fillRect(0, top + 1, text + 12, LABEL - 3);
        c.fillStyle = this.soft;
        c.fillText(lane.label, 6, top + LABEL / 2);
      }
      const i0 = Math.max(0, firstAfter(lane.start, this.t0) - 1), i1 = firstAfter(lane.start, this.t1);
      if (i1 > i0) {
        if (i1 - i0 <= Math.min(1500, lane.type === "states" ? this.width / 6 : this.width)) drawItems(this, c, lane, i0, i1);
        else drawColumns(this, c, lane, i0, i1);
      }
      if (lane.matches) drawMatches(this, c, lane);
    }

    // ---- search

    find(text) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean), status = this.root.querySelector(".matches");
      this.found = null;
      this.current = null;
      if (words.length === 0) {
        this.lanes.forEach((lane) => { lane.matches = null; });
        status.textContent = "";
        this.later();
        return 0;
      }
      const hit = new Uint8Array(this.description.kinds.length);
      this.description.kinds.forEach((kind, k) => {
        const all = `${kind[0]} ${kind[1]} ${this.description.blocks[kind[2]]} ${kind[3] === null ? "" : `layer ${kind[3]}`} ${kind[5]}`.toLowerCase();
        hit[k] = words.every((word) => all.includes(word)) ? 1 : 0;
      });
      // A stretch off the processor is found by its state and by who was in the way.
      const { states, others } = this.description, named = states.map((name) => `${name} ${STATE_WORDS[name]}`.toLowerCase());
      const away = new Uint8Array(states.length * others.length);
      others.forEach((other, by) => named.forEach((state, k) => {
        const all = `${state} ${other.toLowerCase()}`;
        away[by * states.length + k] = words.every((word) => all.includes(word)) ? 1 : 0;
      }));
      let total = 0;
      for (const lane of this.lanes) {
        if (lane.type === "graphs") { lane.matches = new Uint32Array(0); continue; }
        const fits = lane.by ? (i) => away[lane.by[i] * states.length + lane.kind[i]] : (i) => hit[lane.kind[i]];
        let count = 0;
        for (let i = 0; i < lane.length; i++) count += fits(i);
        const matches = new Uint32Array(count);
        for (let i = 0, m = 0; i < lane.length; i++) if (fits(i)) matches[m++] = i;
        lane.matches = matches;
        total += count;
        if (!this.found && count) this.found = lane;
      }
      status.textContent = total ? `${total.toLocaleString("en").replaceAll(",", " ")} ${total === 1 ? "match" : "matches"}` : "no match";
      this.later();
      return total;
    }

    jump(direction) {
      const lane = this.found;
      if (!lane) return;
      const { matches } = lane;
      if (this.current === null) {
        const from = firstAfter(lane.start, this.t0);
        let low = 0, high = matches.length;
        while (low < high) { const m = (low + high) >> 1; if (matches[m] >= from) high = m; else low = m + 1; }
        this.current = low < matches.length ? low : 0;
      } else {
        this.current = (this.current + direction + matches.length) % matches.length;
      }
      const item = matches[this.current], start = lane.start[item], time = Math.max(lane.dur[item] * lane.unit, 100);
      const span = Math.min(this.t1 - this.t0, time * 24);
      this.hover = { lane, item };
      this.view(start + time / 2 - span / 2, start + time / 2 + span / 2);
      this.tell(this.width / 2, lane.y);
    }

    // ---- pointing

    at(x, y) {
      const lane = this.lanes.find((one) => y >= one.y && y < one.y + one.high + NEAR);
      if (!lane) return null;
      const time = this.t0 + (x / this.width) * (this.t1 - this.t0), slack = (this.t1 - this.t0) / this.width;
      const i = firstAfter(lane.start, time) - 1;
      if (i >= 0 && endOf(lane, i) >= time - slack) return { lane, item: i };
      if (i + 1 < lane.length && lane.start[i + 1] <= time + slack) return { lane, item: i + 1 };
      return null;
    }

    tell(x, y) {
      const tip = this.tip;
      if (!this.hover) { tip.hidden = true; return; }
      const { lane, item } = this.hover, time = lane.dur[item] * lane.unit;
      tip.textContent = "";
      const head = document.createElement("b"), rest = document.createElement("div");
      const lines = [];
      if (lane.type === "operators") {
        const [op, name, block, layer, type, shape] = this.description.kinds[lane.kind[item]];
        head.textContent = name || op;
        lines.push(`${op} · ${this.description.blocks[block]}${layer === null ? "" : ` · layer ${layer}`}`);
        if (shape) lines.push(`${type} ${shape}`.trim());
        const wait = waited(lane, item);
        const call = this.launch(lane, item);
        if (call) lines.push(`launched by ${this.description.kinds[call.lane.kind[call.item]][1]}, begun ${duration(Math.max(0, lane.start[item] - call.lane.start[call.item]))} after its call began`);
        lines.push(`${duration(time)}${lane.compute[item] === 255 ? "" : ` · compute ≈ ${duration(time * (1 - wait))}, wait ≈ ${duration(time * wait)}`}`);
      } else if (lane.type === "states") {
        const state = this.description.states[lane.kind[item]], other = this.description.others[lane.by[item]];
        head.textContent = duration(time);
        lines.push(`off the processor: ${STATE_WORDS[state]}`);
        if (other) lines.push(`${state === "runnable" ? "in its place ran" : "woken by"} ${other}`);
      } else {
        head.textContent = `${this.description.phases[lane.kind[item]]} graph`;
        lines.push(`${lane.tokens[item]} ${lane.tokens[item] === 1 ? "token" : "tokens"} · ${duration(time)}`);
      }
      lines.push(`${lane.label} · at ${duration(lane.start[item])}`);
      lines.forEach((line, number) => {
        const row = document.createElement(number === lines.length - 1 ? "span" : "div");
        row.textContent = line;
        rest.append(row);
      });
      tip.append(head, rest);
      tip.hidden = false;
      // In the window, not in the stage: a timeline of one lane is lower than what it says.
      const box = this.canvas.getBoundingClientRect(), at = box.left + x, below = box.top + y + 18;
      const left = at + 16 + tip.offsetWidth > box.left + this.width ? at - tip.offsetWidth - 12 : at + 14;
      const top = below + tip.offsetHeight > innerHeight ? below - tip.offsetHeight - 28 : below;
      tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${Math.max(2, Math.min(top, innerHeight - tip.offsetHeight - 2))}px`; // of a lane out of sight: near it
    }

    place(event) {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }

    listen() {
      const { canvas } = this;
      addEventListener("scroll", () => { this.tip.hidden = true; }, { capture: true, passive: true });
      canvas.addEventListener("wheel", (event) => {
        const focused = document.activeElement === canvas;
        if (!focused && !event.ctrlKey && !event.metaKey && !event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
        event.preventDefault();
        const unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
        const dx = event.deltaX * unit, dy = event.deltaY * unit;
        if (event.shiftKey || Math.abs(dx) > Math.abs(dy)) this.pan((event.shiftKey && !dx ? dy : dx) / this.width);
        else this.zoom(Math.exp(Math.max(-300, Math.min(300, dy)) * (event.ctrlKey && event.deltaMode === 0 && Math.abs(dy) < 40 ? 0.012 : 0.0024)), this.place(event)[0]);
      }, { passive: false });
      canvas.addEventListener("pointerdown", (event) => {
        this.pointers.set(event.pointerId, this.place(event));
        canvas.setPointerCapture(event.pointerId);
        canvas.classList.add("drag");
      });
      canvas.addEventListener("pointermove", (event) => {
        const [x, y] = this.place(event), before = this.pointers.get(event.pointerId);
        if (!before) {
          this.hover = this.at(x, y);
          this.tell(x, y);
          this.later();
          return;
        }
        if (this.pointers.size === 1) {
          this.pan((before[0] - x) / this.width);
        } else {
          const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
          const was = Math.abs(before[0] - other[0]), is = Math.abs(x - other[0]);
          if (was > 4 && is > 4) this.zoom(was / is, (x + other[0]) / 2);
        }
        this.pointers.set(event.pointerId, [x, y]);
        this.tip.hidden = true;
      });
      const up = (event) => { this.pointers.delete(event.pointerId); if (!this.pointers.size) canvas.classList.remove("drag"); };
      canvas.addEventListener("pointerup", up);
      canvas.addEventListener("pointercancel", up);
      canvas.addEventListener("pointerleave", () => { if (!this.pointers.size) { this.hover = null; this.tip.hidden = true; this.later(); } });
      canvas.addEventListener("dblclick", (event) => {
        const target = this.at(...this.place(event));
        if (!target) return;
        const start = target.lane.start[target.item], time = Math.max(target.lane.dur[target.item] * target.lane.unit, 100);
        this.view(start - time * 0.1, start + time * 1.1);
      });
      canvas.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const act = {
          w: () => this.zoom(0.6), s: () => this.zoom(1 / 0.6), a: () => this.pan(-0.2), d: () => this.pan(0.2),
          arrowup: () => this.zoom(0.6), arrowdown: () => this.zoom(1 / 0.6), arrowleft: () => this.pan(-0.2),
          arrowright: () => this.pan(0.2), "+": () => this.zoom(0.6), "=": () => this.zoom(0.6), "-": () => this.zoom(1 / 0.6),
          0: () => this.view(0, this.end), home: () => this.view(0, this.end), n: () => this.jump(1), p: () => this.jump(-1),
          "/": () => this.search.focus(), escape: () => canvas.blur(),
        }[event.key.toLowerCase()];
        if (act) { event.preventDefault(); act(); }
      });
      let waiting = 0;
      this.search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.find(this.search.value), 120); });
      this.search.addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        clearTimeout(waiting);
        if (!this.found) this.find(this.search.value);
        this.jump(event.shiftKey ? -1 : 1);
      });
      const act = { in: () => this.zoom(0.5), out: () => this.zoom(2), fit: () => this.view(0, this.end), next: () => this.jump(1), previous: () => this.jump(-1) };
      this.root.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => act[button.dataset.do]()));
      new ResizeObserver(() => { if (this.stage.clientWidth !== this.width) this.resize(); }).observe(this.stage);
      for (const media of ["(prefers-color-scheme: dark)", "print"]) {
        matchMedia(media).addEventListener("change", () => { this.scheme(); this.legend(); this.draw(); });
      }
    }
  }

  window.FlowprofTimeline = FlowprofTimeline;
})();
