"""The report of many runs: tables, figures, `report.{html,md,json}`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import html
import pathlib
from typing import Any

from stepdistill_jax.evaluation import effect
from stepdistill_jax.evaluation.report import (
  html as html_report,
  method_averages,
  outputs,
  run_figures,
  run_scores,
  tables as tables_lib,
  text as text_report,
)
from stepdistill_jax.util import errors

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunReport:
  """Everything a report says.

  Attributes:
    scores: of every checkpoint.
    groups: runs over seeds, each by its last checkpoint.
    differences: of each method from fine-tuning.
    teachers: their accuracies.
    skipped: what was found and not counted, with the reason.
  """

  scores: tuple[run_scores.RunScore, ...]
  groups: tuple[method_averages.Group, ...]
  differences: tuple[method_averages.Difference, ...]
  teachers: tuple[run_scores.TeacherScore, ...]
  skipped: tuple[str, ...]


def make(paths: Sequence[str | pathlib.Path]) -> RunReport:
  """Reads runs; see `run_scores.collect`."""
  scores, teachers, skipped = run_scores.collect(paths)
  groups = method_averages.group(run_scores.latest(scores))
  return RunReport(
      tuple(scores), tuple(groups), tuple(method_averages.differences(groups)),
      tuple(teachers), tuple(skipped))


def tables(report: RunReport) -> list[tables_lib.Table]:
  """The tables that have rows."""
  found = [_accuracies(report), _differences(report), _teachers(report),
           _runs(report)]
  return [table for table in found if table.rows]


# A terminal has 80 columns; these say least there, or are all the same.
_LEFT_OUT = {"Runs": ("method", "share %", "seed")}
_LEFT_OUT_ELSEWHERE = ("standard error", "interval over", "seeds")
_TOLD_ONCE = ("data", "split", "size")


def terminal_tables(report: RunReport) -> list[tables_lib.Table]:
  """The tables, as many columns of them as a terminal holds.

  What is the same in all rows stands in the title.
  """
  found = []
  for table in tables(report):
    kept, common = [], []
    left_out = _LEFT_OUT.get(table.title, _LEFT_OUT_ELSEWHERE)
    for i, name in enumerate(table.header):
      values = {row[i] for row in table.rows}
      if name in _TOLD_ONCE and len(values) == 1:
        common += values
      elif name not in left_out:
        kept.append(i)
    found.append(dataclasses.replace(
        table, title=": ".join(filter(None, (table.title, ", ".join(common)))),
        header=tuple(table.header[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows)))
  return found


def _accuracies(report: RunReport) -> tables_lib.Table:
  rows = [
      (g.dataset, g.split, g.size, f"{100 * g.share:g}", g.method,
       str(len(g.accuracies)), tables_lib.percent(g.mean),
       tables_lib.percent(g.standard_error), tables_lib.interval(g.ci95),
       g.ci_of or "–")
      for g in report.groups]
  return tables_lib.Table(
      "Accuracy", ("data", "split", "size", "share %", "method", "seeds",
                   "mean %", "standard error", "95%", "interval over"),
      tuple(rows),
      f"{effect.HOW} Over examples alone, by Wilson, where no method has two "
      "seeds. A validation accuracy is the run's own, from training.")


def _differences(report: RunReport) -> tables_lib.Table:
  rows = [
      (d.group.dataset, d.group.split, d.group.size,
       f"{100 * d.group.share:g}", d.group.method,
       f"{100 * d.mean:+.2f}", tables_lib.points(d.ci95), str(d.seeds),
       _verdict(d))
      for d in report.differences]
  return tables_lib.Table(
      "Differences from fine-tuning",
      ("data", "split", "size", "share %", "method", "points", "95%", "seeds",
       "verdict"), tuple(rows),
      "95%: as above, over seeds that both ran; 'within noise': it holds 0")


def _verdict(difference: method_averages.Difference) -> str:
  if difference.ci95 is None:
    return "needs 2 seeds" if difference.seeds < 2 else (
        "needs the same examples' answers")
  low, high = difference.ci95
  return "within noise" if low <= 0 <= high else "differs"


def _teachers(report: RunReport) -> tables_lib.Table:
  return tables_lib.Table(
      "Teachers", ("data", "split", "teacher", "n", "accuracy %"),
      tuple((t.dataset, t.split, t.teacher, str(t.n),
             tables_lib.percent(t.accuracy)) for t in report.teachers))


def _runs(report: RunReport) -> tables_lib.Table:
  """Every checkpoint: those of one run are a curve."""
  paths = {score.facts.path for score in report.scores}
  names = [path.name for path in paths]
  rows = [
      (s.facts.dataset, s.split, s.facts.path.name if names.count(
          s.facts.path.name) == 1 else str(s.facts.path), str(s.step),
       s.facts.size, f"{100 * s.facts.share:g}", s.facts.method,
       "–" if s.facts.seed is None else str(s.facts.seed),
       "–" if s.n is None else str(s.n), tables_lib.percent(s.accuracy),
       tables_lib.interval(s.ci95))
      for s in sorted(report.scores, key=lambda s: (
          s.facts.dataset, s.split, str(s.facts.path), s.step))]
  return tables_lib.Table(
      "Runs", ("data", "split", "run", "step", "size", "share %", "method",
               "seed", "n", "accuracy %", "95%"), tuple(rows),
      "95%: over examples, by Wilson")


def as_json(report: RunReport, figures: Mapping[str, str]) -> dict[str, Any]:
  """The contents of `report.json`."""
  group = lambda g: {
      **dataclasses.asdict(dataclasses.replace(g, correct={})),
      "accuracies": [{"seed": seed, "accuracy": accuracy}
                     for seed, accuracy in g.accuracies.items()]}
  return {
      "schema_version": SCHEMA_VERSION,
      "created": datetime.datetime.now(datetime.UTC).isoformat(
          timespec="seconds"),
      "code_version": outputs.code_version(),
      "how": effect.HOW,
      "groups": [group(g) for g in report.groups],
      "differences": [{
          "dataset": d.group.dataset, "split": d.group.split,
          "size": d.group.size, "share": d.group.share,
          "method": d.group.method, "baseline": d.baseline.method,
          "difference": d.mean, "ci95": d.ci95, "seeds": d.seeds}
                      for d in report.differences],
      "runs": [{
          **s.facts.as_json(), "split": s.split, "step": s.step, "n": s.n,
          "accuracy": s.accuracy, "ci95": s.ci95, "source": s.source}
               for s in report.scores],
      "teachers": [dataclasses.asdict(t) for t in report.teachers],
      "figures": dict(figures), "skipped": list(report.skipped)}


def write(report: RunReport, folder: pathlib.Path) -> dict[str, Any]:
  """Writes the report's files; returns the contents of `report.json`.

  Raises:
    errors.UserError: the folder cannot be written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    figures = run_figures.draw_all(report.groups, report.teachers, folder)
    result = as_json(report, figures)
    texts = {"report.md": _markdown(report, figures),
             "report.html": _html(report, figures, folder, result),
             "report.json": outputs.dump_json(result)}
    for name, text in texts.items():
      (folder / name).write_text(text, encoding="utf-8")
  except OSError as error:
    raise errors.UserError(
        f"--output={folder} cannot be written: {error.strerror}") from error
  return result


