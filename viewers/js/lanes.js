// Lanes of the timeline as arrays, unpacked from packing.py: all times in units since the recording's first event.
// Sums over blocks of items are made once, so that a wide view adds up these instead of a million items.
"use strict";
(() => {
  const BLOCK = 64; // items whose sums are kept

  function planes(bytes, [offset, length, width], Kind) {
    if (width === 1) return bytes.slice(offset, offset + length);
    const out = new Kind(length);
    for (let plane = 0; plane < width; plane++) {
      const from = offset + plane * length, shift = plane * 8;
      for (let i = 0; i < length; i++) out[i] |= bytes[from + i] << shift;
    }
    return out;
  }

  function unpackLane(bytes, lane, description) {
    const gap = planes(bytes, lane.gap, Uint32Array), dur = planes(bytes, lane.dur, Uint32Array);
    const unit = description.unit, length = gap.length, start = new Float64Array(length);
    const jumps = new Map(lane.jumps);
    let at = 0;
    for (let i = 0; i < length; i++) {
      at += gap[i];
      if (jumps.size && jumps.has(i)) at += jumps.get(i);
      start[i] = at * unit;
      at += dur[i];
    }
    const numbers = (place) => planes(bytes, place, place[2] === 4 ? Uint32Array : Uint16Array);
    const classes = { operators: description.blocks.length + 1, graphs: description.phases.length, states: description.states.length };
    const unpacked = {
      type: lane.type, label: lane.label, thread: lane.thread, length, start, dur, unit, kind: numbers(lane.kind), classes: classes[lane.type],
      compute: lane.compute ? planes(bytes, lane.compute, Uint8Array) : null,
      tokens: lane.tokens ? planes(bytes, lane.tokens, Uint32Array) : null,
      by: lane.by ? numbers(lane.by) : null,
      flowLane: lane.flow_lane ? planes(bytes, lane.flow_lane, Uint16Array) : null,
      flowItem: lane.flow_item ? planes(bytes, lane.flow_item, Uint32Array) : null,
      under: Boolean(lane.under),
      matches: null,
    };
    unpacked.sums = blockSums(unpacked, description);
    return unpacked;
  }

  // The class of an item: an operator's block or a graph's phase. The last class of an operator lane is waiting.
  const classOf = (lane, i, kinds) => (lane.type === "operators" ? kinds[lane.kind[i]][2] : lane.kind[i]);
  const waited = (lane, i) => (lane.compute && lane.compute[i] !== 255 ? 1 - lane.compute[i] / 254 : 0);

  function blockSums(lane, description) {
    const count = Math.ceil(lane.length / BLOCK), sums = new Float32Array(count * lane.classes);
    const kinds = description.kinds.map((kind) => kind[2]);
    const operators = lane.type === "operators", last = lane.classes - 1;
    for (let i = 0; i < lane.length; i++) {
      const base = ((i / BLOCK) | 0) * lane.classes, time = lane.dur[i] * lane.unit;
      if (operators) {
        const c = lane.compute[i], wait = c === 255 ? 0 : time * (1 - c / 254);
        sums[base + kinds[lane.kind[i]]] += time - wait;
        sums[base + last] += wait;
      } else {
        sums[base + lane.kind[i]] += time;
      }
    }
    return sums;
  }

  const endOf = (lane, i) => lane.start[i] + lane.dur[i] * lane.unit;

  function firstAfter(starts, time) { // first index with start > time
    let low = 0, high = starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle] > time) high = middle; else low = middle + 1;
    }
    return low;
  }

  // A thread's states go under its operators; a thread without operators gets a lane of its own.
  function arranged(lanes) {
    const rest = new Set(lanes.filter((lane) => lane.type === "states")), out = [];
    for (const lane of lanes) {
      if (lane.type === "states") continue;
      out.push(lane);
      for (const states of rest) if (lane.thread !== undefined && states.thread === lane.thread) { states.under = true; out.push(states); rest.delete(states); }
    }
    return [...out, ...rest];
  }

  window.FlowprofLanes = { BLOCK, unpackLane, arranged, classOf, waited, endOf, firstAfter };
})();
