"""The tables of a report, once, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

from stepdistill_jax.evaluation import effect

Row = Mapping[str, Any]
# A value's key, a key with a format, or a function of the row.
Column = str | tuple[str, Callable[[Any], str]] | Callable[[Any], Any]
MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Table:
  """A titled table of strings.

  Attributes:
    title: above it.
    header: names of the columns.
    rows: cells, one for each column.
    note: a line below it; empty for none.
  """

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  note: str = ""

  def columns(self, kept: Sequence[int], title: str = "") -> Table:
    """The table with some of its columns alone."""
    pick = lambda cells: tuple(cells[i] for i in kept)
    return Table(title or self.title, pick(self.header),
                 tuple(map(pick, self.rows)), self.note)


def make(title: str, rows: Iterable[Any], columns: Mapping[str, Column],
         note: str = "") -> Table:
  """A table with a row for each of `rows`.

  Args:
    title: above it.
    rows: mappings, or whatever the columns' functions take.
    columns: header to where its cells come from; None becomes `–`.
    note: a line below it.
  """
  def cell(row: Any, column: Column) -> str:
    if callable(column):
      value = column(row)
    elif isinstance(column, str):
      value = row[column]
    else:
      value = column[1](row[column[0]])
    return MISSING if value is None else str(value)

  return Table(title, tuple(columns), tuple(
      tuple(cell(row, column) for column in columns.values())
      for row in rows), note)


def percent(value: float | None) -> str:
  """A share as a percentage with two digits, as the papers print it."""
  return MISSING if value is None else f"{100 * value:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
  """An interval of shares, in percent."""
  if not bounds:
    return MISSING
  return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def points(bounds: Sequence[float] | None) -> str:
  """An interval of differences, in signed percentage points."""
  if not bounds:
    return MISSING
  return f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"


def number(value: float | None, digits: int = 2) -> str:
  """A number with separators; `–` for None."""
  if value is None:
    return MISSING
  if isinstance(value, int):
    return f"{value:,}"
  return f"{value:,.{digits}f}"


def scientific(value: float | None) -> str:
  """A count as 1.23e+09; `–` for None."""
  return MISSING if value is None else f"{value:.2e}"


def p_value(value: float | None) -> str:
  """A p-value with three digits, small ones as a bound."""
  if value is None:
    return MISSING
  return "<0.001" if value < 0.001 else f"{value:.3f}"


_SYSTEM: Mapping[str, Column] = {
    "benchmark": "benchmark", "system": "name", "mode": "mode"}
_SCORES: Mapping[str, Column] = {
    "correct": "correct", "accuracy %": ("accuracy", percent),
    "95%": ("ci95", interval)}


def _trained(rows: Sequence[Row]) -> dict[str, Column]:
  """A column of students' methods, where one learned synthetic data."""
  methods = [trained_on(s) for s in rows]
  return {"trained on": trained_on} if any(
      method and method.startswith("synthetic") for method in methods) else {}


def trained_on(summary: Row) -> str | None:
  """A student's method, such as `synthetic_vanilla`, or `untrained`."""
  return (summary.get("method") or {}).get("trained")


def accuracy(results: Row) -> Table:
  """The main table: a row for each system and benchmark."""
  rows = [s for s in _in_order(results["systems"]) if not s.get("text_metrics")]
  return make("Label accuracy", rows, {
      **_SYSTEM, **_trained(rows), "n": "n", "correct": "correct",
      "accuracy %": ("accuracy", percent), "95% (Wilson)": ("ci95", interval),
      "95% (bootstrap)": ("bootstrap_ci95", interval),
      "unparsable": "unparsable", "missing": "missing"},
      f"rules: {results['config']['rules']}; unparsable and missing answers "
      "count as wrong")


