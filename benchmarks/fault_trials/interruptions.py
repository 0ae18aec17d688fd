"""Kills and SIGTERMs at random points of `t5x train`."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import pathlib
import random
import shutil
from typing import Any

from benchmarks.fault_trials import worker as worker_lib
from stepdistill_jax.util import errors
from tests.support import trials

_KILLS_A_UNIT = 10
_SIGTERMS_A_UNIT = 4
# Building and tracing evaluations takes each process seconds: one unit of
# kills in three has them.
_EVALUATED = 3
# Of ten units of SIGTERMs, three run as two processes.
_TWO_PROCESSES = 3
# Seconds after its start at which a process may be hit by the clock: in its
# start, its compilation, its steps, evaluations and saves.
_CLOCK = (0.5, 8.0)


def _training(
    worker: worker_lib.Worker, processes: int = 1,
    evaluates: bool = False) -> worker_lib.Training:
  bindings = trials.NO_DECODING if evaluates else trials.NO_EVALUATION
  return worker_lib.Training(
      f"{processes}_processes" + ("_evaluated" if evaluates else ""),
      trials.arguments(worker.records(), bindings), processes=processes)


class Kills:
  """SIGKILL; a unit is as many runs as its kills need, one after another."""

  name = "kills"
  fault = "SIGKILL at random points, in saving and manifest writing too"

  def __init__(self, kills: int):
    self._kills = kills

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"number": i, "kills": kills} for i, kills in
            worker_lib.in_units(self._kills, _KILLS_A_UNIT)]

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    evaluates = unit["number"] % _EVALUATED == 0
    training = _training(worker, evaluates=evaluates)
    whole = worker.whole(training)
    folder = worker.folder / f"kills{unit['number']}"
    done = worker.read_so_far(
        folder, {"runs": 0, "compared": 0, "points": {}})
    points = collections.Counter(done["points"])
    while True:
      left = unit["kills"] - points.total()
      rng = worker.random("kills", unit["number"], left, done["runs"])
      fault = _kill(rng, evaluates) if left else ""
      # A run that came to its end is followed by another.
      run = folder / f"run{done['runs']}"
      code = worker.go_on(training, run, fault)
      if code == worker_lib.KILLED:
        points[fault.split(":")[0]] += 1
      else:
        done["runs"] += 1
        done["compared"] += trials.assert_same_run(run, whole)
        shutil.rmtree(run)
      done["points"] = points
      if code != worker_lib.KILLED and not left:
        break
      worker.stop_in_time(folder, done)
    shutil.rmtree(folder)
    return done

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    points = sum((collections.Counter(d["points"]) for d in done),
                 collections.Counter())
    where = ", ".join(f"{count} {point}" for point, count in
                      sorted(points.items(), key=lambda item: -item[1]))
    return (f"{points.total()} ({where}) in {sum(d['runs'] for d in done)} "
            "runs, each bit-equal to the run without faults in parameters, "
            "optimizer state and "
            f"{sum(d['compared'] for d in done):,} metric values")


def _kill(rng: random.Random, evaluates: bool) -> str:
  if rng.random() < 0.25:
    return f"clock:{rng.uniform(*_CLOCK):.2f}:kill"
  return trials.random_fault(rng, evaluates)


class Sigterms:
  """SIGTERM to a process alone, and to one of two."""

  name = "sigterms"
  fault = "SIGTERM at random points, 1 process and 2 processes"

  def __init__(self, sigterms: int):
    self._sigterms = sigterms

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"number": i, "processes": 2 if i % 10 < _TWO_PROCESSES else 1,
             "sigterms": sigterms} for i, sigterms in
            worker_lib.in_units(self._sigterms, _SIGTERMS_A_UNIT)]

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    training = _training(
        worker, unit["processes"], evaluates=unit["processes"] == 1)
    whole = worker.whole(training)
    folder = worker.folder / f"sigterms{unit['number']}"
    run = folder / "run"
    done = worker.read_so_far(folder, {"stops": [], "ended": 0})
    while len(done["stops"]) < unit["sigterms"]:
      rng = worker.random("sigterms", unit["number"], *done["stops"],
                          done["ended"])
      fault = f"step:{rng.randint(1, 7)}:term"
      if rng.random() < 0.25 and training.processes == 1:
        # (One of two that leaves before they are connected is waited for.)
        fault = f"clock:{rng.uniform(*_CLOCK):.2f}:term"
      code = worker.go_on(
          training, run, fault, victim=rng.randrange(training.processes))
      if code == errors.PREEMPTED_EXIT_CODE:
        done["stops"].append(_newest_checkpoint(run))
      else:  # It was done before the clock's signal came.
        trials.assert_same_run(run, whole)
        shutil.rmtree(run)
        done["ended"] += 1
      worker.stop_in_time(folder, done)
    if worker.go_on(training, run):
      raise RuntimeError("a run that nothing stopped did not end with 0")
    compared = trials.assert_same_run(run, whole)
    shutil.rmtree(folder)
    return {"processes": unit["processes"], "stops": done["stops"],
            "compared": compared}

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    counts = {n: sum(len(d["stops"]) for d in done if d["processes"] == n)
              for n in (1, 2)}
    return (f"{counts[1]} of 1 process, {counts[2]} of 2 (one of them gets the "
            "signal): all left with code 75 at the same step, and went on "
            "bit-equal to the run without faults")


def _newest_checkpoint(folder: pathlib.Path) -> int:
  """The step that a stopped run saved; -1 where it had not begun to train."""
  return max((int(path.name.split("_")[1])
              for path in folder.glob("checkpoint_*")
              if path.name.split("_")[1].isdigit()), default=-1)
