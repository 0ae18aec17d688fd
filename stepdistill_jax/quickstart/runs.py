"""Trains and scores one student of a plan.

    OUTPUT/runs/{run}/     as `t5x train` leaves it
    OUTPUT/scores/{run}/   as `stepdistill-eval` leaves it

What is finished is skipped; a training that was interrupted goes on from its
last checkpoint.
"""

import json
import pathlib
from typing import Any, Protocol

from stepdistill_jax.quickstart import (
  plan as plan_lib,
  tracking,
  tracking_vocabulary,
)
from stepdistill_jax.runs import run_record
from stepdistill_jax.util import progress as progress_lib


class Watcher(progress_lib.Watcher, Protocol):
  """Follows one run."""

  def scoring(self, done: int, total: int) -> None:
    """Called as answers to the test stories come."""


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


def is_done(
    output_dir: pathlib.Path, plan: plan_lib.Plan, run: plan_lib.Run) -> bool:
  """Whether a run is trained to its end and scored."""
  return _is_trained(output_dir, plan, run) and _is_scored(output_dir, run)


def _is_trained(output_dir, plan, run) -> bool:
  record = run_record.read(run_dir(output_dir, run)) or {}
  return record.get("finished", {}).get("step") == plan.steps


def _is_scored(output_dir, run) -> bool:
  return (scores_dir(output_dir, run) / "results.json").is_file()


def bindings(output_dir: pathlib.Path, plan: plan_lib.Plan,
             run: plan_lib.Run) -> list[str]:
  """What a run changes in its gin recipe."""
  unwatched = [] if plan.watched else [
      f"train_script.train.{name}_eval_dataset_cfg = None"
      for name in ("train", "infer")]
  return [
      f"MODEL_DIR = {str(run_dir(output_dir, run))!r}",
      f"TRAIN_SHARE = {run.share}",
      f"TRAIN_STEPS = {plan.steps}",
      f"RANDOM_SEED = {run.seed}",
      f"MAX_INPUTS = {tracking_vocabulary.longest_inputs(plan.difficulty)}",
      # Once on the way, for the curves in TensorBoard and for a resumption.
      f"EVAL_PERIOD = {max(1, plan.steps // 2)}",
      f"CHECKPOINT_PERIOD = {max(1, plan.steps // 2)}",
      *unwatched,
  ]


def train_and_score(
    output_dir: pathlib.Path, plan: plan_lib.Plan, records_dir: pathlib.Path,
    run: plan_lib.Run, watcher: Watcher) -> None:
  """Does what is left to do of a run.

  Args:
    output_dir: the quickstart's folder.
    plan: which the run is part of.
    records_dir: of the benchmark.
    run: what to train.
    watcher: called with steps and answers.
  """
  from stepdistill_jax.embedded_t5x import command as t5x_command
  from stepdistill_jax.evaluation import scoring

  # Imported before the first run: it registers gin configurables, which gin
  # refuses while it holds a run's configuration.
  from stepdistill_jax.interop import rebuilding  # noqa: F401

  if not _is_trained(output_dir, plan, run):
    with progress_lib.watched_by(watcher):
      t5x_command.run(
          "train", plan.gin_files(run), bindings(output_dir, plan, run),
          tfds_data_dir=str(records_dir))
  if not _is_scored(output_dir, run):
    scoring.score_checkpoint(
        run_dir(output_dir, run), tracking.DATASET, "test",
        records_dir=records_dir, output=scores_dir(output_dir, run),
        name=run.name,
        # The longest rationale is three sentences; a stray one is cut short.
        rationale_length=32,
        progress=lambda done, total, what: watcher.scoring(done, total))
