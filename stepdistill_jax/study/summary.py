"""A study's report: what was measured, beside what its papers have."""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import pandas as pd

from stepdistill_jax.evaluation.report import run_facts, run_report, tables
from stepdistill_jax.runs import run_record
from stepdistill_jax.study import definition, jobs as jobs_lib, resolving

WITHIN, OUTSIDE = "within", "outside"
IN_MINIATURE = (
    "In miniature: tiny students from random parameters, a few steps. It shows "
    "that everything works; its accuracies are not to be compared with the "
    "papers'.")


@dataclasses.dataclass(frozen=True)
class Line:
  """A cell's measured accuracy beside that of a paper.

  Attributes:
    cell: which.
    on: the benchmark.
    of: how many seeds it has.
    group: a row of `averages.group`; None where nothing is scored.
    expected: a share in [0, 1]; None where no paper has it.
    source: of the expected one.
    parameters: of the student, or None.
  """

  cell: definition.Cell
  on: str
  of: int
  group: Any
  expected: float | None
  source: str
  parameters: float | None = None

  @property
  def mean(self) -> float | None:
    return None if self.group is None else self.group.mean

  @property
  def ci95(self) -> tuple[float, float] | None:
    return None if self.group is None else self.group.ci95

  @property
  def difference(self) -> float | None:
    if self.mean is None or self.expected is None:
      return None
    return self.mean - self.expected

  @property
  def verdict(self) -> str | None:
    """Whether the paper's accuracy lies in the interval of the measured."""
    if self.expected is None:
      return None
    if self.mean is None:
      return "not measured"
    if self.ci95 is None:
      return "no interval"
    low, high = self.ci95
    return WITHIN if low <= self.expected <= high else OUTSIDE


def method_name(method: str) -> str:
  """A method, with what a reader of a table must know of it."""
  return run_facts.LABELS.get(method, method)


def write(
    folder: pathlib.Path, study: definition.Study,
    resolved: Sequence[resolving.Resolved], jobs: Sequence[jobs_lib.Job],
    chosen: Sequence[resolving.Choice], failed: Mapping[str, str],
    miniature: bool, asked: Container[str]) -> list[tables.Table]:
  """Writes the report of what is scored so far.

  Args:
    folder: of the study.
    study: its file.
    resolved: its cells.
    jobs: their runs.
    chosen: by sweeps.
    failed: names of runs or cells, and why they could not be done.
    miniature: whether the students are tiny.
    asked: names of the runs that were asked for: of these it says what is
      left.

  Returns:
    The tables for the terminal; empty where nothing is scored.
  """
  scored = [path for job in jobs for split in job.splits
            if (path := jobs_lib.scores_dir(folder, job, split)).is_dir()
            and (path / "results.json").is_file()]
  if not scored:
    return []
  runs = [path for job in jobs
          if (path := jobs_lib.run_dir(folder, job)).is_dir()]
  cells = {one.cell.name: one.cell for one in resolved}
  report = run_report.make([*scored, *runs], {
      job.name: (job.name.rpartition("-seed")[0], " ".join(filter(None, (
          cells[job.group].method, cells[job.group].variant))))
      for job in jobs})
  lines = list(_lines(study, resolved, jobs, report.groups))
  left = [job for job in jobs if job.name in asked
          and not jobs_lib.is_done(folder, job)]
  first = [beside(lines, report.teachers, study), beating(
      lines, report.teachers), _choices(chosen), _failures(failed),
           _left(left, failed), _other_records(folder, jobs)]
  first = [table for table in first if table.rows]
  run_report.write(
      report, folder, title=study.title, first=first,
      lines=[IN_MINIATURE] if miniature else [],
      more={"study": study.name, "miniature": miniature,
            "beside": [_as_json(line) for line in lines],
            "failed": dict(failed), "left": [job.name for job in left],
            "choices": {c.cell: dict(c.setting) for c in chosen}})
  return [beside(lines, report.teachers, study, short=True),
          *map(_first_rows, first[1:])]


def _first_rows(table: tables.Table, n: int = 10) -> tables.Table:
  """A table for a terminal, which does not hold hundreds of runs."""
  more = len(table.rows) - n
  return table if more <= 0 else dataclasses.replace(
      table, rows=table.rows[:n], note="; ".join(filter(None, (
          f"{more:,} more in report.html", table.note))))


