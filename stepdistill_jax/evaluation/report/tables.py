"""The tables of a report, once, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

from stepdistill_jax.evaluation import effect


@dataclasses.dataclass(frozen=True)
class Table:
  """A titled table of texts.

  Attributes:
    title: above it.
    header: names of the columns.
    rows: cells as text, one for each column.
    note: a line below it; empty for none.
  """

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  note: str = ""


def percent(value: float | None) -> str:
  """A share as a percentage with two digits, as the papers print it."""
  return "–" if value is None else f"{100 * value:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
  """An interval of shares, in percent."""
  if not bounds:
    return "–"
  return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def points(bounds: Sequence[float] | None) -> str:
  """An interval of differences, in signed percentage points."""
  if not bounds:
    return "–"
  return f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"


def number(value: float | None, digits: int = 2) -> str:
  """A number with separators; `–` for None."""
  if value is None:
    return "–"
  if isinstance(value, int):
    return f"{value:,}"
  return f"{value:,.{digits}f}"


def scientific(value: float | None) -> str:
  """A count as 1.23e+09; `–` for None."""
  return "–" if value is None else f"{value:.2e}"


def p_value(value: float | None) -> str:
  """A p-value with three digits, small ones as a bound."""
  if value is None:
    return "–"
  return "<0.001" if value < 0.001 else f"{value:.3f}"


def accuracy(results: dict[str, Any]) -> Table:
  """The main table: a row for each system and benchmark."""
  rows = [
      (s["benchmark"], s["name"], s["mode"], str(s["n"]), str(s["correct"]),
       percent(s["accuracy"]), interval(s["ci95"]),
       interval(s["bootstrap_ci95"]), str(s["unparsable"]),
       str(s["missing"]))
      for s in _in_order(results["systems"])]
  return Table(
      "Label accuracy",
      ("benchmark", "system", "mode", "n", "correct", "accuracy %",
       "95% (Wilson)", "95% (bootstrap)", "unparsable", "missing"),
      tuple(rows),
      f"rules: {results['config']['rules']}; unparsable and missing answers "
      "count as wrong")


def variants(results: dict[str, Any]) -> Table:
  """Accuracy under other readings, e.g. CQA by letter."""
  rows = [
      (s["benchmark"], s["name"], name, str(v["correct"]),
       percent(v["accuracy"]), interval(v["ci95"]))
      for s in _in_order(results["systems"])
      for name, v in s["variants"].items()]
  return Table(
      "Other readings of the same answers",
      ("benchmark", "system", "reading", "correct", "accuracy %", "95%"),
      tuple(rows))


def comparisons(results: dict[str, Any]) -> Table:
  """Paired tests between systems."""
  rows = [
      (c["benchmark"], c["mode"], f"{c['first']} − {c['second']}",
       f"{100 * c['difference']:+.2f}", points(c["ci95"]),
       f"{c['only_first']} / {c['only_second']}", p_value(c["mcnemar_p"]),
       p_value(c["bootstrap_p"]), p_value(c["holm_p"]),
       "differs" if c["significant"] else "within noise")
      for c in results["comparisons"]]
  return Table(
      "Pairs of systems on the same examples",
      ("benchmark", "mode", "difference of", "points", "95% (paired)",
       "only first / only second", "McNemar p", "bootstrap p", "Holm p",
       "verdict"),
      tuple(rows),
      "exact McNemar test, corrected by Holm over this table; 'within noise': "
      "corrected p is 0.05 or more")


def seeds(results: dict[str, Any]) -> Table:
  """Means over runs that differ only in their seed, see `effect`."""
  rows = [
      (g["benchmark"], g["mode"], g["method"],
       ", ".join(map(str, g["steps"])), str(g["n_seeds"]),
       percent(g["mean"]), percent(g["standard_error"]), interval(g["ci95"]),
       ", ".join(g["systems"]))
      for g in results["seeds"]]
  return Table(
      "Means over seeds",
      ("benchmark", "mode", "method", "step", "seeds", "mean %",
       "standard error", "95%", "runs"), tuple(rows), effect.HOW)


def rationales(results: dict[str, Any]) -> Table:
  """Rationales against the teacher's, the question and the label."""
  rows = []
  for s in _in_order(results["systems"]):
    r = s["rationales"]
    if not r:
      continue
    rows.append((
        s["benchmark"], s["name"], str(r["n"]), number(r["rouge_l"], 3),
        number(r["overlap_with_teacher"], 3), number(r["input_overlap"], 3),
        number(r["words"], 1), f"{percent(r['agreement'])} ({r['n_stated']})",
        number(r["perplexity"], 2)))
  return Table(
      "Rationales",
      ("benchmark", "system", "n", "ROUGE-L", "words in teacher's",
       "words in question", "length (words)", "agrees with its label % (of)",
       "perplexity of teacher's"), tuple(rows))


