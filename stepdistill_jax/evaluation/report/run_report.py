"""The report of many runs: tables, figures, `report.{html,md,json}`."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import pathlib
from typing import Any

import pandas as pd

from stepdistill_jax.evaluation import effect
from stepdistill_jax.evaluation.report import (
  averages,
  outputs,
  plots,
  runs_table,
  tables as tables_lib,
  text as text_report,
)
from stepdistill_jax.util import durable_files, errors, pages

SCHEMA_VERSION = 1
_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "runs.html"


@dataclasses.dataclass(frozen=True)
class RunReport:
  """Everything a report says.

  Attributes:
    runs: every checkpoint, see `runs_table.collect`.
    groups: runs over seeds, each by its last checkpoint; see `averages.group`.
    differences: of each method from fine-tuning; see `averages.differences`.
    teachers: their accuracies, see `runs_table.collect`.
    unfinished: runs that have not ended, see `runs_table.unfinished`.
    skipped: what was found and not counted, with the reason.
  """

  runs: pd.DataFrame
  groups: pd.DataFrame
  differences: list[dict[str, Any]]
  teachers: pd.DataFrame
  unfinished: list[dict[str, Any]]
  skipped: list[str]


def make(paths: Sequence[str | pathlib.Path],
         groups_of: Mapping[str, tuple[str, str]] | None = None) -> RunReport:
  """Reads runs; see `runs_table.collect`, for `groups_of` `averages.group`."""
  runs, teachers, unfinished, skipped = runs_table.collect(paths)
  if runs.empty:
    groups, differences = runs, []
  else:
    groups = averages.group(runs_table.latest(runs), groups_of)
    differences = averages.differences(groups)
  return RunReport(runs, groups, differences, teachers, unfinished, skipped)


def tables(report: RunReport) -> list[tables_lib.Table]:
  """The tables that have rows."""
  found = [_accuracies(report), _differences(report), _teachers(report),
           _runs(report), _unfinished(report)]
  return [table for table in found if table.rows]


# A terminal has 80 columns; these say least there, or are all the same.
_LEFT_OUT = {"Runs": ("method", "share %", "seed")}
_LEFT_OUT_ELSEWHERE = ("standard error", "interval over", "seeds")
_COMMON = ("data", "split", "size")


def terminal_tables(report: RunReport) -> list[tables_lib.Table]:
  """The tables, as many columns of them as a terminal holds.

  What is the same in all rows stands in the title.
  """
  found = []
  for table in tables(report):
    columns = dict(zip(table.header, zip(*table.rows)))
    common = [name for name in columns
              if name in _COMMON and len(set(columns[name])) == 1]
    title = ", ".join(columns[name][0] for name in common)
    found.append(text_report.without(
        table, (*common, *_LEFT_OUT.get(table.title, _LEFT_OUT_ELSEWHERE)),
        ": ".join(filter(None, (table.title, title)))))
  return found


_WHERE: Mapping[str, tables_lib.Column] = {
    "data": "dataset", "split": "split", "size": "size",
    "share %": ("share", lambda share: f"{100 * share:g}"),
    "method": "method"}


def _accuracies(report: RunReport) -> tables_lib.Table:
  return tables_lib.make("Accuracy", report.groups.to_dict("records"), {
      **_WHERE, "seeds": ("accuracies", len),
      "mean %": ("mean", tables_lib.percent),
      "standard error": ("standard_error", tables_lib.percent),
      "95%": ("ci95", tables_lib.interval),
      "interval over": lambda g: g["ci_of"] or None},
      f"{effect.HOW} Over examples alone, by Wilson, where no method has two "
      "seeds. A validation accuracy is the run's own, from training.")


def _differences(report: RunReport) -> tables_lib.Table:
  rows = [{**d["group"]._asdict(), **d} for d in report.differences]
  return tables_lib.make("Differences from fine-tuning", rows, {
      **_WHERE, "points": lambda d: f"{100 * d['difference']:+.2f}",
      "95%": ("ci95", tables_lib.points), "seeds": "seeds",
      "verdict": _verdict},
      "95%: as above, over seeds that both ran; 'within noise': it holds 0")


def _verdict(difference: Mapping[str, Any]) -> str:
  if difference["ci95"] is None:
    return "needs 2 seeds" if difference["seeds"] < 2 else (
        "no answers differ" if difference["paired"] else
        "needs the same examples' answers")
  low, high = difference["ci95"]
  return "within noise" if low <= 0 <= high else "differs"


def _teachers(report: RunReport) -> tables_lib.Table:
  return tables_lib.make("Teachers", report.teachers.to_dict("records"), {
      "data": "dataset", "split": "split", "teacher": "teacher", "n": "n",
      "accuracy %": ("accuracy", tables_lib.percent)})


def _runs(report: RunReport) -> tables_lib.Table:
  """Every checkpoint: those of one run are a curve."""
  names = [path.name for path in report.runs["path"].unique()]
  rows = sorted(report.runs.to_dict("records"), key=lambda r: (
      r["dataset"], r["split"], str(r["path"]), r["step"]))
  return tables_lib.make("Runs", rows, {
      "data": "dataset", "split": "split",
      "run": ("path", lambda path: path.name if names.count(path.name) == 1
              else str(path)),
      "step": "step", "size": "size", "share %": _WHERE["share %"],
      "method": "method", "seed": "seed", "n": "n",
      "accuracy %": ("accuracy", tables_lib.percent),
      "95%": ("ci95", tables_lib.interval)}, "95%: over examples, by Wilson")


def _unfinished(report: RunReport) -> tables_lib.Table:
  return tables_lib.make("Runs that have not ended", report.unfinished, {
      "run": ("path", lambda path: path.name), "state": "state",
      "step": "step", "of": "of",
      "best %": ("best", tables_lib.percent), "at step": "best_step"},
      "step: of the last checkpoint; best: its best validation accuracy. The "
      "command of a stopped run goes on with it.")


def as_json(report: RunReport, figures: Mapping[str, str]) -> dict[str, Any]:
  """The contents of `report.json`."""
  group = lambda g: {
      **g, "correct": {},
      "accuracies": [{"seed": seed, "accuracy": accuracy}
                     for seed, accuracy in g["accuracies"].items()]}
  return {
      "schema_version": SCHEMA_VERSION,
      "created": datetime.datetime.now(datetime.UTC).isoformat(
          timespec="seconds"),
      "code_version": outputs.code_version(),
      "how": effect.HOW,
      "groups": [group(g) for g in report.groups.to_dict("records")],
      "differences": [{
          **{name: getattr(d["group"], name) for name in (
              "dataset", "split", "size", "share", "method")},
          "baseline": d["baseline"].method, "difference": d["difference"],
          "ci95": d["ci95"], "seeds": d["seeds"]}
                      for d in report.differences],
      "runs": report.runs.assign(path=report.runs["path"].map(str)).drop(
              columns=["correct", "run"]).to_dict("records"),
      "teachers": report.teachers.to_dict("records"),
      "unfinished": [{**row, "path": str(row["path"])}
                     for row in report.unfinished],
      "figures": dict(figures), "skipped": list(report.skipped)}


def write(
    report: RunReport, folder: pathlib.Path, *, title: str = "Runs",
    first: Sequence[tables_lib.Table] = (), lines: Sequence[str] = (),
    more: Mapping[str, Any] = {}) -> dict[str, Any]:
  """Writes the report's files; returns the contents of `report.json`.

  Args:
    report: of `make`.
    folder: where to.
    title: of the pages.
    first: tables before its own.
    lines: said above all.
    more: what `report.json` has besides.

  Raises:
    errors.UserError: the folder cannot be written to.
  """
  with errors.reported(OSError, lambda error: (
      f"--output={folder} cannot be written: {error.strerror}")):
    folder.mkdir(parents=True, exist_ok=True)
    drawn = list(plots.of_runs(report.groups, report.teachers))
    for plot in drawn:
      plot.save(folder)
    figures = {plot.name: plot.title for plot in drawn}
    result = {**as_json(report, figures), **more}
    shown = [*first, *tables(report)]
    texts = {
        "report.md": text_report.markdown(
            title, [*map(text_report.escape, lines), *(
                f"> **Skipped:** {line}" for line in report.skipped)],
            shown, figures),
        "report.html": pages.render(
            _TEMPLATE, title=title, plots=drawn, tables=shown, lines=lines,
            **{name: result[name] for name in (
                "created", "code_version", "skipped")}),
        "report.json": outputs.dump_json(result)}
    for name, text in texts.items():
      durable_files.replace(folder / name, text)
  return result
