"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // Theme: the system's, until a reader chooses.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remember = (theme) => { try { localStorage.setItem("theme", theme); } catch { /* none */ } };
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const wear = (theme) => {
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    button.textContent = dark() ? "Light theme" : "Dark theme";
  };
  wear(remembered());
  button.hidden = false;
  system.addEventListener("change", () => wear());
  button.addEventListener("click", () => {
    wear(dark() ? "light" : "dark");
    remember(root.dataset.theme);
  });

  // What the page shows: a thing stays if it agrees with every choice that it knows of.
  const controls = document.getElementById("controls");
  const choices = all("select", controls);
  const fields = choices.map((choice) => choice.dataset.field);
  const chosen = all(fields.map((field) => `[data-${field}]`).join(",") || "nothing");
  const agrees = (thing) => choices.every(({ value, dataset: { field } }) =>
    !value || !(field in thing.dataset) || thing.dataset[field] === value);

  // The large table is narrowed further, by its own filters.
  const table = document.getElementById("rows");
  const rows = all("tbody tr", table);
  const find = document.getElementById("find");
  const selects = all("select[data-column]");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const found = (row) =>
    find.value.toLowerCase().split(/\s+/).every((word) => texts.get(row).includes(word)) &&
    selects.every(({ value, dataset: { column } }) => !value || row.dataset[column] === value);

  const show = () => {
    for (const thing of chosen) thing.hidden = !agrees(thing);
    for (const row of rows) row.hidden = !agrees(row) || !found(row);
    const left = rows.filter((row) => !row.hidden).length;
    document.getElementById("shown").textContent = `${left} of ${rows.length} rows`;
  };
  controls.hidden = !choices.length;
  for (const box of all(".filters")) box.hidden = false;
  for (const control of [...choices, ...selects]) control.addEventListener("change", show);
  find.addEventListener("input", show);
  controls.addEventListener("submit", (event) => event.preventDefault());
  show();

  // Sorting: numbers as numbers; what has none stays below.
  const key = (row, place, numeric) => {
    const cell = row.cells[place];
    if (!numeric) return cell.textContent.trim().toLowerCase();
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;
  };
  const compare = (numeric, sign) => ([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  const sort = (heading) => {
    const row = heading.parentElement;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const numeric = heading.dataset.type === "number";
    for (const other of row.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const place = [...row.cells].indexOf(heading);
    const body = heading.closest("table").tBodies[0];
    const keyed = [...body.rows].map((line) => [key(line, place, numeric), line]);
    keyed.sort(compare(numeric, descending ? -1 : 1));
    body.append(...keyed.map(([, line]) => line));
  };
  for (const heading of all(".sortable thead th")) {
    const inner = document.createElement("button");
    inner.type = "button";
    inner.append(...heading.childNodes);
    heading.append(inner);
    inner.addEventListener("click", () => sort(heading));
  }

  // Pointing out criteria: those that are pressed stand out everywhere.
  const chips = all("button.chip");
  const marked = all(".panels [data-series], tr[data-series]");
  const pressed = (chip) => chip.getAttribute("aria-pressed") === "true";
  const point = () => {
    const on = new Set(chips.filter(pressed)
      .map((chip) => chip.dataset.series));
    document.body.classList.toggle("pointed", on.size > 0);
    for (const mark of marked) mark.classList.toggle("on", on.has(mark.dataset.series));
  };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(!pressed(chip)));
      point();
    });
  }
})();
