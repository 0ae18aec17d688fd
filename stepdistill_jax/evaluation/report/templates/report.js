// The browser of examples. Every text goes in by textContent, so that nothing
// a model wrote can become markup.
"use strict";
const PAGE_SIZE = 50;
const rows = JSON.parse(document.getElementById("examples").textContent);
const list = document.getElementById("list");
const count = document.getElementById("count");
const fields = ["system", "benchmark", "outcome", "search"].map(
    (name) => document.getElementById(name));
const [system, benchmark, outcome, search] = fields;
let page = 0;

function fill(select, values) {
  for (const value of new Set(values)) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    select.append(option);
  }
}

function outcomeOf(row) {
  // Summaries and conversations are neither right nor wrong.
  if (row.metrics) return "text";
  if (row.correct) return "right";
  return row.parsed === null ? "unparsable" : "wrong";
}

function matches(row) {
  if (system.value && row.system !== system.value) return false;
  if (benchmark.value && row.benchmark !== benchmark.value) return false;
  const found = outcomeOf(row);
  if (outcome.value === "errors" && ["right", "text"].includes(found)) {
    return false;
  }
  if (!["", "errors"].includes(outcome.value) && found !== outcome.value) {
    return false;
  }
  const needle = search.value.trim().toLowerCase();
  return !needle || [row.id, row.input, row.target, row.prediction,
    row.rationale, row.teacher_rationale].some(
      (text) => (text || "").toLowerCase().includes(needle));
}

function entry(row) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const mark = document.createElement("span");
  const outcome = outcomeOf(row);
  mark.textContent = row.prediction === null ? "(no prediction)" :
      row.prediction.slice(0, 120) || "(empty)";
  if (outcome !== "text") {
    // The mark is drawn by the style sheet; a screen reader reads this.
    const word = outcome === "right" ? "right" : "wrong";
    mark.className = word;
    mark.setAttribute("aria-label", `${word}: ${mark.textContent}`);
  }
  const asked = document.createElement("span");
  asked.textContent = " — " + row.target + " — " + row.input.slice(0, 120);
  summary.append(mark, asked);
  const body = document.createElement("dl");
  for (const [name, value] of Object.entries(row)) {
    if (value === null || value === undefined) continue;
    if (outcome === "text" && ["correct", "parsed"].includes(name)) continue;
    const term = document.createElement("dt");
    term.textContent = name.replaceAll("_", " ");
    const text = document.createElement("dd");
    text.textContent = name !== "metrics" ? String(value) :
        Object.entries(value).map(([metric, score]) =>
            `${metric} ${Number(score.toFixed(3))}`).join(", ");
    body.append(term, text);
  }
  details.append(summary, body);
  return details;
}

function show() {
  const found = rows.filter(matches);
  const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const start = page * PAGE_SIZE;
  list.replaceChildren(
      ...found.slice(start, start + PAGE_SIZE).map(entry));
  count.textContent = `${found.length} of ${rows.length} examples, page ` +
      `${page + 1} of ${pages}`;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page === pages - 1;
}

function turn(by) {
  page += by;
  show();
}

fill(system, rows.map((row) => row.system));
fill(benchmark, rows.map((row) => row.benchmark));
if (!rows.some(matches)) outcome.value = "";
for (const field of fields) {
  field.addEventListener("input", () => { page = 0; show(); });
}
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
document.getElementById("filters").addEventListener(
    "submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(
      event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "Escape") {
      // A browser would empty the field, and leave the list filtered by it.
      event.preventDefault();
      event.target.blur();
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "n") {
    turn(1);
  } else if (event.key === "p") {
    turn(-1);
  } else if (event.key === "j" || event.key === "k") {
    const all = [...list.querySelectorAll("summary")];
    const at = all.indexOf(document.activeElement);
    const to = at + (event.key === "j" ? 1 : -1);
    if (all.length) all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  }
});
show();
