"""How much each task of a student weighs in the loss, as gin configurables.

The order of the tasks is that of their ids in `decoder_task_ids`: the first
one is 1. The first one is also the one that a paired batch is asked for when
the model predicts.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from stepdistill_jax.config import setting_checks
from stepdistill_jax.models import schedules

LABEL, RATIONALE = "label", "rationale"
PARAMETRIZATIONS = ("alpha", "lambda")


class TaskWeights:
  """One weight schedule a task, by the task's name.

  >>> weights = TaskWeights({"label": 0.25, "rationale": 0.75})
  >>> weights.names, weights.at(0).tolist()
  (('label', 'rationale'), [0.25, 0.75])
  """

  def __init__(self, weights: Mapping[str, schedules.Weight]):
    if not weights:
      raise ValueError("a student needs at least one task; got no weights")
    self._schedules = {
        name: schedules.as_schedule(w) for name, w in weights.items()}
    for name, schedule in self._schedules.items():
      if schedules.is_constant(schedule) and schedule.value < 0:
        raise ValueError(
            f"the weight of task {name!r} must not be negative, got "
            f"{schedule.value}")

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self._schedules)

  @property
  def is_constant(self) -> bool:
    return all(schedules.is_constant(s) for s in self._schedules.values())

  def at(self, step: schedules.Step) -> jnp.ndarray:
    """The weights at a step, `[tasks]` float32."""
    return jnp.stack(
        [jnp.asarray(s(step), jnp.float32) for s in self._schedules.values()])


def single_task(name: str = LABEL) -> TaskWeights:
  """One task of weight 1: plain fine-tuning, distillation, synthetic data."""
  return TaskWeights({name: 1.0})


def label_and_rationale(
    parametrization: str = "alpha", alpha: schedules.Weight = 0.5,
    lambda_: schedules.Weight = 1.0) -> TaskWeights:
  """Distilling step-by-step's two tasks, weighted as the paper or its code do.

  * `alpha` (the released code): L = α·L_label + (1−α)·L_rationale
  * `lambda` (the paper's equation): L = L_label + λ·L_rationale

  Args:
    parametrization: `alpha` or `lambda`; the other one's value is not used.
    alpha: α, a number or a schedule with values in [0, 1].
    lambda_: λ, a number or a schedule.

  Returns:
    The weights of the tasks `label` and `rationale`.
  """
  setting_checks.require_choice(
      "parametrization", parametrization, PARAMETRIZATIONS)
  if parametrization == "lambda":
    return TaskWeights({LABEL: 1.0, RATIONALE: lambda_})
  schedule = schedules.as_schedule(alpha)
  if not schedules.is_constant(schedule):
    return TaskWeights({
        LABEL: schedule, RATIONALE: lambda step: 1.0 - schedule(step)})
  if not 0.0 <= schedule.value <= 1.0:
    raise ValueError(
        f"alpha must be between 0 and 1, got {schedule.value}; for weights "
        "that do not sum to 1 use parametrization 'lambda' or TaskWeights")
  return TaskWeights({LABEL: schedule.value, RATIONALE: 1.0 - schedule.value})
