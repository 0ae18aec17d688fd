"""What is left of a study: runs, steps, disk, and bounds of time and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import shutil
import sys
from typing import Any

from stepdistill_jax.evaluation.report import tables
from stepdistill_jax.study import jobs as jobs_lib, resolving
from stepdistill_jax.util import durable_files, errors, locations
from stepdistill_jax.util.version import __version__

_GIB = 2**30
# Of a row.
NUMBERS = ("runs", "done", "steps", "disk", "chip_hours", "cost")
_DOES_NOT_FIT = "does not fit"
_OF_RECORDS = ("TRAIN_SHARE", "TEACHER")  # Programs do not know of them.


@dataclasses.dataclass(frozen=True)
class Row:
  """The runs of one data set, method and size.

  Attributes:
    cell: the first of them.
    runs: how many, a sweep's with those that are yet to be chosen.
    done: how many of them are trained and scored.
    steps: left of all of them; None where that is unknown.
    disk: bytes of checkpoints that they keep; None where that is unknown.
    chip_hours: at least, of the steps that are left; None where unknown.
    cost: likewise, by the price.
    note: why something is unknown.
  """

  cell: resolving.Resolved
  runs: int
  done: int
  steps: int | None
  disk: float | None
  chip_hours: float | None = None
  cost: float | None = None
  note: str = ""


def rows(folder: pathlib.Path, resolved: Sequence[resolving.Resolved],
         jobs: Sequence[jobs_lib.Job]) -> list[Row]:
  """What is left, by data set, method and size.

  Args:
    folder: of the study.
    resolved: the cells.
    jobs: their runs, as far as they are known.
  """
  groups: dict[tuple[str, ...], list[resolving.Resolved]] = {}
  for one in resolved:
    cell = one.cell
    groups.setdefault((cell.dataset, cell.method, cell.size, cell.variant),
                      []).append(one)
  found = []
  for members in groups.values():
    names = [one.cell.name for one in members]
    mine = [job for job in jobs if job.group in names]
    waiting = sum(len(set(one.seeds) - set(one.grid.sweep_seeds))
                  for one in members if len(one.settings()) > 1
                  and not any(jobs_lib.TEST in job.splits for job in mine))
    trained = sum(jobs_lib.is_trained(folder, job) for job in mine)
    size = members[0].checkpoint_bytes()
    found.append(Row(
        members[0], len(mine) + waiting,
        sum(jobs_lib.is_done(folder, job) for job in mine),
        members[0].steps and members[0].steps * (len(mine) + waiting - trained),
        size and size * (len(mine) + waiting)))
  return found


def with_costs(found: Sequence[Row], topology: str, price: float | None
               ) -> list[Row]:
  """Adds bounds by `stepdistill plan` on a slice.

  A minute of compiling tells little more of a run than its FLOPs do: of those
  that differ in data and method alone the largest that fits is compiled, and
  the others' time is in proportion. What does not shrink with the FLOPs makes
  theirs a bound all the same.
  """
  with _Planner(topology) as planner:
    plans = [planner.plan(row, ()) for row in found]
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(found):
      if "error" not in plans[place]:
        groups.setdefault(repr((
            row.cell.cell.size, row.cell.grid.run, row.cell.grid.gin,
            plans[place]["batch_size"])), []).append(place)
    for places in groups.values():
      largest = None
      for place in sorted(places, key=lambda i: -plans[i]["flops"]):
        flops = plans[place]["flops"]
        if largest is None:
          plans[place] = planner.plan(found[place], ("train",))
          if plans[place].get("fits"):
            largest = {**plans[place], "seconds": plans[place]["seconds"]
                       / flops}
        else:
          plans[place] = {**largest, "seconds": largest["seconds"] * flops}
  return [_with_cost(row, plan, price) for row, plan in zip(found, plans)]


def _with_cost(row: Row, plan: Mapping[str, Any], price: float | None) -> Row:
  if "error" in plan:
    return dataclasses.replace(row, note=plan["error"])
  if row.steps is None:
    return dataclasses.replace(row, note="its number of steps is unknown")
  hours = row.steps * plan["seconds"] * plan["chips"] / 3600
  return dataclasses.replace(
      row, chip_hours=hours, cost=None if price is None else hours * price,
      note="" if plan["fits"] else _DOES_NOT_FIT)


class _Planner:
  """Plans runs in a process of its own, begun if need be; keeps the plans."""

  def __init__(self, topology: str):
    self._topology, self._stack = topology, contextlib.ExitStack()
    self._folder = locations.cache_home() / "study_plans"

  def __enter__(self) -> _Planner:
    return self

  def __exit__(self, *unused_exception) -> None:
    self._stack.close()

  @functools.cached_property
  def _pool(self) -> concurrent.futures.Executor:
    return self._stack.enter_context(concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn")))

  def plan(self, row: Row, programs: Sequence[str]) -> dict[str, Any]:
    """The plan of a row's runs; without programs, what needs no compiling."""
    text = row.cell.text
    said = dataclasses.replace(row.cell, text=dataclasses.replace(
        text, macros={name: value for name, value in text.macros.items()
                      if name not in _OF_RECORDS})).fingerprint()
    path = self._folder / hashlib.sha256(json.dumps(
        [__version__, self._topology, said, programs]).encode()
        ).hexdigest()[:24]
    if path.is_file():
      return dict(json.loads(path.read_text("utf-8")))
    if programs:
      print(f"compiling {row.cell.cell.name} for {self._topology}",
            file=sys.stderr, flush=True)
    plan = self._pool.submit(_plan, self._topology, row.cell.gin_files,
                             row.cell.bindings, programs).result()
    if "error" not in plan or plan["error"] == _DOES_NOT_FIT:
      path.parent.mkdir(parents=True, exist_ok=True)
      durable_files.replace(path, json.dumps(plan))
    return plan


