// The items of a timeline's lane on its canvas. `view` is the timeline: its stretch of time, size and colours.
"use strict";
(() => {
  const { BLOCK, classOf, waited, endOf, firstAfter } = window.FlowprofLanes, { brief } = window.FlowprofWords;

  // Few items: each is a box, its wait lighter, its name inside where there is room.
  function drawItems(view, c, lane, i0, i1) {
    const { y } = lane;
    const colours = view.palette[lane.type], kinds = view.description.kinds;
    c.textBaseline = "middle";
    c.font = `12px ${view.font}`;
    for (let i = i0; i < i1; i++) {
      const x0 = view.x(lane.start[i]), x1 = view.x(endOf(lane, i));
      if (x1 < 0) continue;
      const wide = x1 - x0, left = Math.max(x0, -2), right = Math.min(x1, view.width + 2), gap = wide > 8 ? 0.8 : 0;
      c.fillStyle = colours[classOf(lane, i, kinds)];
      c.fillRect(left, y, Math.max(0.7, right - left - gap), lane.high);
      const wait = waited(lane, i);
      if (wait > 0.004) {
        const from = Math.max(left, x1 - wide * wait);
        c.fillStyle = colours[colours.length - 1];
        c.fillRect(from, y, Math.max(0, right - from - gap), lane.high);
      }
      const room = Math.min(right, view.width) - Math.max(left, 0) - 8;
      if (room > 34 && lane.type !== "states") {
        const operator = lane.type === "operators" ? kinds[lane.kind[i]] : null;
        const text = operator ? brief(operator[1]) || operator[0]
          : `${view.description.phases[lane.kind[i]]} · ${lane.tokens[i]} ${lane.tokens[i] === 1 ? "token" : "tokens"}`;
        c.save();
        c.beginPath(); c.rect(Math.max(left, 0), y, room + 6, lane.high); c.clip();
        c.fillStyle = "#fff";
        c.shadowColor = "rgba(0,0,0,.55)"; c.shadowBlur = 2;
        c.fillText(text, Math.max(left, 0) + 5, y + lane.high / 2 + 0.5);
        c.restore();
      }
    }
  }

  // Many items: per pixel column, the time of every class, stacked from below.
  function drawColumns(view, c, lane, i0, i1) {
    const { y } = lane;
    const w = view.canvas.width, h = Math.round(lane.high * view.ratio), classes = lane.classes, scale = w / (view.t1 - view.t0);
    const size = w * classes;
    if (!view.sums || view.sums.length < size) view.sums = new Float32Array(size);
    const acc = view.sums;
    acc.fill(0, 0, size);
    const spread = (start, end, put) => {
      const x0 = (start - view.t0) * scale, x1 = (end - view.t0) * scale;
      const first = Math.max(0, Math.floor(x0)), last = Math.min(w - 1, Math.floor(x1));
      if (last < 0 || first >= w) return;
      if (first >= last) { put(Math.min(first, w - 1) * classes, x1 - x0); return; }
      for (let x = first; x <= last; x++) put(x * classes, Math.min(x1, x + 1) - Math.max(x0, x), x1 - x0);
    };
    if (i1 - i0 > 8 * BLOCK * 64) {
      const sums = lane.sums;
      for (let b = (i0 / BLOCK) | 0, stop = Math.ceil(i1 / BLOCK); b < stop; b++) {
        const a = b * BLOCK, z = Math.min(a + BLOCK, lane.length) - 1, base = b * classes;
        const start = lane.start[a], end = endOf(lane, z), whole = end - start || 1;
        spread(start, end, (column, part, width = part) => {
          const share = width > 0 ? (part / width) * scale : 0;
          for (let k = 0; k < classes; k++) acc[column + k] += sums[base + k] * share;
        }, whole);
      }
    } else {
      const kinds = view.description.kinds, last = classes - 1;
      for (let i = i0; i < i1; i++) {
        const own = classOf(lane, i, kinds), wait = waited(lane, i), start = lane.start[i];
        spread(start, endOf(lane, i), (column, part) => {
          acc[column + own] += part * (1 - wait);
          if (wait) acc[column + last] += part * wait;
        });
      }
    }
    let image = view.images.get(h);
    if (!image) view.images.set(h, (image = c.createImageData(w, h)));
    const pixels = new Int32Array(image.data.buffer), words = view.words[lane.type];
    const least = lane.type === "states" ? Math.round(2 * view.ratio) : 0; // rows that even a short stretch gets
    pixels.fill(view.laneWord);
    for (let x = 0; x < w; x++) {
      let level = 0, row = h;
      for (let k = 0; k < classes; k++) {
        const part = acc[x * classes + k];
        if (part <= 0) continue;
        level = Math.min(1, level + part);
        const to = Math.min(row - least, h - Math.round(level * h));
        for (; row > to && row > 0; row--) pixels[(row - 1) * w + x] = words[k];
      }
    }
    c.putImageData(image, 0, Math.round(y * view.ratio));
  }

  // Search results: the rest fades, each match keeps at least one pixel.
  function drawMatches(view, c, lane) {
    const { y } = lane;
    c.globalAlpha = 0.72;
    c.fillStyle = view.laneColour;
    c.fillRect(0, y, view.width, lane.high);
    c.globalAlpha = 1;
    c.fillStyle = view.mark;
    const { matches } = lane, step = (view.t1 - view.t0) / view.width;
    let low = 0, high = matches.length;
    const from = Math.max(0, firstAfter(lane.start, view.t0) - 1);
    while (low < high) { const m = (low + high) >> 1; if (matches[m] >= from) high = m; else low = m + 1; }
    for (let m = low; m < matches.length;) {
      const i = matches[m], start = lane.start[i];
      if (start > view.t1) break;
      const x0 = view.x(start), x1 = view.x(endOf(lane, i));
      c.fillRect(x0, y, Math.max(1, x1 - x0 - (x1 - x0 > 4 ? 0.8 : 0)), lane.high);
      if (x1 - x0 >= 1) { m++; continue; }
      // skip what falls on the same pixel
      const next = view.t0 + (Math.floor(x0) + 1) * step;
      let a = m + 1, z = matches.length;
      while (a < z) { const k = (a + z) >> 1; if (lane.start[matches[k]] >= next) z = k; else a = k + 1; }
      m = a;
    }
  }

  window.FlowprofLaneDrawing = { drawItems, drawColumns, drawMatches };
})();
