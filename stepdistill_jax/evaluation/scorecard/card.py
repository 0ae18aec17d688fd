"""The scorecard: what `stepdistill-eval` and `stepdistill judge` measured.

A row is a system on a benchmark. What was not measured is None, never zero.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from stepdistill_jax.evaluation.report import tables as tables_lib
from stepdistill_jax.util import errors

Results = Mapping[str, Any]  # Of a `results.json` or `judging.json`.


@dataclasses.dataclass(frozen=True)
class Price:
  """Dollars per million tokens."""

  prompt: float
  completion: float


@dataclasses.dataclass(frozen=True)
class Row:
  """A system on a benchmark.

  Attributes:
    benchmark: the task.
    system: its name.
    kind: `teacher`, `checkpoint`, `hf` or `predictions`.
    is_the_teacher: whether others' quality is a share of this system's.
    trained: a student's method, such as `synthetic_cot_answer`; `untrained`
      of one that took no step; None where that is not known.
    metric: what quality is: accuracy, or a metric of texts.
    quality: its mean, in [0, 1]; None where answers or their teacher's were
      made up.
    ci95: its interval.
    n: examples.
    kept: quality as a share of the teacher's; None for the teacher itself and
      where it was not scored.
    p_teacher: Holm's p-value of the difference from the teacher.
    parameters: of the model.
    tokens: decoded a question, the rationale's included.
    latency_s: p50 and p95 of one answer alone, in seconds.
    usd: per 1,000 answers, where a price was given.
  """

  benchmark: str
  system: str
  kind: str
  is_the_teacher: bool
  trained: str | None
  metric: str
  quality: float | None
  ci95: tuple[float, float] | None
  n: int
  kept: float | None
  p_teacher: float | None
  parameters: float | None
  tokens: float | None
  latency_s: tuple[float, float] | None
  usd: float | None


def read(folder: pathlib.Path, name: str) -> Results:
  """Reads `results.json` or `judging.json` of a folder.

  Raises:
    errors.UserError: it is not there, or not what such a call writes.
  """
  path = folder / name if folder.is_dir() else folder
  with errors.reported(
      (OSError, ValueError), lambda error: f"{path} cannot be read: {error}"):
    value = json.loads(path.read_text("utf-8"))
  if not isinstance(value, dict) or "systems" not in value:
    raise errors.UserError(
        f"{path} is no {name}; name the --output folder of "
        + ("stepdistill-eval" if name == "results.json"
           else "stepdistill judge"))
  return value


def rows_of(scores: Sequence[Results], teacher: str | None,
            prices: Mapping[str, Price], made: Sequence[str] = ()
            ) -> list[Row]:
  """The rows of all benchmarks, in their order.

  Args:
    scores: contents of `results.json` files.
    teacher: the teacher's name; by default the one system of kind `teacher`.
    prices: system -> price.
    made: systems whose answers, or whose teacher's, were made up: their
      quality says nothing.

  Raises:
    errors.UserError: a name is of no system, or a system occurs twice on a
      benchmark.
  """
  found = [(results, s) for results in scores for s in results["systems"]]
  names = {s["name"] for _, s in found}
  teachers = {s["name"] for _, s in found if s["kind"] == "teacher"}
  if teacher is None and len(teachers) == 1:
    teacher = next(iter(teachers))
  for name in filter(None, (teacher, *prices, *made)):
    errors.require_known("system", name, names, "(of --scores)")
  rows: dict[tuple[str, str], Row] = {}
  for results, s in found:
    label = tables_lib.label_of(s)
    key = s["benchmark"], label
    if key in rows:
      raise errors.UserError(
          f"{label} was scored on {s['benchmark']} in two of the --scores; "
          "leave one out")
    rows[key] = _row(results, s, label, teacher, prices)
    if s["name"] in made:
      rows[key] = dataclasses.replace(
          rows[key], quality=None, ci95=None, p_teacher=None)
  quality = {row.benchmark: row.quality for row in rows.values()
             if row.is_the_teacher}
  return [
      dataclasses.replace(row, kept=row.quality / quality[row.benchmark])
      if not row.is_the_teacher and row.quality is not None
      and quality.get(row.benchmark) else row
      for row in sorted(rows.values(), key=lambda row: list(
          dict.fromkeys(b for b, _ in rows)).index(row.benchmark))]


def _row(results: Results, s: Mapping[str, Any], label: str,
         teacher: str | None, prices: Mapping[str, Price]) -> Row:
  metric, quality, ci95 = tables_lib.quality(s)
  cost = s.get("cost") or {}
  spoken = [cost.get("label_tokens_per_example"),
            cost.get("rationale_tokens_per_example")]
  tokens = sum(filter(None, spoken)) if any(spoken) else None
  price, read_tokens = prices.get(s["name"]), cost.get("input_tokens")
  usd = None
  if price and tokens is not None and read_tokens is not None:
    usd = (price.prompt * read_tokens + price.completion * tokens) / 1000
  return Row(
      s["benchmark"], label, s["kind"], label == teacher,
      tables_lib.trained_on(s), metric,
      quality, tuple(ci95), s["n"], None, _p_value(results, s, teacher),
      cost.get("parameters"), tokens, cost.get("latency_s"), usd)


def _p_value(results: Results, s: Mapping[str, Any], teacher: str | None
             ) -> float | None:
  for pair in results["comparisons"]:
    if (pair["benchmark"] == s["benchmark"] and pair["mode"] == s["mode"]
        and {pair["first"], pair["second"]} == {s["name"], teacher}):
      return pair["holm_p"]
  return None


def differences(scores: Sequence[Results], made: Sequence[str] = ()
                ) -> tables_lib.Table:
  """Which systems differ, by the paired tests of each call."""
  labels = {(s["benchmark"], s["mode"], s["name"]): tables_lib.label_of(s)
            for results in scores for s in results["systems"]}
  label = lambda pair, which: labels.get(
      (pair["benchmark"], pair["mode"], pair[which]), pair[which])
  return tables_lib.make(
      "Differences", [p for results in scores
                      for p in results["comparisons"]
                      if not {p["first"], p["second"]} & set(made)], {
          "benchmark": "benchmark",
          "difference of": lambda p: (
              f"{label(p, 'first')} − {label(p, 'second')}"),
          "points": lambda p: f"{100 * p['difference']:+.2f}",
          "95%": ("ci95", tables_lib.points),
          "p": ("holm_p", tables_lib.p_value),
          "beyond chance": lambda p: "yes" if p["significant"] else "no"},
      "paired on the same examples; p after Holm over each call")


def _which_teacher(rows: Sequence[Row]) -> str:
  """What to do where several teachers are there and none was chosen."""
  teachers = [row.system for row in rows if row.kind == "teacher"]
  if len(teachers) < 2 or any(row.is_the_teacher for row in rows):
    return ""
  return ("; of which teacher shares and p are is not said: name "
          + " or ".join(teachers) + " with --teacher")


def tables(rows: Sequence[Row]) -> list[tables_lib.Table]:
  """One table of quality and cost a benchmark."""
  number = lambda value, digits=1: (
      "not measured" if value is None else tables_lib.number(value, digits))
  found = []
  for benchmark in dict.fromkeys(row.benchmark for row in rows):
    here = [row for row in rows if row.benchmark == benchmark]
    found.append(tables_lib.make(benchmark, here, {
        "system": lambda row: row.system,
        "trained on": lambda row: row.trained or (
            row.kind if row.kind == "teacher" else "not known"),
        "quality %": lambda row: "made up" if row.quality is None else (
            f"{tables_lib.percent(row.quality)} "
            f"({tables_lib.interval(row.ci95)})"),
        "of the teacher's %": lambda row: "the teacher"
        if row.is_the_teacher else
        "not measured" if row.kept is None else f"{100 * row.kept:.0f}",
        "p": lambda row: tables_lib.p_value(row.p_teacher),
        "parameters": lambda row: "not known" if row.parameters is None
        else f"{row.parameters:,.0f}",
        "tokens": lambda row: number(row.tokens),
        "latency p50, p95 (s)": lambda row: "not measured"
        if row.latency_s is None else
        f"{row.latency_s[0]:.3f}, {row.latency_s[1]:.3f}",
        "$ per 1,000": lambda row: number(row.usd, 3)},
        f"quality: {' or '.join(dict.fromkeys(row.metric for row in here))} of "
        + " or ".join(f"{n:,}" for n in dict.fromkeys(row.n for row in here))
        + " examples with its 95% interval; p: of the difference from the "
        "teacher, after Holm" + _which_teacher(here)))
  return found
