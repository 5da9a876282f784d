// Tables: sort by a click on a heading, filter by words, lead to the graph. Without this script they are plain tables.
"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim().toLowerCase();
  };

  // What says more of a row is in a row of its own under it, and goes with it.
  const rowsOf = (table) => [...table.tBodies[0].rows].filter((row) => !row.classList.contains("under"));
  const under = (row) => (row.nextElementSibling && row.nextElementSibling.classList.contains("under") ? [row.nextElementSibling] : []);

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const numeric = table.tBodies[0].rows.length > 0 && typeof value(table.tBodies[0].rows[0], column) === "number";
        const now = head.getAttribute("aria-sort");
        const up = now === "none" ? !numeric : now === "descending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = rowsOf(table);
        const keys = new Map(rows.map((row) => [row, value(row, column)]));
        rows.sort((a, b) => {
          const x = keys.get(a), y = keys.get(b);
          return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
        });
        table.tBodies[0].append(...rows.flatMap((row) => [row, ...under(row)]));
      });
    });
  }

  function filter(input) {
    const table = document.getElementById(input.dataset.filter);
    if (!table) return;
    input.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rowsOf(table)) {
        const whole = [row, ...under(row)], text = whole.map((part) => part.textContent).join(" ").toLowerCase();
        whole.forEach((part) => { part.hidden = !words.every((word) => text.includes(word)); });
      }
    });
  }

  // Once the graph is drawn: rows whose operators are in it lead there, by a click or by the button in their first cell
  // (but one that unfolds: a button swallows that).
  function connect(graph) {
    for (const row of document.querySelectorAll("tr[data-phase]")) {
      const { phase, layer, op, block, tensors, nodes } = row.dataset;
      const one = { op, block, tensors: tensors ? JSON.parse(tensors) : null };
      const target = { phase, layer, nodes: nodes ? JSON.parse(nodes) : [one] };
      if (!graph.place(target)) continue;
      const cell = [...row.cells].find((one) => !one.querySelector("details")), button = document.createElement("button");
      button.type = "button";
      button.className = "lead";
      button.title = "Show in the graph";
      button.append(...cell.childNodes);
      cell.append(button);
      row.classList.add("leads");
      row.addEventListener("click", (event) => {
        if (String(getSelection()) === "" && !event.target.closest("details, a")) graph.show(target);
      });
    }
  }

  // To a row, wherever the filter or the sorting left it.
  function lead(row) {
    const table = row.closest("table"), input = document.querySelector(`input[data-filter="${table.id}"]`);
    if (row.hidden && input) { input.value = ""; input.dispatchEvent(new Event("input")); }
    document.querySelectorAll("tr.hit").forEach((other) => other.classList.remove("hit"));
    row.classList.add("hit");
    row.scrollIntoView({ block: "center" });
    const button = row.querySelector("button");
    if (button) button.focus({ preventScroll: true });
  }

  window.FlowprofTables = { connect, lead };
  document.querySelectorAll("table[data-sortable]").forEach(sortable);
  document.querySelectorAll("input[data-filter]").forEach(filter);
})();
