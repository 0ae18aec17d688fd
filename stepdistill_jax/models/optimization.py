"""Learning-rate schedules and optimizers by name, for gin files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from t5x import adafactor, optimizers

from stepdistill_jax.config import gin_values, inherited_bindings
from stepdistill_jax.runs import guards
from stepdistill_jax.util import errors

SCHEDULES, OPTIMIZERS = gin_values.SCHEDULES, gin_values.OPTIMIZERS


def learning_rate(
    schedule: str, peak: float, total_steps: int, warmup_steps: int = 0
) -> Callable[[Any], Any]:
  """A learning rate over the run's own steps, by name.

  With step s, W = warmup_steps, T = total_steps and p = peak, it is p s / W
  for s < W, and then

  | name | rate |
  |---|---|
  | `linear` | p (T - s) / (T - W) |
  | `cosine` | p (1 + cos(pi (s - W) / (T - W))) / 2 |
  | `constant` | p |
  | `rsqrt` | p sqrt(max(W, 1) / max(s, 1)), T5's of pretraining |

  Args:
    schedule: one of SCHEDULES.
    peak: the largest rate.
    total_steps: after which `linear` and `cosine` are 0.
    warmup_steps: steps from 0 to `peak`.

  Raises:
    errors.UserError: an unknown name, or a warm-up that is not part of the run.

  Examples:
    >>> rate = learning_rate("linear", 1.0, total_steps=12, warmup_steps=2)
    >>> [round(float(rate(s)), 2) for s in (0, 1, 2, 7, 12)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
  """
  if schedule not in SCHEDULES:
    raise errors.UserError(errors.unknown_name_message(
        "LEARNING_RATE_SCHEDULE", str(schedule), SCHEDULES,
        f"(all: {', '.join(SCHEDULES)})"))
  if not 0 <= warmup_steps < max(total_steps, 1):
    raise errors.UserError(
        f"WARMUP_STEPS = {warmup_steps} must be at least 0 and less than "
        f"TRAIN_STEPS = {total_steps}")
  rest = total_steps - warmup_steps
  schedules: dict[str, Callable[[], Any]] = {
      "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
      "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
      "constant": lambda: optax.constant_schedule(peak),
      "rsqrt": lambda: lambda step: peak * jnp.sqrt(
          max(warmup_steps, 1) / jnp.maximum(step + warmup_steps, 1)),
  }
  after: Callable[[Any], Any] = schedules[schedule]()
  if not warmup_steps:
    return after
  joined: Callable[[Any], Any] = optax.join_schedules(
      [optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])
  return joined


@inherited_bindings.followed_by_function(optax.clip_by_global_norm)
def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """`optax.clip_by_global_norm`, whose gin bindings count here, in few kernels.

  Args:
    max_norm: gradients of a larger norm are divided by it, times this.
  """

  def update(gradients: Any, state: Any, params: Any = None) -> Any:
    del params
    norm = jnp.sqrt(guards.sum_of_squares(gradients))
    return jax.tree.map(
        lambda x: jnp.where(
            norm < max_norm, x, x / norm.astype(x.dtype) * max_norm),
        gradients), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def optimizer(
    name: str, learning_rate: Callable[[Any], Any], max_norm: float = 1.0,
    weight_decay: float = 0.0) -> Any:
  """An optimizer by name, as T5X's definition.

  Args:
    name: one of OPTIMIZERS.
    learning_rate: a schedule. Adafactor has the trainer's instead, which
      gin/runs/paper.gin makes the same.
    max_norm: gradients are clipped to this norm; Adafactor clips its own way.
    weight_decay: of adamw and lion.
  """
  if name not in OPTIMIZERS:
    raise errors.UserError(errors.unknown_name_message(
        "OPTIMIZER", str(name), OPTIMIZERS,
        f"(all: {', '.join(OPTIMIZERS)}; or T5X's, such as "
        "@adafactor.Adafactor())"))
  if name == "adafactor":
    return adafactor.Adafactor(
        decay_rate=0.8, step_offset=0,
        logical_factor_rules=adafactor.standard_logical_factor_rules())
  rule = {
      "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
      "lion": lambda: optax.lion(learning_rate, weight_decay=weight_decay),
      "sgd": lambda: optax.sgd(learning_rate, momentum=0.9),
  }[name]()
  return optimizers.chain([clip_by_global_norm(max_norm), rule])


def by_name(definition: Any) -> Any:
  """What a gin file binds as OPTIMIZER: a definition, or a name of one."""
  if not isinstance(definition, str):
    return definition
  try:
    bound = gin.get_bindings(optimizer, resolve_references=False)
  except ValueError:  # No file imports it.
    bound = {}
  if "learning_rate" not in bound:
    raise errors.UserError(
        f"OPTIMIZER = {definition!r}: optimizers have names in files that "
        "include gin/runs/paper.gin; here bind T5X's, such as "
        "@adafactor.Adafactor()")
  return gin.get_configurable(optimizer)(definition)
