"""Every run of a table or figure by one command: planned, run, compared.

A study is a TOML file (docs/studies.md), or the name of one that comes with
the project. It runs on all accelerators of this machine, one process each, or
on the CPU; killed and run again, it goes on. One run's failure does not stop
the others. At its end, and whenever it ends early, report.html has the tables
and figures.

examples:
  stepdistill study table1 --dry_run --topology=v5e-8 --price=1.2
  stepdistill study table1 --output=table1
  stepdistill study table1 --miniature     tiny students: to see that it works
  stepdistill study mine.toml --only=svamp,seed0 --student=base=t5_1_1_base
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import fnmatch
import functools
import json
import math
import pathlib
import sys
from typing import Any

from stepdistill_jax.util import argument_parser, errors, locations


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("study", metavar="FILE|NAME", help="a TOML file, or one of the project's")
  add("--output", metavar="DIR",
      help="the study's folder (default: study_NAME)")
  add("--dry_run", action="store_true", help="print the plan, and end")
  add("--only", metavar="PATTERN,...",
      help="runs whose name has one of these in it, such as svamp or "
      "anli1*seed0")
  add("--workers", type=argument_parser.positive, metavar="N",
      help="processes that train beside each other (default: one for each "
      "accelerator; 1 on a CPU)")
  add("--miniature", action="store_true",
      help="tiny students from random parameters, 4 steps, 2 seeds")
  add("--student", action="append", default=[], metavar="SIZE=WHERE",
      help="where students of a size begin: an import's folder, a name on the "
      "Hugging Face hub, or `random`")
  add("--teacher", action="append", default=[], metavar="OLD=NEW",
      help="another teacher's records in the place of those that it names")
  add("--accept", action="store_true",
      help="take changes of the study since runs were made, which are put "
      "aside")
  add("--write_commands", metavar="DIR",
      help="run nothing: write the commands for SLURM, TPU VMs and GKE there")
  add("--topology", metavar="NAME",
      help="also bounds of time on this slice, as of `stepdistill plan`")
  add("--price", type=float, metavar="X", help="of a chip for an hour")
  add("--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'",
      help="a binding of all runs; also written --gin.NAME=VALUE")
  argument_parser.add_records_dir(parser, type=argument_parser.existing)
  add("--json", action="store_true", help="print report.json, or the plan")


def _pairs(values: Sequence[str], flag: str) -> dict[str, str]:
  found = {}
  for value in values:
    name, equals, what = value.partition("=")
    if not (name and equals and what):
      raise errors.UserError(f"--{flag}={value}: expected --{flag}=A=B")
    found[name] = what
  return found


def run(args: argparse.Namespace) -> int:
  """Runs a study; 0 if all that was asked for is done, else 1."""
  import rich.console

  from stepdistill_jax.plan import chips
  from stepdistill_jax.study import definition, resolving

  if args.topology:
    chips.parse(args.topology)  # Unknown, it ends here.
  elif args.price is not None:
    raise errors.UserError("--price needs a slice: --topology=v5e-8")
  if args.price is not None and not 0 <= args.price < math.inf:
    raise errors.UserError(f"--price={args.price:g}: expected 0 or more")
  path = definition.find(args.study)
  study = definition.read(path, _pairs(args.teacher, "teacher"))
  options = resolving.Options(
      pathlib.Path(args.records_dir or locations.records_dir()).expanduser(),
      tuple(args.gin_bindings), _pairs(args.student, "student"),
      args.miniature)
  folder = pathlib.Path(args.output or (
      f"study_{study.name}" + ("_miniature" if args.miniature else ""))
      ).expanduser().absolute()
  resolved = resolving.resolve(study, options)
  for size in options.students:
    errors.require_known("size", size, {one.cell.size for one in resolved},
                         where="--student")
  session = _Session(
      args, study, options, folder, resolved,
      rich.console.Console(quiet=args.json, highlight=False))
  if args.dry_run:
    return session.dry_run()
  if args.write_commands:
    return session.write_commands(pathlib.Path(args.write_commands))
  with errors.reported(OSError, lambda error: (
      f"cannot write to {error.filename or folder}: {error.strerror}; nothing "
      "is lost: make room, or choose another folder with --output=DIR")):
    return session.run()


class _Session:
  """One call of the command."""

  def __init__(self, args, study, options, folder, resolved, console):
    from stepdistill_jax.study import jobs as jobs_lib

    self._args, self._study, self._options = args, study, options
    self._folder, self._resolved, self._console = folder, resolved, console
    left = {job.group for job in self._jobs()
            if not jobs_lib.is_done(folder, job)}
    self._blocked = {one.cell.name: line for one in resolved
                     if one.cell.name in left and (
                         line := _blocked(one, options.records_dir))}

  def _say(self, line: str) -> None:
    self._console.print(line, markup=False, soft_wrap=True)

  def _all_jobs(self, failed: Mapping[str, str] = {}) -> tuple[list, list]:
    """The study's runs, as far as they are known; the choices."""
    from stepdistill_jax.study import folder as folder_lib, resolving

    chosen = resolving.choose(self._folder, self._resolved, {
        **folder_lib.failed(self._folder), **failed})
    return resolving.jobs(
        self._resolved, {c.cell: c.setting for c in chosen}, self._options,
        self._study.limit), chosen

  def _jobs(self, failed: Mapping[str, str] = {}) -> list:
    """Those of them that are asked for."""
    from stepdistill_jax.study import resolving

    found, _ = self._all_jobs(failed)
    if self._args.only is None:
      return found
    # With those that a sweep's choice will bring.
    names = {resolving.job_name(one.cell, setting, seed)
             for one in self._resolved for setting in one.settings()
             for seed in (*one.seeds, *one.grid.sweep_seeds)}
    asked: set[str] = set()
    for pattern in self._args.only.split(","):
      matching = fnmatch.filter(names, f"*{pattern}*") if pattern else []
      if not matching:
        raise errors.UserError(
            f"--only={pattern} is in no run's name; did you mean: "
            + ", ".join(errors.near_names(pattern, {
                part for name in names for part in name.split("-")}, 3)) + "?")
      asked.update(matching)
    kept = [job for job in found if job.name in asked]
    if not kept:
      raise errors.UserError(
          f"--only={self._args.only}: these runs wait for what a sweep "
          "chooses; leave it out, or ask for the sweep's runs first")
    return kept

  def _rows(self, jobs: Sequence[Any]) -> list[Any]:
    from stepdistill_jax.study import estimates

    groups = {job.group for job in jobs}
    rows = estimates.rows(
        self._folder, [one for one in self._resolved
                       if one.cell.name in groups], jobs)
    if self._args.topology:
      rows = estimates.with_costs(rows, self._args.topology, self._args.price)
    return rows

  def _print_plan(self, rows: Sequence[Any], groups: set[str]) -> None:
    from stepdistill_jax.evaluation.report import text as text_report
    from stepdistill_jax.study import estimates

    text_report.print_table(
        estimates.table(rows, self._args.topology), self._console)
    for what, lines in (
        ("no bound of", {row.cell.cell.name: row.note for row in rows}),
        ("cannot run", {cell: line for cell, line in self._blocked.items()
                        if cell in groups})):
      for line, cells in _by_reason(lines).items():
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        self._say(f"{what} {cells[0]}{more}: {line}")

  def dry_run(self) -> int:
    jobs = self._jobs()
    rows = self._rows(jobs)
    if self._args.json:
      from stepdistill_jax.study import estimates

      print(json.dumps({
          "study": self._study.name, "topology": self._args.topology,
          "rows": [{
              **{name: getattr(row.cell.cell, name) for name in (
                  "dataset", "method", "size", "variant")},
              **{name: getattr(row, name) for name in (
                  *estimates.NUMBERS, "note")}} for row in rows],
          "blocked": self._blocked}, indent=1))
      return 0
    self._say(f"{self._study.title} -> {self._folder}")
    self._print_plan(rows, {job.group for job in jobs})
    return 0

  def write_commands(self, target: pathlib.Path) -> int:
    from stepdistill_jax.study import jobs as jobs_lib, launch_commands

    jobs = self._jobs()
    left = [job for job in jobs if not jobs_lib.is_trained(self._folder, job)]
    file = pathlib.Path(self._args.study)
    again = ["stepdistill", "study", str(
        file.absolute() if file.is_file() else file),
             f"--output={self._folder}",
             *["--miniature"] * self._args.miniature, *(
                 f"--{flag}={value}" for flag, values in (
                     ("only", [self._args.only]),
                     ("records_dir", [self._args.records_dir and (
                         self._options.records_dir.absolute())]),
                     ("teacher", self._args.teacher),
                     ("student", self._args.student),
                     ("gin_bindings", self._args.gin_bindings))
                 for value in filter(None, values))]
    for path in launch_commands.write(
        target, left, self._resolved, title=self._study.title,
        study=self._folder, again=again):
      self._say(f"wrote {path}: {len(left)} runs")
    return 0

  def run(self) -> int:
    from stepdistill_jax.study import folder as folder_lib

    jobs = self._jobs()
    rows = self._rows(jobs)
    self._say(f"{self._study.title} -> {self._folder}")
    self._print_plan(rows, {job.group for job in jobs})
    cells = folder_lib.cells_of(self._resolved, self._study.limit)
    failed: dict[str, str] = {}
    with folder_lib.claimed(self._folder, self._study, cells,
                            self._args.accept) as aside:
      for line in aside:
        self._say(line)
      try:
        self._run_all(rows, failed)
      except KeyboardInterrupt:
        self._report(failed)
        self._say("stopped; the same command goes on from here")
        raise
      except errors.UserError:
        self._report(failed)
        raise
      report = self._report(failed)
    for name, line in failed.items():
      self._say(f"failed: {name}: {line}")
    if self._args.json:
      sys.stdout.write(report.read_text("utf-8") if report.is_file() else (
          json.dumps({"study": self._study.name, "failed": failed,
                      "blocked": self._blocked}) + "\n"))
    return 1 if failed or any(
        job.group in self._blocked for job in self._jobs(failed)) else 0

  def _run_all(self, rows: Sequence[Any], failed: dict[str, str]) -> None:
    """Does all that can be done; adds what failed, and why, as it does."""
    from stepdistill_jax.study import (
      display,
      estimates,
      jobs as jobs_lib,
      places,
      workers as workers_lib,
    )

    place = places.of_machine(self._args.workers)
    check = functools.partial(
        estimates.check_disk, self._folder, rows, place.number)
    if warning := check():
      self._say(warning)
    self._import_students()
    shown: set[str] = set()
    while True:  # Once more where a sweep's choice has brought further runs.
      jobs = [job for job in self._jobs(failed)
              if job.group not in self._blocked and job.name not in failed]
      if all(jobs_lib.is_done(self._folder, job) for job in jobs):
        return
      jobs = [job for job in jobs if job.name not in shown
              or not jobs_lib.is_done(self._folder, job)]
      if not shown:
        self._say(f"training on {place}")
      shown |= {job.name for job in jobs}
      with workers_lib.Workers(
          self._folder, jobs, place, logs=self._folder / "logs",
          on_failure=check) as workers:
        with display.Display(jobs, self._console) as watcher:
          workers.run(watcher, failed)

  def _import_students(self) -> None:
    """Fetches and imports what the runs that are left begin from.

    Raises:
      errors.UserError: none of them can be had.
    """
    from stepdistill_jax.study import jobs as jobs_lib, resolving, students

    groups = {job.group for job in self._jobs()
              if not jobs_lib.is_trained(self._folder, job)}
    wanted = {one.cell.name: one.student for one in self._resolved
              if one.cell.name in groups - self._blocked.keys()
              and one.student != resolving.RANDOM}
    files, missing = {}, {}
    for student in dict.fromkeys(wanted.values()):
      try:
        files[student] = students.gin_file(student, self._say)
      except errors.UserError as error:
        missing[student] = str(error)
    lost = {cell: missing[student] for cell, student in wanted.items()
            if student in missing}
    if lost and lost.keys() == groups - self._blocked.keys():
      raise errors.UserError("; ".join(missing.values()))
    for line in missing.values():
      self._say(f"cannot run all: {line}")
    self._blocked |= lost
    self._options = dataclasses.replace(self._options, student_files=files)

  def _report(self, failed: Mapping[str, str]) -> pathlib.Path:
    """Writes the report of all that is scored, and prints its tables."""
    from stepdistill_jax.evaluation.report import text as text_report
    from stepdistill_jax.study import folder as folder_lib, summary

    folder_lib.add_failed(self._folder, failed)
    jobs, chosen = self._all_jobs(failed)
    asked = self._jobs(failed)
    wanted = {job.group for job in asked}
    tables = summary.write(
        self._folder, self._study, self._resolved, jobs, chosen,
        {**{cell: line for cell, line in self._blocked.items()
            if cell in wanted}, **failed}, self._args.miniature,
        asked={job.name for job in asked})
    if tables:
      folder_lib.write_data(self._folder, jobs, self._resolved)
    if tables and self._args.miniature:
      self._say(summary.IN_MINIATURE)
    for table in tables:
      text_report.print_table(table, self._console)
    page = self._folder / "report.html"
    self._say(f"report: {page}" if tables else "nothing is scored yet")
    return page.with_name("report.json")