def _markdown(report: RunReport, figures: Mapping[str, str]) -> str:
  parts = ["# Runs", ""]
  parts += [f"> **Skipped:** {line}\n" for line in report.skipped]
  parts += [text_report.table_markdown(table) for table in tables(report)]
  parts += [f"![{text}]({name})\n" for name, text in figures.items()]
  return "\n".join(parts)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; img-src data:">
<title>Runs</title>
<style>
{css}
</style>
</head>
<body>
<h1>Runs</h1>
<p class="meta">{meta}</p>
{skipped}
<main>
<section aria-label="Figures">
{figures}
</section>
{tables}
</main>
</body>
</html>
"""


def _html(report, figures, folder, result) -> str:
  def figure(name, text):
    image = base64.b64encode((folder / name).read_bytes()).decode("ascii")
    return (f'<figure><img alt="{html.escape(text)}" '
            f'src="data:image/png;base64,{image}">'
            f"<figcaption>{html.escape(text)}</figcaption></figure>")

  css = pathlib.Path(html_report.__file__).parent / "templates" / "report.css"
  return _PAGE.format(
      css=css.read_text(encoding="utf-8"),
      meta=html.escape(f"Written {result['created']} by stepdistill_jax "
                       f"{result['code_version']}."),
      skipped="\n".join(f'<p class="warning">{html.escape(line)}</p>'
                        for line in report.skipped),
      figures="\n".join(figure(*item) for item in figures.items()),
      tables="\n".join(html_report.table_html(t) for t in tables(report)))