def _lines(study, resolved, jobs, groups) -> Iterator[Line]:
  """A line for each cell, in the study's order."""
  of_run = {job.name: job.group for job in jobs}
  found = {}
  for group in groups.itertuples() if len(groups) else ():
    if group.split == jobs_lib.TEST:
      name = pathlib.Path(group.paths[0]).name
      if name in of_run:
        found[of_run[name], group.dataset] = group
  for one in resolved:
    key = dataclasses.replace(one.cell, variant="")
    expected, source = study.expected.get(key, (None, ""))
    for benchmark in one.benchmarks.split(","):
      yield Line(one.cell, benchmark, len(one.seeds), found.get(
          (one.cell.name, benchmark)), expected, source, one.parameters)


def _as_json(line: Line) -> dict[str, Any]:
  cell = line.cell
  on = "" if line.on == cell.dataset else f", on {cell.dataset}"
  return {**dataclasses.asdict(cell), "name": cell.name, "dataset": line.on,
          "method": method_name(cell.method) + on,
          "seeds": 0 if line.group is None else len(line.group.accuracies),
          "of": line.of, "mean": line.mean, "ci95": line.ci95,
          "expected": line.expected, "source": line.source,
          "difference": line.difference, "verdict": line.verdict}


def beside(lines: Sequence[Line], teachers: pd.DataFrame,
           study: definition.Study, short: bool = False) -> tables.Table:
  """Measured accuracies beside expected ones, the teachers' own last.

  Args:
    lines: of the cells.
    teachers: see `runs_table.collect`.
    study: says what is expected.
    short: for a terminal, whose columns are few: what is measured alone.
  """
  rows = [{**_as_json(line),
           "ci_of": line.group.ci_of if line.group is not None else ""}
          for line in lines]
  measured = {(t.dataset, t.teacher): t.accuracy
              for t in teachers.itertuples() if t.split == jobs_lib.TEST}
  own = {(cell.dataset, cell.teacher): value
         for cell, value in study.expected.items()
         if cell.method == definition.TEACHER_LINE}
  for dataset, teacher in dict.fromkeys([*measured, *own]):
    mean = measured.get((dataset, teacher))
    expected, source = own.get((dataset, teacher), (None, ""))
    rows.append({
        "dataset": dataset, "method": "few-shot teacher", "size": "",
        "share": 1.0, "teacher": teacher, "variant": "", "seeds": 0, "of": 0,
        "mean": mean, "ci95": None, "expected": expected, "source": source,
        "ci_of": "", "verdict": None if mean is not None or expected is None
        else "not measured", "difference": None if None in (mean, expected)
        else mean - expected})
  note = ("Test accuracies; 95%: over seeds and examples, or over examples "
          "alone where there is one seed.")
  if short:
    missing = sum(row["mean"] is None for row in rows)
    rows = [row for row in rows if row["mean"] is not None]
    if missing:
      note += f" Not measured: {missing} more, listed in report.html."
  signed = lambda value: None if value is None else f"{100 * value:+.2f}"
  where: dict[str, tables.Column] = {
      "data": "dataset", "method": lambda r: r["method"] + (
          f" ({r['variant']})" if r["variant"] else ""),
      "size": "size", "share %": ("share", lambda s: f"{100 * s:g}"),
      "teacher": "teacher"}
  if short:
    where = {"method": lambda r: " ".join(filter(None, (
        r["dataset"], r["method"], r["size"],
        f"{100 * r['share']:g}%", r["teacher"], r["variant"])))}
  columns: dict[str, tables.Column] = {
      **where,
      "seeds": lambda r: f"{r['seeds']} of {r['of']}" if r["of"] else None,
      "mean %": ("mean", tables.percent), "95%": ("ci95", tables.interval)}
  if any(row["expected"] is not None for row in rows):
    columns |= {
        "paper %": ("expected", tables.percent),
        "differs by": ("difference", signed), "paper is": "verdict"}
    if not short:
      columns["source"] = lambda r: r["source"] or None
    note += (f" {WITHIN}, {OUTSIDE}: the paper's accuracy in, not in that "
             "interval.")
  return tables.make("Measured, beside the papers'", rows, columns, note)


