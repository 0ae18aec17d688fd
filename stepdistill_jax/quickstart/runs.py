"""The runs of a plan as jobs for `study.workers`."""

import pathlib

from stepdistill_jax.quickstart import (
  plan as plan_lib,
  tracking,
  tracking_vocabulary,
)
from stepdistill_jax.study import jobs as jobs_lib

# A pair is two examples; a step of step_by_step takes about twice as long.
_EXAMPLES_PER_RECORD = {"step_by_step": 2}


def records_dir(output_dir: pathlib.Path) -> pathlib.Path:
  """Where a quickstart has its records."""
  return output_dir / "records"


def bindings(plan: plan_lib.Plan, run: plan_lib.Run) -> tuple[str, ...]:
  """What a run changes in its gin recipe."""
  unwatched = [] if plan.watched else [
      f"train_script.train.{name}_eval_dataset_cfg = None"
      for name in ("train", "infer")]
  return (
      f"TRAIN_SHARE = {run.share}",
      f"TRAIN_STEPS = {plan.steps}",
      f"RANDOM_SEED = {run.seed}",
      f"MAX_INPUTS = {tracking_vocabulary.longest_inputs(plan.difficulty)}",
      # Once on the way, for the curves in TensorBoard and for a resumption.
      f"EVAL_PERIOD = {max(1, plan.steps // 2)}",
      f"CHECKPOINT_PERIOD = {max(1, plan.steps // 2)}",
      *unwatched,
  )


def jobs(output_dir: pathlib.Path, plan: plan_lib.Plan) -> list[jobs_lib.Job]:
  """A plan's runs, in their order."""
  return [
      jobs_lib.Job(
          name=run.name,
          title=f"{run.method:12}  {run.share:4.0%} of the stories  seed "
          f"{run.seed}",
          gin_files=tuple(plan.gin_files(run)), bindings=bindings(plan, run),
          steps=plan.steps, benchmarks=tracking.DATASET,
          records_dir=str(records_dir(output_dir)),
          # The longest rationale is three sentences; a stray one is cut short.
          settings={"rationale_length": 32},
          step_cost=_EXAMPLES_PER_RECORD.get(run.method, 1))
      for run in plan.runs()]