def calibration(results: dict[str, Any]) -> Table:
  """Expected calibration error of label scores."""
  rows = [
      (s["benchmark"], s["name"], s["mode"], str(s["calibration"]["n"]),
       number(s["calibration"]["ece"], 4),
       number(s["calibration"]["mean_score"], 4), percent(s["accuracy"]))
      for s in _in_order(results["systems"]) if s["calibration"]]
  return Table(
      "Calibration of label scores",
      ("benchmark", "system", "mode", "n", "ECE", "mean score",
       "accuracy %"), tuple(rows),
      "ECE over 10 bins of equal width")


def classes(results: dict[str, Any]) -> Iterable[Table]:
  """One confusion matrix a system, for benchmarks with fixed labels."""
  for s in _in_order(results["systems"]):
    table = s["by_class"]
    if not table:
      continue
    rows = [
        (c["label"], *map(str, counts), str(c["n"]), percent(c["accuracy"]),
         percent(c["f1"]))
        for c, counts in zip(table["classes"], table["confusion"])]
    yield Table(
        f"Classes: {s['benchmark']}, {_label(s)}",
        ("gold \\ predicted", *table["labels"], "n", "accuracy %", "F1 %"),
        tuple(rows), f"macro F1 {percent(table['macro_f1'])}%")


def ranges(results: dict[str, Any]) -> Iterable[Table]:
  """Accuracy by input length and by number of steps."""
  for s in _in_order(results["systems"]):
    rows = [(f"length ({s['by_length']['unit']})", *_range(r))
            for r in s["by_length"]["rows"]]
    rows += [("steps", *_range(r)) for r in s["by_steps"]]
    yield Table(
        f"By length and steps: {s['benchmark']}, {_label(s)}",
        ("by", "range", "n", "correct", "accuracy %", "95%"), tuple(rows))


def cost(results: dict[str, Any]) -> Table:
  """Sizes and speeds, the teacher's beside the students'."""
  rows = []
  for s in _in_order(results["systems"]):
    c = s["cost"]
    if not c:
      continue
    rows.append((
        s["benchmark"], s["name"], s["mode"], number(c.get("parameters")),
        scientific(c.get("flops_per_example")),
        number(c.get("examples_per_second")),
        number(c.get("label_tokens_per_example")),
        number(c.get("rationale_tokens_per_example")),
        c.get("note", "")))
  return Table(
      "Cost",
      ("benchmark", "system", "mode", "parameters", "FLOPs per example",
       "examples/s", "label tokens", "rationale tokens", "note"),
      tuple(rows))


def warnings(results: dict[str, Any]) -> list[str]:
  """Every warning of a call, with the system that it is about."""
  lines = list(results.get("warnings", []))
  for s in _in_order(results["systems"]):
    lines += [f"{s['benchmark']}, {_label(s)}: {w}" for w in s["warnings"]]
  return lines


def all_tables(results: dict[str, Any]) -> list[Table]:
  """The tables that have rows, in the order of a report."""
  tables = [
      accuracy(results), variants(results), comparisons(results),
      seeds(results), rationales(results), calibration(results),
      cost(results), *classes(results), *ranges(results)]
  return [table for table in tables if table.rows]


def _range(row: dict[str, Any]) -> tuple[str, ...]:
  return (row["range"], str(row["n"]), str(row["correct"]),
          percent(row["accuracy"]), interval(row["ci95"]))


def _label(summary: dict[str, Any]) -> str:
  mode = summary["mode"]
  return summary["name"] + ("" if mode == "generate" else f" ({mode})")


def _in_order(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Benchmarks together, in the order in which they first occur."""
  order = list(dict.fromkeys(s["benchmark"] for s in summaries))
  return sorted(summaries, key=lambda s: order.index(s["benchmark"]))