def beating(lines: Sequence[Line], teachers: pd.DataFrame) -> tables.Table:
  """The smallest student, and the least data, that beat the teacher.

  Of each data set and method with several sizes or shares, by the means of
  what is scored.
  """
  accuracy = {(t.dataset, t.teacher): t.accuracy
              for t in teachers.itertuples() if t.split == jobs_lib.TEST}
  groups: dict[tuple[str, str, str], list[Line]] = {}
  for line in lines:
    known = [line.cell.teacher] if line.cell.teacher else dict.fromkeys(
        one.cell.teacher for one in lines
        if one.cell.teacher and one.on == line.on) or [
            t for d, t in accuracy if d == line.on]
    for teacher in known:
      if (line.on, teacher) in accuracy:
        groups.setdefault((
            line.on, _as_json(line)["method"], teacher), []).append(line)
  rows = []
  for (dataset, method, teacher), members in groups.items():
    if len({(m.cell.size, m.cell.share) for m in members}) < 2:
      continue
    level = accuracy[dataset, teacher]
    better = [m for m in members if m.mean is not None and m.mean > level]
    size = lambda m: m.parameters or 0
    rows.append({
        "dataset": dataset, "method": method, "teacher": teacher,
        "level": level, "scored": sum(m.mean is not None for m in members),
        "of": len(members),
        "smallest": min(better, key=lambda m: (size(m), m.cell.share),
                        default=None),
        "least": min(better, key=lambda m: (m.cell.share, size(m)),
                     default=None)})

  def shown(key: str, row: Mapping[str, Any]) -> str:
    line = row[key]
    if line is None:
      return "none"
    beyond = "" if line.ci95 and line.ci95[0] > row["level"] else (
        ", within chance")
    return (f"{line.cell.size} at {100 * line.cell.share:g}%: "
            f"{tables.percent(line.mean)}{beyond}")

  return tables.make("Students that beat the teacher", rows, {
      "data": "dataset", "method": "method",
      "teacher": "teacher", "teacher %": ("level", tables.percent),
      "smallest student": functools.partial(shown, "smallest"),
      "least data": functools.partial(shown, "least"),
      "cells scored": lambda r: f"{r['scored']} of {r['of']}"},
      "searched over what is scored of the grid; 'within chance': the "
      "interval holds the teacher's accuracy, or there is none")


def _choices(chosen: Sequence[resolving.Choice]) -> tables.Table:
  words = lambda setting: ", ".join(f"{n} {v:g}" for n, v in setting)
  rows = [{"cell": c.cell, "setting": words(setting), "accuracy": accuracy,
           "chosen": "chosen" if setting == c.setting else None}
          for c in chosen for setting, accuracy in c.accuracies.items()]
  return tables.make("Chosen on validation", rows, {
      "runs": "cell", "setting": "setting",
      "validation %": ("accuracy", tables.percent), "": "chosen"},
      "the test split is scored with the chosen setting alone; – : failed")


def _failures(failed: Mapping[str, str]) -> tables.Table:
  return tables.make("Not done", failed.items(), {
      "run": lambda pair: pair[0], "why": lambda pair: pair[1]})


def _other_records(folder: pathlib.Path, jobs: Sequence[jobs_lib.Job]
                   ) -> tables.Table:
  """Cells whose runs did not learn from the same records."""
  found: dict[str, dict[str, int]] = {}
  for job in jobs:
    record = run_record.read(jobs_lib.run_dir(folder, job)) or {}
    if digest := record.get("data", {}).get("files_sha256"):
      runs = found.setdefault(job.group, {})
      runs[str(digest)] = runs.get(str(digest), 0) + 1
  return tables.make(
      "Learned from different records",
      [pair for pair in found.items() if len(pair[1]) > 1], {
          "runs": lambda pair: pair[0],
          "records": lambda pair: ", ".join(
              f"{digest[:12]}: {n}" for digest, n in pair[1].items())},
      "the records were changed between these runs: their mean is of neither")


def _left(left: Sequence[jobs_lib.Job], failed) -> tables.Table:
  return tables.make("Left to do", [
      job for job in left if job.name not in failed
      and job.group not in failed], {"run": lambda job: job.name},
      "the same command goes on")
