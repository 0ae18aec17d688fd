// The sheet of pairs. Every text goes in by textContent, so that nothing a
// model wrote can become markup.
"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const element = (id) => document.getElementById(id);
const grader = element("grader");
const comment = element("comment");
const buttons = document.querySelectorAll("[data-verdict]");
const NOT_KEPT = " This browser keeps nothing: save before you leave the page.";
const kept = read();
const graded = kept.graded || {};
let at = kept.at || 0;
grader.value = kept.grader || "";

// A browser may forbid pages to keep anything.
function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY) || "{}");
  } catch {
    return {};
  }
}

function keep() {
  try {
    localStorage.setItem(
        KEY, JSON.stringify({graded, at, grader: grader.value}));
  } catch {
    const progress = element("progress");
    if (!progress.textContent.endsWith(NOT_KEPT)) {
      progress.textContent += NOT_KEPT;
    }
  }
}

function show() {
  const row = rows[at];
  const said = graded[row.item] || {};
  element("title").textContent = `Pair ${at + 1} of ${rows.length}`;
  for (const name of ["question", "answer_1", "answer_2"]) {
    element(name).textContent = row[name] || "(empty)";
  }
  comment.value = said.comment || "";
  for (const button of buttons) {
    button.setAttribute(
        "aria-pressed", button.dataset.verdict === said.verdict);
  }
  const done = rows.filter((r) => (graded[r.item] || {}).verdict).length;
  element("progress").textContent =
      `${done} of ${rows.length} pairs are graded.`;
  keep();
}

function go(to) {
  at = Math.min(Math.max(to, 0), rows.length - 1);
  show();
}

function nextUngraded() {
  const left = rows.map((row, i) => i).filter(
      (i) => !(graded[rows[i].item] || {}).verdict);
  go(left.find((i) => i > at) ?? left[0] ?? at);
}

function choose(verdict) {
  graded[rows[at].item] = {verdict, comment: comment.value};
  show();
  nextUngraded();
}

function quoted(value) {
  return `"${String(value ?? "").replaceAll('"', '""')}"`;
}

function save() {
  if (!grader.reportValidity()) return;
  const lines = rows.map((row) => COLUMNS.map((name) => quoted(
      name === "grader" ? grader.value.trim() :
      row[name] ?? (graded[row.item] || {})[name])).join(","));
  const text = "\ufeff" + [COLUMNS.join(","), ...lines].join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = `verdicts_${grader.value.trim().replace(
      /[^\p{L}\p{N}]+/gu, "_")}.csv`;
  link.click();
}

for (const button of buttons) {
  button.addEventListener("click", () => choose(button.dataset.verdict));
}
element("previous").addEventListener("click", () => go(at - 1));
element("next").addEventListener("click", () => go(at + 1));
element("save").addEventListener("click", save);
grader.addEventListener("input", keep);
comment.addEventListener("input", () => {
  graded[rows[at].item] = {...graded[rows[at].item], comment: comment.value};
  keep();
});
document.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey ||
      event.altKey) {
    return;
  }
  const actions = {
    "1": () => choose("first"), "2": () => choose("second"),
    "0": () => choose("tie"), j: () => go(at + 1), k: () => go(at - 1),
    u: nextUngraded};
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
});
show();
