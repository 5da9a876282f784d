// After the first paint: unpack the timeline, then plotly and the charts. Whatever fails leaves the tables as they are.
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
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (Array.isArray(value)) return value.map(resolved);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item)]));
    }
    return value;
  };

  function draw(place, figure) {
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, fixedrange: true };
    const asked = resolved(figure.layout);
    const layout = {
      height: 236, margin: { l: 44, r: 22, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("--soft-ink") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      ...asked,
      xaxis: { ...axis, ...(asked.xaxis || {}), title: { ...((asked.xaxis || {}).title || {}), font: { size: 12.5 }, standoff: 8 } },
      yaxis: { ...axis, ...(asked.yaxis || {}) },
    };
    return window.Plotly.react(place, resolved(figure.data), layout, { displayModeBar: false, responsive: true });
  }

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
    const all = () => Promise.all(places.map((place) => draw(place, figures[place.dataset.chart])));
    await all();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  }

  // ---- in order

  async function start() {
    await afterPaint();
    if (typeof DecompressionStream === "undefined") {
      fallback("This browser cannot unpack the timeline and the charts (it lacks DecompressionStream); the tables are complete.");
      document.querySelectorAll("[data-charts]").forEach((card) => { card.hidden = true; });
      return;
    }
    const root = byId("timeline");
    try {
      if (root) {
        const description = parsed("timeline-description");
        const begun = performance.now();
        const buffer = await unpacked("timeline-arrays");
        note.timeline = new window.FlowprofTimeline(root, description, buffer);
        note.timelineReady = performance.now();
        note.unpackMs = note.timelineReady - begun;
      }
    } catch (error) {
      fallback(`The timeline could not be drawn: ${error.message}`);
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