def _by_reason(lines: Mapping[str, str]) -> dict[str, list[str]]:
  """Each line that is not empty -> what it is said of."""
  found: dict[str, list[str]] = {}
  for name, line in lines.items():
    if line:
      found.setdefault(line, []).append(name)
  return found


def _blocked(one: Any, records_dir: pathlib.Path) -> str:
  """Why a cell's runs cannot begin; else empty."""
  from stepdistill_jax.data import early_records
  from stepdistill_jax.records import datasets, records

  def splits(dataset: str, teacher: str = "") -> set[str]:
    return set().union(*(
        records.split_sizes(records_dir, dataset, known)
        for known in records.teachers_of(records_dir, dataset)
        if teacher in ("", known)))

  try:
    early_records.require(one.text, str(records_dir))
    scored = {"test", *(["validation"] if len(one.settings()) > 1 else [])}
    for needed, dataset, there in [
        *(({"train"}, member, splits(member, one.cell.teacher))
          for member in datasets.members(one.cell.dataset)),
        *((scored, benchmark, splits(benchmark))
          for benchmark in one.benchmarks.split(","))]:
      for split in sorted(needed - there):
        of = f" by {one.cell.teacher}" if split == "train" and (
            one.cell.teacher) else ""
        return (f"the records of {dataset}{of} under {records_dir} have no "
                f"split {split!r}: import its rows with `stepdistill teacher "
                f"import --dataset={dataset} ...`")
  except errors.UserError as error:
    return str(error)
  return ""

