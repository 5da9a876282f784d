// After the first paint: unpack the timeline, the graph, then plotly and the charts. Whatever fails leaves the tables as they are.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const parsed = (id) => JSON.parse(byId(id).textContent);
  const afterPaint = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go, 0)));
  const note = (window.flowprof = { started: performance.now() });

  async function unpacked(id) {
    const text = byId(id).textContent.trim();
    let bytes;
    if (Uint8Array.fromBase64) {
      bytes = Uint8Array.fromBase64(text);
    } else {
      const raw = atob(text);
      bytes = new Uint8Array(raw.length);
      for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    }
    byId(id).textContent = "";
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function fallback(words) {
    const place = document.querySelector("[data-fallback]");
    if (place) { place.textContent = words; place.hidden = false; }
  }

  // ---- charts

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const resolved = (value) => {
    if (typeof value === "string") return (/^--[a-z][a-z0-9-]*$/.test(value) && colour(value)) || value;
    if (Array.isArray(value)) return value.map(resolved);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item)]));
    }
    return value;
  };

  // Room in pixels for labels beside the lines, by a wider range of the (logarithmic) axis; short labels where it is narrow.
  function widened(layout, zone, width) {
    const narrow = width < zone.below, left = narrow && zone.left ? zone.narrow : zone.left, right = narrow && zone.right ? zone.narrow : zone.right;
    const inside = Math.max(120, width - layout.margin.l - layout.margin.r), [from, to] = layout.xaxis.range;
    const pixel = (to - from) / Math.max(80, inside - left - right);
    return {
      ...layout,
      xaxis: { ...layout.xaxis, range: [from - left * pixel, to + right * pixel] },
      annotations: layout.annotations.map(({ short, ...note }) => (narrow ? { ...note, text: short } : note)),
    };
  }

  function draw(place, chart) {
    const figure = chart.by ? chart.by[chosen(place)] : chart;
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, fixedrange: true };
    const plain = resolved(figure.layout), asked = figure.zone ? widened(plain, figure.zone, place.clientWidth) : plain;
    const layout = {
      height: 236, margin: { l: 44, r: 22, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("--soft-ink") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      ...asked,
      xaxis: { ...axis, ...(asked.xaxis || {}), title: { ...((asked.xaxis || {}).title || {}), font: { size: 12.5 }, standoff: 8 } },
      yaxis: { ...axis, ...(asked.yaxis || {}) },
    };
    place.style.minHeight = `${layout.height}px`;
    return window.Plotly.react(place, resolved(figure.data), layout, { displayModeBar: false, responsive: true });
  }

  // A chart with a figure for each phase: what its buttons say.
  const choice = (place) => document.querySelector(`[data-choose="${place.dataset.chart}"]`);
  const chosen = (place) => (choice(place).querySelector("input:checked") || choice(place).querySelector("input")).value;

  async function charts() {
    const figures = parsed("charts-data");
    const places = [...document.querySelectorAll("[data-chart]")].filter((place) => figures[place.dataset.chart]);
    if (places.length === 0) return;
    if (!byId("plotly-source").textContent.trim()) {
      document.querySelectorAll("[data-charts]").forEach((card) => { card.hidden = true; });
      return;
    }
    const script = document.createElement("script");
    script.nonce = document.querySelector("script[nonce]").nonce;
    script.textContent = new TextDecoder().decode(await unpacked("plotly-source"));
    document.head.append(script);
    const one = (place) => draw(place, figures[place.dataset.chart]);
    const all = () => Promise.all(places.map(one));
    await all();
    for (const place of places) {
      if (choice(place)) choice(place).addEventListener("change", () => one(place));
      let width = place.clientWidth;
      // One in a closed part of the page has no width until that is opened.
      new ResizeObserver(() => { if (place.clientWidth && place.clientWidth !== width) { width = place.clientWidth; one(place); } }).observe(place);
    }
    for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", all);
  }

  // On paper everything is open but the verdicts' evidence, whose first line is there.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open], td details)")];
    closed.forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((one) => { one.open = false; }); closed = []; });

  // ---- in order

  async function start() {
    await afterPaint();
    if (typeof DecompressionStream === "undefined") {
      fallback("This browser cannot unpack the timeline and the charts (it lacks DecompressionStream); the tables are complete.");
      document.querySelectorAll("[data-charts]").forEach((card) => { card.hidden = true; });
      return;
    }
    try {
      for (const root of document.querySelectorAll(".timeline")) {
        const description = parsed(`${root.id}-description`);
        const begun = performance.now();
        const buffer = await unpacked(`${root.id}-arrays`);
        const drawn = new window.FlowprofTimeline(root, description, buffer);
        note.timeline = note.timeline || drawn;
        note.timelineReady = performance.now();
        note.unpackMs = note.timelineReady - begun;
      }
    } catch (error) {
      fallback(`The timeline could not be drawn: ${error.message}`);
      note.error = String(error);
    }
    try {
      const place = byId("graph-view");
      if (place) {
        note.graph = new window.FlowprofGraph(place, parsed("graph-data"));
        window.FlowprofTables.connect(note.graph);
      }
    } catch (error) {
      byId("graph-view").textContent = `The graph could not be drawn: ${error.message}`;
      note.error = String(error);
    }
    try {
      const place = byId("flame");
      if (place) note.flame = new window.FlowprofFlame(place, parsed("flame-data"), document.querySelector("[data-choose=flame]"));
    } catch (error) {
      byId("flame").textContent = `The flame graph could not be drawn: ${error.message}`;
      note.error = String(error);
    }
    await afterPaint();
    try {
      await charts();
      note.chartsReady = performance.now();
    } catch (error) {
      document.querySelectorAll("[data-charts]").forEach((card) => { card.hidden = true; });
      note.error = String(error);
    }
    note.ready = true;
    document.documentElement.dataset.ready = "true";
  }

  start();
})();