def texts(results: Row, *, intervals: bool = True) -> Iterator[Table]:
  """Metrics of free texts: one table a benchmark.

  Args:
    results: of a call.
    intervals: leave them out where there is no room.
  """
  for benchmark, rows in itertools.groupby(
      (s for s in _in_order(results["systems"]) if s.get("text_metrics")),
      key=lambda s: s["benchmark"]):
    rows = list(rows)
    names = list(dict.fromkeys(itertools.chain.from_iterable(
        s["text_metrics"]["values"] for s in rows)))
    by = rows[0]["text_metrics"]["entities_by"]
    yield make(f"Texts: {benchmark}", rows, {
        "system": "name", **_trained(rows), "n": "n",
        **{name.replace("entity_", ""): functools.partial(
            _metric, name, intervals) for name in names},
        "missing": "missing", "empty": "empty"},
        f"means{' with bootstrap intervals' if intervals else ''}, in percent "
        "but for words; ROUGE and chrF against "
        f"{rows[0]['text_metrics'].get('references', 'the label')}; "
        f"{rows[0]['metric']} is what systems are compared by; a "
        "missing answer has the metrics of an empty one"
        + (f"; entities by {by}" if "entity_density" in names else ""))


def _metric(name: str, intervals: bool, summary: Row) -> str | None:
  value = summary["text_metrics"]["values"].get(name)
  if value is None:
    return None
  scale = 1 if name == "words" else 100
  low, high = value["ci95"]
  return f"{scale * value['mean']:.1f}" + (
      f" ({scale * low:.1f} to {scale * high:.1f})" if intervals else "")


def quality(summary: Row) -> tuple[str, float, Sequence[float]]:
  """What a system is compared by: the metric, its mean and its interval."""
  metric = summary.get("metric", "accuracy")
  if metric == "accuracy":
    return metric, summary["accuracy"], summary["ci95"]
  value = summary["text_metrics"]["values"][metric]
  return metric, value["mean"], value["ci95"]


def variants(results: Row) -> Table:
  """Accuracy under other readings, e.g. CQA by letter."""
  rows = [{**s, **v, "reading": name}
          for s in _in_order(results["systems"])
          for name, v in s["variants"].items()]
  return make("Other readings of the same answers", rows, {
      "benchmark": "benchmark", "system": "name", "reading": "reading",
      **_SCORES})


def comparisons(results: Row) -> Table:
  """Paired tests between systems."""
  return make("Pairs of systems on the same examples", results["comparisons"], {
      "benchmark": "benchmark", "mode": "mode",
      "metric": lambda c: c.get("metric", "accuracy"),
      "difference of": lambda c: f"{c['first']} − {c['second']}",
      "points": lambda c: f"{100 * c['difference']:+.2f}",
      "95% (paired)": ("ci95", points),
      "only first / only second":
          lambda c: f"{c['only_first']} / {c['only_second']}",
      "McNemar p": ("mcnemar_p", p_value),
      "bootstrap p": ("bootstrap_p", p_value), "Holm p": ("holm_p", p_value),
      "verdict": lambda c: "differs" if c["significant"] else "within noise"},
      "exact McNemar test (of metrics of texts the paired bootstrap's p), "
      "corrected by Holm over this table; 'within noise': "
      "corrected p is 0.05 or more")


def seeds(results: Row) -> Table:
  """Means over runs that differ only in their seed, see `effect`."""
  join = lambda values: ", ".join(map(str, values))
  return make("Means over seeds", results["seeds"], {
      "benchmark": "benchmark", "mode": "mode", "method": "method",
      "step": ("steps", join), "seeds": "n_seeds", "mean %": ("mean", percent),
      "standard error": ("standard_error", percent), "95%": ("ci95", interval),
      "runs": ("systems", join)}, effect.HOW)


def rationales(results: Row) -> Table:
  """Rationales against the teacher's, the question and the label."""
  rows = [{**s, **s["rationales"]} for s in _in_order(results["systems"])
          if s["rationales"]]
  three = lambda value: number(value, 3)
  return make("Rationales", rows, {
      "benchmark": "benchmark", "system": "name", "n": "n",
      "ROUGE-L": ("rouge_l", three),
      "words in teacher's": ("overlap_with_teacher", three),
      "words in question": ("input_overlap", three),
      "length (words)": ("words", lambda value: number(value, 1)),
      "agrees with its label % (of)":
          lambda r: f"{percent(r['agreement'])} ({r['n_stated']})",
      "perplexity of teacher's": ("perplexity", number)})