@functools.cache
def _prepare(topology_name: str) -> Any:
  """Imports what a plan needs; returns the slice."""
  from stepdistill_jax.plan import chips, programs

  topology = chips.parse(topology_name)
  programs.prepare_process(topology)
  return topology


def _plan(topology_name: str, gin_files: Sequence[str],
          bindings: Sequence[str], programs: Sequence[str]) -> dict[str, Any]:
  """In the planner's process: what `with_costs` wants of a plan."""
  try:
    topology = _prepare(topology_name)
    from stepdistill_jax.plan import planning  # It imports JAX.
    plan = planning.make(planning.Request(
        topology, gin_files, bindings, programs=programs, quick=True))
  except errors.UserError as error:
    return {"error": errors.first_line(error)}
  train = plan["programs"].get("train", {"bound": {"seconds": None}})
  if "bound" not in train or (
      sum(plan["state_bytes"].values()) > plan["chip"]["usable_bytes"]):
    return {"error": _DOES_NOT_FIT}
  return {**{name: plan[name] for name in (
      "fits", "chips", "batch_size")}, "flops": plan["train_flops"],
          "seconds": train["bound"]["seconds"]}


def table(found: Sequence[Row], topology: str | None) -> tables.Table:
  """The rows and their sums."""
  total = lambda name: (
      None if any(getattr(row, name) is None for row in found)
      else sum(getattr(row, name) for row in found))
  short = lambda value: None if value is None else f"{value:,.3g}"
  shown: list[Mapping[str, Any]] = [{
      **dataclasses.asdict(row.cell.cell),
      **{name: getattr(row, name) for name in NUMBERS}} for row in found]
  shown.append({"dataset": "all", "method": "", "size": "",
                **{name: total(name) for name in NUMBERS}})
  columns: dict[str, tables.Column] = {
      "method": lambda r: f"{r['dataset']} {r['method']} {r['size']}",
      "runs": "runs", "done": "done", "steps left": ("steps", tables.number),
      "disk, GiB": ("disk", _gib)}
  if topology:
    columns |= {"chip-hours": ("chip_hours", short), "cost": ("cost", short)}
  return tables.make("Plan", shown, columns, (
      f"chip-hours and cost: at least, of the train steps that are left, by "
      f"`stepdistill plan` on {topology} of the largest program of a size and "
      "the others' FLOPs; evaluations and compiling apart"
      if topology else
      "--topology=v5e-8 --price=1.2 adds bounds of chip-hours and cost"))


def _gib(size: float | None) -> str | None:
  return None if size is None else f"{size / _GIB:,.{1 if size > _GIB else 3}f}"


def check_disk(folder: pathlib.Path, found: Sequence[Row],
               processes: int) -> str:
  """A warning where all runs do not fit; else empty.

  Raises:
    errors.UserError: not even the runs that train at once fit.
  """
  where = next(p for p in (folder, *folder.parents) if p.exists())
  free = shutil.disk_usage(where).free
  sizes = sorted((row.disk / row.runs for row in found
                  if row.disk and row.done < row.runs), reverse=True)
  at_once = 2 * sum(sizes[:1]) * processes  # One is kept, one written.
  if at_once > free:
    raise errors.UserError(
        f"{where} has {_gib(free)} GiB free, and the runs that train at "
        f"once need {_gib(at_once)} for their checkpoints; make room, or "
        "take another folder with --output=DIR")
  left = sum(row.disk * (row.runs - row.done) / row.runs for row in found
             if row.disk and row.runs)
  return "" if left <= free else (
      f"warning: all runs together need {_gib(left)} GiB, and {where} has "
      f"{_gib(free)} free")
