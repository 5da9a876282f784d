// Words for times and names, as the tables of the page have them (quantity.py).
"use strict";
(() => {
  function duration(ns) {
    const three = (value) => (value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2));
    if (ns < 999.5) return `${Math.round(ns)} ns`;
    if (ns < 999.5e3) return `${three(ns / 1e3)} µs`;
    if (ns < 999.5e6) return `${three(ns / 1e6)} ms`;
    return `${three(ns / 1e9)} s`;
  }

  function tickText(ns, step) {
    const [size, unit] = step >= 1e9 ? [1e9, "s"] : step >= 1e6 && ns < 10e9 ? [1e6, "ms"] : step >= 1e6 ? [1e9, "s"]
      : step >= 1e3 && ns < 10e6 ? [1e3, "µs"] : step >= 1e3 ? [1e6, "ms"] : ns < 10e3 ? [1, "ns"] : [1e3, "µs"];
    const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
    return `${(ns / size).toFixed(Math.min(6, digits))} ${unit}`;
  }

  // A kernel of a template by its own name: what it returns and where it is declared takes all the room of a bar.
  const brief = (name) => (name.startsWith("void ") ? name.slice(5).replace(/^(?:(?:\w+|\(anonymous namespace\))::)+/, "") : name);

  window.FlowprofWords = { duration, tickText, brief };
})();