def calibration(results: Row) -> Table:
  """Expected calibration error of label scores."""
  rows = [{**s, **s["calibration"]} for s in _in_order(results["systems"])
          if s["calibration"]]
  four = lambda value: number(value, 4)
  return make("Calibration of label scores", rows, {
      **_SYSTEM, "n": "n", "ECE": ("ece", four),
      "mean score": ("mean_score", four), "accuracy %": ("accuracy", percent)},
      "ECE over 10 bins of equal width")


def classes(results: Row) -> Iterator[Table]:
  """One confusion matrix a system, for benchmarks with fixed labels."""
  for s in _in_order(results["systems"]):
    table = s["by_class"]
    if not table:
      continue
    rows = [{**c, **dict(zip(map(repr, table["labels"]), counts))}
            for c, counts in zip(table["classes"], table["confusion"])]
    yield make(f"Classes: {s['benchmark']}, {label_of(s)}", rows, {
        "gold \\ predicted": "label",
        **{label: repr(label) for label in table["labels"]}, "n": "n",
        "accuracy %": ("accuracy", percent), "F1 %": ("f1", percent)},
        f"macro F1 {percent(table['macro_f1'])}%")


def ranges(results: Row) -> Iterator[Table]:
  """Accuracy by input length and by number of steps; not of free texts."""
  for s in _in_order(results["systems"]):
    if s.get("text_metrics"):
      continue
    rows = [{**r, "by": f"length ({s['by_length']['unit']})"}
            for r in s["by_length"]["rows"]]
    rows += [{**r, "by": "steps"} for r in s["by_steps"]]
    yield make(f"By length and steps: {s['benchmark']}, {label_of(s)}", rows, {
        "by": "by", "range": "range", "n": "n", **_SCORES})


def cost(results: Row) -> Table:
  """Sizes and speeds, the teacher's beside the students'."""
  get = lambda key, form=number: lambda s: form(s["cost"].get(key))
  rows = [s for s in _in_order(results["systems"]) if s["cost"]]
  return make("Cost", rows, {
      **_SYSTEM, "parameters": get("parameters"),
      "FLOPs per example": get("flops_per_example", scientific),
      "examples/s": get("examples_per_second"),
      "latency p50, p95 (s)": get("latency_s", lambda seconds: seconds and (
          ", ".join(f"{value:.3f}" for value in seconds))),
      "label tokens": get("label_tokens_per_example"),
      "rationale tokens": get("rationale_tokens_per_example"),
      "note": lambda s: s["cost"].get("note", "")})


def warnings(results: Row) -> list[str]:
  """Every warning of a call, with the system that it is about."""
  lines = list(results.get("warnings", []))
  for s in _in_order(results["systems"]):
    lines += [f"{s['benchmark']}, {label_of(s)}: {w}" for w in s["warnings"]]
  return lines


def all_tables(results: Row) -> list[Table]:
  """The tables that have rows, in the order of a report."""
  tables = [
      accuracy(results), *texts(results), variants(results),
      comparisons(results), seeds(results), rationales(results),
      calibration(results), cost(results), *classes(results), *ranges(results)]
  return [table for table in tables if table.rows]


def label_of(summary: Row) -> str:
  """A system's name, with its mode where that is not `generate`."""
  mode = summary["mode"]
  return summary["name"] + ("" if mode == "generate" else f" ({mode})")


def _in_order(summaries: Sequence[Any]) -> list[Any]:
  """Benchmarks together, in the order in which they first occur."""
  order = list(dict.fromkeys(s["benchmark"] for s in summaries))
  return sorted(summaries, key=lambda s: order.index(s["benchmark"]))
