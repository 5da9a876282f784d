// The graph view: folded layers as boxes that open, operators as nodes, drawn as SVG from positions made in Python
// (viewers/dag.py). All texts go in as text nodes. The stage scrolls; zooming changes the drawing's size.
"use strict";
(() => {
  const COLUMN = 152, NODE = 140, HIGH = 56, ROW = 78, CLOSED = 54, HEAD = 34, FOOT = 14, PAD = 18;
  const SVG = "http://www.w3.org/2000/svg";
  const LETTERS = 18; // of a name that fit into a node

  function make(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function html(tag, text = "", kind = "") {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  }

  function cut(text, room) { // wide characters count twice
    let used = 0, out = "";
    for (const letter of text) {
      used += letter.codePointAt(0) > 0x2e7f ? 2 : 1;
      if (used > room) return `${out.slice(0, -1)}…`;
      out += letter;
    }
    return out;
  }

  // A line from (x, y) through the ranks' gaps: upright where it passes a rank, curved in between.
  function path(points) {
    let d = `M${points[0][0]} ${points[0][1]}`;
    for (let i = 1; i < points.length; i++) {
      const [x0, y0] = points[i - 1], [x1, y1] = points[i];
      if (x0 === x1) { d += `V${y1}`; continue; }
      const bend = Math.max(12, Math.abs(y1 - y0) / 2);
      d += `C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}`;
    }
    return d;
  }

  // Whether a node is one that a row speaks of; by its name, too.
  const like = (node, { op, block }) => (op === undefined || node.op === op) && node.block === block;
  const named = (node, one) => like(node, one) && Boolean(one.tensors && one.tensors.includes(node.name));

  const percentages = (step) => `${step * 100}`;

  class FlowprofGraph {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.stage = root.querySelector(".stage");
      this.svg = root.querySelector("svg");
      this.panel = root.querySelector(".detail");
      this.status = root.querySelector(".matches");
      this.search = root.querySelector("input[type=search]");
      this.tip = root.querySelector(".tip");
      this.colour = "time"; // or "bound"
      this.scale = this.wide = this.high = 1;
      this.marked = null; // keys of highlighted nodes, null: none asked for
      this.chosen = null;
      this.controls();
      this.turn(data.graphs[0]);
      root.querySelectorAll("[disabled]").forEach((control) => { control.disabled = false; });
    }

    // ---- controls

    controls() {
      const phases = this.root.querySelector("[data-phases]"), colours = this.root.querySelector("[data-colours]");
      const names = [...new Set(this.data.graphs.map(({ phase }) => phase))], graphs = this.root.querySelector("[data-graphs]");
      for (const phase of names) phases.append(new Option(phase, phase));
      phases.closest("label").hidden = names.length < 2;
      phases.addEventListener("change", () => this.turn(this.of(phases.value)[0]));
      graphs.addEventListener("change", () => this.turn(this.of(phases.value)[graphs.selectedIndex]));
      this.phases = phases;
      this.graphs = graphs;
      const judged = this.data.graphs.some((graph) => graph.items.some((item) => (item.nodes || [item]).some((node) => node.bound)));
      colours.closest("label").hidden = !judged;
      if (judged) this.colour = colours.value = "bound";
      colours.addEventListener("change", () => { this.colour = colours.value; this.draw(); this.legend(); if (this.chosen === null) this.overview(); });
      const act = {
        in: () => this.zoom(1.25), out: () => this.zoom(0.8), fit: () => this.fit(true),
        open: () => this.open(true), close: () => this.open(false),
      };
      this.root.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => act[button.dataset.do]()));
      let waiting = 0;
      this.search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.find(this.search.value), 120); });
      this.search.addEventListener("keydown", (event) => {
        if (event.key === "Enter") { clearTimeout(waiting); this.find(this.search.value); }
        if (event.key === "Escape") { this.search.value = ""; this.find(""); }
      });
      this.stage.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const box = this.stage.getBoundingClientRect();
        this.zoom(Math.exp(-Math.max(-300, Math.min(300, event.deltaY)) * 0.0024), event.clientX - box.x, event.clientY - box.y);
      }, { passive: false });
      this.stage.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const key = { "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit(true),
          Escape: () => { this.search.value = ""; this.mark(null); this.choose(null); } }[event.key];
        if (key) { event.preventDefault(); key(); }
      });
      let held = null;
      this.stage.addEventListener("pointerdown", (event) => {
        if (event.pointerType !== "mouse" || event.button !== 0) return; // fingers scroll by themselves
        held = [event.clientX, event.clientY, this.stage.scrollLeft, this.stage.scrollTop];
        this.dragged = false;
      });
      window.addEventListener("pointermove", (event) => {
        if (!held) return;
        const dx = event.clientX - held[0], dy = event.clientY - held[1];
        if (Math.abs(dx) + Math.abs(dy) > 4) { this.dragged = true; this.stage.classList.add("drag"); this.tip.hidden = true; }
        if (this.dragged) { this.stage.scrollLeft = held[2] - dx; this.stage.scrollTop = held[3] - dy; }
      });
      window.addEventListener("pointerup", () => { held = null; this.stage.classList.remove("drag"); });
      let width = this.stage.clientWidth;
      new ResizeObserver(() => { if (this.stage.clientWidth !== width) { width = this.stage.clientWidth; this.fit(false); } }).observe(this.stage);
    }

    of(phase) { return this.data.graphs.filter((graph) => graph.phase === phase); }

    // To another graph.
    turn(graph) {
      const like = this.of(graph.phase);
      this.graph = graph;
      this.phases.value = graph.phase;
      this.graphs.replaceChildren(...like.map(({ label }) => new Option(label)));
      this.graphs.selectedIndex = like.indexOf(graph);
      this.graphs.closest("label").hidden = like.length < 2;
      this.root.closest("section").querySelector("[data-note]").textContent = this.graph.note;
      this.opened = new Set();
      // The costliest group shows one of its layers at once.
      const groups = this.graph.items.filter((item) => item.nodes);
      const cost = (group) => group.nodes.reduce((sum, node) => sum + node.cost, 0);
      const first = groups.reduce((best, group) => (!best || cost(group) > cost(best) ? group : best), null);
      if (first) this.opened.add(this.graph.items.indexOf(first));
      this.marked = null;
      this.chosen = null;
      this.status.textContent = "";
      this.draw();
      this.legend();
      this.fit(false);
      this.overview();
    }

    open(all) {
      this.opened = new Set(all ? this.graph.items.flatMap((item, number) => (item.nodes ? [number] : [])) : []);
      this.draw();
      this.resize();
    }

    // ---- drawing

    heightOf(item, number) {
      if (!item.nodes) return HIGH;
      return this.opened.has(number) ? HEAD + (item.ranks - 2) * ROW + 2 * FOOT + 6 : CLOSED;
    }

    draw() {
      const { graph } = this, heights = new Array(graph.ranks).fill(0);
      graph.items.forEach((item, number) => { heights[item.rank] = Math.max(heights[item.rank], this.heightOf(item, number)); });
      const tops = [];
      let y = PAD;
      for (const height of heights) { tops.push(y); y += height + ROW - HIGH; }
      this.wide = graph.columns * COLUMN + 2 * PAD;
      this.high = y - (ROW - HIGH) + PAD;
      this.places = new Map(); // key → the node's element and data
      const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : undefined;
      const nodes = make("g");
      const middle = (x) => PAD + x * COLUMN;
      const boxes = graph.items.map((item, number) => {
        const height = this.heightOf(item, number), top = tops[item.rank] + (item.nodes ? 0 : (heights[item.rank] - height) / 2);
        const box = { x: middle(item.x), top, bottom: top + height };
        if (item.nodes) this.group(nodes, item, number, box);
        else { box.into = box.out = box.x; this.node(nodes, item, `${number}`, box.x, top); }
        return box;
      });
      const outer = make("g", { class: "edges" });
      for (const [source, target, kind, via] of graph.edges) {
        const from = boxes[source], to = boxes[target], first = graph.items[source].rank + 1;
        const points = [[from.out, from.bottom]];
        via.forEach((x, step) => points.push([middle(x), tops[first + step]], [middle(x), tops[first + step] + heights[first + step]]));
        points.push([to.into, to.top - (graph.items[target].times > 1 && graph.items[target].nodes ? 10 : 3)]);
        outer.append(this.edge(points, kind, `${source}`, `${target}`));
      }
      this.svg.replaceChildren(this.marker(), outer, nodes);
      this.svg.setAttribute("viewBox", `0 0 ${this.wide} ${this.high}`);
      this.paint();
      if (focused && this.places.has(focused)) this.places.get(focused).element.focus({ preventScroll: true });
    }

    marker() {
      const arrow = make("marker", { id: "graph-arrow", viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" });
      arrow.append(make("path", { d: "M0 0L6 3L0 6z" }));
      return make("defs", {}, arrow);
    }

    edge(points, kind, source, target) {
      const line = make("path", { d: path(points), class: kind === "cache" ? "edge cache" : "edge", "marker-end": "url(#graph-arrow)" });
      line.dataset.source = source;
      line.dataset.target = target;
      return line;
    }

    group(layer, item, number, box) {
      const open = this.opened.has(number), wide = (open ? item.width : Math.min(item.width, 1.9)) * COLUMN - 12, left = box.x - wide / 2;
      const key = `${number}`, many = item.times > 1;
      const title = `${many ? "layers" : "layer"} ${item.layers}`;
      const element = make("g", { class: `group${open ? " open" : ` ${this.colour === "time" ? `heat${item.heat}` : `bound-${this.bound(item)}`}`}`, tabindex: 0, role: "button", "aria-expanded": open,
        "aria-label": `${title}, ${item.time}${many ? ` each, ${item.times} layers` : ""}, ${item.share} of the graph's time` });
      element.dataset.key = key;
      if (many) { // a stack of sheets
        for (const shift of [8, 4]) element.append(make("rect", { class: "sheet", x: left + shift, y: box.top - shift, width: wide, height: box.bottom - box.top, rx: 9 }));
      }
      element.append(make("rect", { class: "frame", x: left, y: box.top, width: wide, height: box.bottom - box.top, rx: 9 }));
      const names = cut(item.layers, Math.max(6, Math.floor((wide - (open ? 190 : 130)) / 7)));
      element.append(make("text", { class: "title", x: left + 12, y: box.top + 21 }, `${open ? "▾" : "▸"} ${many ? "layers" : "layer"} ${names}`));
      if (many) element.append(make("text", { class: "times", x: left + wide - 12, y: box.top + 21 }, `×${item.times}`));
      if (open) element.append(make("text", { class: "sum", x: left + wide - (many ? 48 : 12), y: box.top + 21 }, item.share));
      else {
        element.append(make("text", { class: "small", x: left + 12, y: box.top + 41 }, `${item.time}${many ? " each" : ""}`));
        element.append(make("text", { class: "small right", x: left + wide - 12, y: box.top + 41 }, item.share));
      }
      layer.append(element);
      this.places.set(key, { element, item, number, x: box.x, top: box.top, high: box.bottom - box.top });
      this.listen(element, key, () => { if (open) this.opened.delete(number); else this.opened.add(number); this.choose(key); this.draw(); this.resize(); });
      if (!open) { box.into = box.out = box.x; return; }
      const origin = box.x - (item.inner * COLUMN) / 2, top = (rank) => box.top + HEAD + FOOT + (rank - 1) * ROW;
      const x = (column) => origin + column * COLUMN;
      const inner = make("g", { class: "edges" });
      const ends = (position, out) => {
        if (position === -1) return [x(item.ports[0][0]), box.top + HEAD - 4];
        if (position === item.nodes.length) return [x(item.ports[1][0]), box.bottom - 2];
        const node = item.nodes[position];
        return [x(node.x), top(node.rank) + (out ? HIGH : -3)];
      };
      const rank = (position) => (position === -1 ? item.ports[0][1] : item.nodes[position].rank);
      for (const [source, target, kind, via] of item.edges) {
        const points = [ends(source, true)];
        via.forEach((column, step) => {
          const at = top(rank(source) + 1 + step);
          points.push([x(column), at], [x(column), at + HIGH]);
        });
        points.push(ends(target, false));
        inner.append(this.edge(points, kind, `${number}.${source}`, `${number}.${target}`));
      }
      layer.append(inner);
      if (item.edges.some(([source]) => source === -1)) layer.append(make("circle", { class: "port", cx: x(item.ports[0][0]), cy: box.top + HEAD - 4, r: 3 }));
      item.nodes.forEach((node, position) => this.node(layer, node, `${number}.${position}`, x(node.x), top(node.rank)));
      box.into = box.x;
      box.out = item.edges.some(([, target]) => target === item.nodes.length) ? x(item.ports[1][0]) : box.x;
      if (item.edges.some(([source]) => source === -1)) box.into = x(item.ports[0][0]);
    }

    // Of a group: the verdict that covers most of its time.
    bound(item) {
      const costs = {};
      for (const node of item.nodes) costs[node.bound || "unknown"] = (costs[node.bound || "unknown"] || 0) + node.cost;
      return Object.keys(costs).reduce((best, name) => (costs[name] > costs[best] ? name : best), Object.keys(costs)[0] || "unknown");
    }

    node(layer, node, key, x, top) {
      const left = x - NODE / 2, many = node.times > 1, label = node.name || node.op;
      const element = make("g", { class: `node ${this.colour === "time" ? `heat${node.heat}` : `bound-${node.bound || "unknown"}`}`, tabindex: 0, role: "button",
        "aria-label": `${label}, ${node.op}, ${node.time}${many ? ` in each of ${node.times} layers` : ""}, ${node.share} of the graph's time` });
      element.dataset.key = key;
      element.append(
        make("rect", { class: "body", x: left, y: top, width: NODE, height: HIGH, rx: 6 }),
        make("rect", { class: `strip block-${["attention", "ffn", "moe", "output"].includes(node.block) ? node.block : "other"}`, x: left, y: top + 5, width: 4, height: HIGH - 10 }),
        make("text", { class: "name", x: left + 10, y: top + 17 }, cut(label, LETTERS)),
        make("text", { class: "small", x: left + 10, y: top + 32 }, node.name ? cut(node.op, 21) : ""),
        make("text", { class: "small", x: left + 10, y: top + 48 }, this.colour === "time" ? cut(`${node.time}${many ? ` ×${node.times}` : ""}`, 15) : node.bound.replace("memory-", "") || "–"),
        make("text", { class: "small right", x: left + NODE - 8, y: top + 48 }, node.share),
      );
      [...new Set(node.leaves.map(([kind]) => kind))].forEach((kind, place) => {
        const at = left + NODE - 13 - place * 13;
        element.append(kind === "weight" ? make("rect", { class: "leaf", x: at - 4, y: top - 4, width: 8, height: 8 })
          : kind === "cache" ? make("path", { class: "leaf", d: `M${at} ${top - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z` })
            : make("circle", { class: "leaf", cx: at, cy: top, r: 4.4 }));
      });
      layer.append(element);
      this.places.set(key, { element, node, x, top, high: HIGH });
      this.listen(element, key, () => this.choose(this.chosen === key ? null : key));
    }

    listen(element, key, act) {
      element.addEventListener("click", () => { if (!this.dragged) { this.tip.hidden = true; act(); } });
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        act();
      });
      element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") this.point(key, element); });
      element.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    }

    // ---- size

    resize() {
      this.svg.setAttribute("width", Math.round(this.wide * this.scale));
      this.svg.setAttribute("height", Math.round(this.high * this.scale));
    }

    fit(whole) {
      const wide = this.stage.clientWidth / this.wide;
      this.scale = whole ? Math.max(0.12, Math.min(1, wide, (innerHeight * 0.8) / this.high)) : Math.max(0.68, Math.min(1, wide));
      this.resize();
      this.stage.scrollLeft = (this.stage.scrollWidth - this.stage.clientWidth) / 2;
    }

    zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
      const { stage } = this, before = this.scale;
      this.scale = Math.max(0.12, Math.min(3, before * factor));
      const grown = this.scale / before, left = (stage.scrollLeft + x) * grown - x, top = (stage.scrollTop + y) * grown - y;
      this.resize();
      stage.scrollLeft = left;
      stage.scrollTop = top;
    }

    reveal(key) {
      const place = this.places.get(key);
      if (!place) return;
      const { stage, scale } = this, box = this.svg.getBoundingClientRect(), frame = stage.getBoundingClientRect();
      const dx = box.x - frame.x + stage.scrollLeft, dy = box.y - frame.y + stage.scrollTop;
      stage.scrollTo({ left: dx + place.x * scale - stage.clientWidth / 2, top: dy + place.top * scale - stage.clientHeight / 3 });
    }

    // ---- choosing, marking, searching

    paint() {
      const { chosen, marked } = this;
      for (const [key, { element }] of this.places) {
        element.classList.toggle("chosen", key === chosen);
        element.classList.toggle("marked", Boolean(marked && marked.has(key)));
        element.classList.toggle("faded", Boolean(marked && !marked.has(key) && !(this.places.get(key).item && this.opened.has(Number(key)))));
      }
      this.svg.querySelectorAll(".edge").forEach((line) => line.classList.toggle("near", chosen !== null && (line.dataset.source === chosen || line.dataset.target === chosen)));
    }

    choose(key) {
      this.chosen = key;
      this.paint();
      if (key === null || !this.places.has(key)) this.overview();
      else {
        this.panel.replaceChildren(this.about(this.places.get(key), true));
        if (getComputedStyle(this.panel).position === "sticky") this.panel.scrollTop = 0;
      }
    }

    mark(keys) { this.marked = keys; this.paint(); }

    // Every node for which `fits` holds; groups that hold some are opened (the first of them) or marked themselves.
    select(fits, wholeGroups = null) {
      const keys = new Set();
      let first = null, operators = 0;
      this.graph.items.forEach((item, number) => {
        if (!item.nodes) {
          if (fits(item)) { keys.add(`${number}`); first = first ?? `${number}`; operators += 1; }
          return;
        }
        if (wholeGroups) {
          if (wholeGroups(item)) { keys.add(`${number}`); item.nodes.forEach((_, at) => keys.add(`${number}.${at}`)); first = first ?? `${number}`; operators += item.nodes.length; }
          return;
        }
        const found = item.nodes.flatMap((node, at) => (fits(node) ? [at] : []));
        if (found.length === 0) return;
        if (first === null || !this.opened.size) this.opened.add(number);
        keys.add(`${number}`);
        found.forEach((at) => keys.add(`${number}.${at}`));
        first = first ?? `${number}.${found[0]}`;
        operators += found.reduce((sum, at) => sum + item.nodes[at].times, 0);
      });
      this.marked = keys.size ? keys : null;
      this.draw();
      this.resize();
      if (first !== null) this.reveal(first);
      this.status.textContent = keys.size ? `${operators} ${operators === 1 ? "operator" : "operators"}` : "no match";
      return first;
    }

    find(text) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      if (words.length === 0) { this.status.textContent = ""; this.mark(null); return; }
      this.select((node) => {
        const all = `${node.op} ${node.name} ${node.fused.join(" ")} ${node.block} ${node.bound}`.toLowerCase();
        return words.every((word) => all.includes(word));
      });
    }

    // What a row of a table leads to: {phase, layer}, or {phase, nodes}, a list of {block, maybe op, maybe tensors}. The
    // graph that is shown, if it holds some of that, else the dearest that does; undefined: none.
    place({ phase, layer, nodes }) {
      const holds = layer !== undefined
        ? (graph) => graph.items.some((item) => (item.nodes ? item.numbers.includes(Number(layer)) : layer === "outside"))
        : (graph) => this.nodes(graph).some((node) => nodes.some((one) => like(node, one)));
      return [this.graph, ...this.data.graphs].find((graph) => graph.phase === phase && holds(graph));
    }

    nodes(graph) { return graph.items.flatMap((item) => item.nodes || [item]); }

    show(target) {
      const graph = this.place(target), { layer, nodes } = target;
      if (graph !== this.graph) this.turn(graph);
      this.search.value = "";
      const all = this.nodes(graph);
      const wanted = (nodes || []).map((one) => {
        const fits = all.some((node) => named(node, one)) ? named : like;
        return (node) => fits(node, one);
      });
      const first = layer !== undefined
        ? this.select((node) => layer === "outside" && !node.layers, (group) => group.numbers.includes(Number(layer)))
        : this.select((node) => wanted.some((fits) => fits(node)));
      this.root.closest("section").scrollIntoView();
      if (first !== null) {
        this.choose(first);
        this.reveal(first);
        this.places.get(first).element.focus({ preventScroll: true });
      }
    }

    // ---- words

    about({ node, item, number }, full) {
      const box = document.createDocumentFragment(), thing = node || item;
      box.append(html("b", node ? node.name || node.op : `${item.times > 1 ? "layers" : "layer"} ${item.layers}`));
      if (node) {
        box.append(html("div", `${node.op}${node.fused.length ? ` + ${node.fused.join(" + ")} (fused)` : ""}`));
        box.append(html("div", `${node.block}${node.layers ? ` · ${node.times > 1 ? "layers" : "layer"} ${node.layers}` : ""}`, "soft"));
      }
      for (const line of thing.lines) box.append(html("div", line));
      if (!node) {
        box.append(html("div", `${full ? "" : "Click: "}${this.opened.has(number) ? "shown as one layer" : "opens one layer"}`, "soft"));
        return box;
      }
      if (node.bound) box.append(html("div", `bound: ${node.bound}`));
      if (node.sources.length) box.append(html("div", `reads ${node.sources.join(", ")}`, "soft"));
      if (!full) {
        if (node.leaves.length) box.append(html("div", `and ${node.leaves.map(([, name]) => name).join(", ")}`, "soft"));
        return box;
      }
      const list = html("ul");
      for (const [kind, name, shape] of node.leaves) list.append(html("li", `${kind}: ${name || "unnamed"}, ${shape}`));
      if (node.leaves.length) box.append(list);
      const links = html("div", "", "links");
      for (const [text, row] of [["To its verdict", this.verdict(node)], ["To its row", this.row(node)]]) {
        if (!row) continue;
        const button = html("button", text, "button");
        button.type = "button";
        button.addEventListener("click", () => window.FlowprofTables.lead(row));
        links.append(button);
      }
      const timeline = document.querySelector("#timeline input[type=search]");
      if (timeline && node.name) {
        const button = html("button", "In the timeline", "button");
        button.type = "button";
        button.addEventListener("click", () => {
          timeline.value = node.name;
          timeline.dispatchEvent(new Event("input"));
          document.getElementById("time").scrollIntoView();
        });
        links.append(button);
      }
      box.append(links);
      return box;
    }

    rows(table, node) {
      return [...document.querySelectorAll(`#${table} tbody tr`)].filter(
        ({ dataset }) => dataset.op === node.op && dataset.block === node.block && dataset.phase === this.graph.phase,
      );
    }

    row(node) { return this.rows("operator-table", node)[0]; }

    verdict(node) {
      return this.rows("verdict-table", node).find(({ dataset }) => JSON.parse(dataset.tensors).includes(node.name));
    }

    // Nothing chosen: the costliest operators, each a way into the drawing.
    overview() {
      const all = [];
      this.graph.items.forEach((item, number) => {
        if (item.nodes) item.nodes.forEach((node, at) => all.push([node, `${number}.${at}`, number]));
        else all.push([item, `${number}`, null]);
      });
      all.sort((a, b) => b[0].cost - a[0].cost);
      const list = html("ol", "", "hot");
      for (const [node, key, number] of all.slice(0, 8)) {
        const line = html("li"), button = html("button");
        button.type = "button";
        const swatch = html("i", "", `swatch ${this.colour === "time" ? `heat${node.heat}` : `bound-${node.bound || "unknown"}`}`);
        button.append(swatch, html("span", node.name || node.op, "what"), html("span", `${node.time}${node.times > 1 ? ` ×${node.times}` : ""}`, "soft"), html("span", node.share, "right"));
        button.addEventListener("click", () => {
          if (number !== null && !this.opened.has(number)) { this.opened.add(number); this.draw(); this.resize(); }
          this.choose(key);
          this.reveal(key);
        });
        line.append(button);
        list.append(line);
      }
      this.panel.replaceChildren(html("h3", "Most time"), list, html("p", "Click an operator for its shape, times and sources.", "soft"));
    }

    point(key, element) {
      const place = this.places.get(key);
      if (!place || this.dragged && this.stage.classList.contains("drag")) return;
      const { tip, root } = this;
      tip.replaceChildren(this.about(place, false));
      tip.hidden = false;
      const box = element.getBoundingClientRect(), frame = root.getBoundingClientRect();
      const left = box.right + 10 - frame.x, fits = left + tip.offsetWidth < frame.width;
      tip.style.left = `${Math.max(4, fits ? left : box.x - frame.x - tip.offsetWidth - 10)}px`;
      const top = Math.min(place.node ? box.y : box.y + 4, innerHeight - tip.offsetHeight - 8) - frame.y;
      tip.style.top = `${Math.max(4, top)}px`;
    }

    legend() {
      const place = this.root.querySelector(".legend"), parts = [];
      const part = (swatch, text) => {
        const item = html("span");
        item.append(swatch, text);
        parts.push(item);
      };
      if (this.colour === "time") {
        parts.push(html("span", "share of the graph's time, all layers together:"));
        const { steps } = this.data, scale = html("span", "", "scale");
        for (let heat = 0; heat <= steps.length; heat++) {
          const text = heat === 0 ? `< ${percentages(steps[0])}` : heat === steps.length ? `≥ ${percentages(steps[heat - 1])} %` : `${percentages(steps[heat - 1])}`;
          scale.append(html("span", text, `swatch heat${heat}`));
        }
        parts.push(scale);
      } else {
        for (const bound of this.data.bounds) part(html("i", "", `swatch bound-${bound}`), bound);
      }
      for (const [sign, text] of [["■", "weight"], ["◆", "KV cache"], ["●", "input"], ["┄", "through the cache"]]) {
        part(html("i", sign, "sign"), text);
      }
      place.replaceChildren(...parts);
    }
  }

  window.FlowprofGraph = FlowprofGraph;
})();
