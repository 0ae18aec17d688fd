"""Trains and scores the plan's students, one after the other, in one process.

    OUTPUT/runs/{run}/     as `t5x train` leaves it
    OUTPUT/scores/{run}/   as `stepdistill-eval` leaves it

TensorFlow and JAX are imported once, and all seeds and sizes of a method run
the same compiled program, out of JAX's compilation cache. What is finished is
skipped; a training that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any, Callable, Protocol

from stepdistill_jax import progress as progress_lib
from stepdistill_jax import run_record
from stepdistill_jax import t5x_command
from stepdistill_jax.data import tracking
from stepdistill_jax.quickstart import plan as plan_lib


class Watcher(progress_lib.Watcher, Protocol):
  """Follows the runs; see `display`."""

  def begin_run(self, run: plan_lib.Run) -> None:
    """Called before a run's training, or where it is skipped."""

  def scoring(self, done: int, total: int) -> None:
    """Called as answers to the test stories come."""

  def end_run(self, run: plan_lib.Run, results: dict[str, Any],
              seconds: float | None) -> None:
    """Called with a run's scores; seconds is None where all was skipped."""


def train_and_score(
    output_dir: pathlib.Path, plan: plan_lib.Plan, records_dir: pathlib.Path,
    watcher: Watcher, clock: Callable[[], float] = time.monotonic) -> None:
  """Does all of the plan's runs that are not done yet.

  Args:
    output_dir: the quickstart's folder.
    plan: what to run.
    records_dir: of the benchmark.
    watcher: shows progress.
    clock: in seconds.
  """
  # Imported before the first run: they register gin configurables, which gin
  # refuses while it holds a run's configuration.
  from stepdistill_jax.evaluation import model_loading  # pylint: disable=unused-import

  for run in plan.runs():
    start = clock()
    watcher.begin_run(run)
    trained = _train(output_dir, plan, records_dir, run, watcher)
    scored = _score(output_dir, records_dir, run, watcher)
    watcher.end_run(run, read_results(output_dir, run),
                    clock() - start if trained or scored else None)


def run_dir(output_dir: pathlib.Path, run: plan_lib.Run) -> pathlib.Path:
  """The run's MODEL_DIR."""
  return output_dir / "runs" / run.name


def scores_dir(output_dir: pathlib.Path, run: plan_lib.Run) -> pathlib.Path:
  """The folder of its `results.json` and `examples.jsonl`."""
  return output_dir / "scores" / run.name


def read_results(
    output_dir: pathlib.Path, run: plan_lib.Run) -> dict[str, Any]:
  """What the eval binary found of a run."""
  path = scores_dir(output_dir, run) / "results.json"
  return json.loads(path.read_text("utf-8"))


def bindings(output_dir: pathlib.Path, plan: plan_lib.Plan,
             run: plan_lib.Run) -> list[str]:
  """What a run changes in its gin recipe."""
  return [
      f"MODEL_DIR = '{run_dir(output_dir, run)}'",
      f"TRAIN_SHARE = {run.share}",
      f"TRAIN_STEPS = {plan.steps}",
      f"RANDOM_SEED = {run.seed}",
      # Once on the way, for the curves in TensorBoard and for a resumption.
      f"EVAL_PERIOD = {max(1, plan.steps // 2)}",
      f"CHECKPOINT_PERIOD = {max(1, plan.steps // 2)}",
  ]


def _train(output_dir, plan, records_dir, run, watcher) -> bool:
  """Trains a run; False if it was trained already."""
  folder = run_dir(output_dir, run)
  finished = (run_record.read(folder) or {}).get("finished")
  if finished and finished["step"] == plan.steps:
    return False
  with progress_lib.watched_by(watcher):
    t5x_command.run(
        "train", [run.gin_file], bindings(output_dir, plan, run),
        tfds_data_dir=str(records_dir))
  return True


def _score(output_dir, records_dir, run, watcher) -> bool:
  """Scores a run on the test stories; False if it was scored already."""
  from stepdistill_jax.evaluation import scoring

  folder = scores_dir(output_dir, run)
  if (folder / "results.json").is_file():
    return False
  scoring.score_checkpoint(
      run_dir(output_dir, run), tracking.DATASET, "test",
      records_dir=records_dir, output=folder, name=run.name,
      # The longest rationale is three sentences; a stray one is cut short.
      rationale_length=32,
      progress=lambda done, total, what: watcher.scoring(done, total))
  return True
