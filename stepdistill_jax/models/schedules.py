"""Schedules of a loss weight over training, each a gin configurable.

A schedule maps the global step to a weight, so it stays what it was when a run
is resumed. With our run files a run counts its own steps from 0. Steps count
from `start_step`: where a gin file restores the step of the checkpoint that a
run begins from, that is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import TypeGuard

import jax.numpy as jnp

Step = int | jnp.ndarray
Schedule = Callable[[Step], jnp.ndarray]
# What a gin file may bind where a weight is wanted.
Weight = float | Schedule


class Constant:
  """The same weight at every step.

  >>> float(Constant(0.5)(1000))
  0.5
  """

  def __init__(self, value: float):
    self.value = float(value)

  def __call__(self, step: Step) -> jnp.ndarray:
    return jnp.full(jnp.shape(step), self.value, jnp.float32)


def _progress(step: Step, start_step: int, num_steps: int) -> jnp.ndarray:
  """The share of `num_steps` that is done, in [0, 1]."""
  done = jnp.asarray(step, jnp.float32) - start_step
  return jnp.clip(done / num_steps, 0.0, 1.0)


def _check_steps(num_steps: int) -> None:
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, got {num_steps}")


def constant(value: float) -> Schedule:
  """The same weight at every step."""
  return Constant(value)


def linear(
    start: float, end: float, num_steps: int, start_step: int = 0) -> Schedule:
  """A straight line from `start` to `end`, then `end`.

  >>> [float(linear(1.0, 0.0, num_steps=4)(s)) for s in (0, 1, 4, 9)]
  [1.0, 0.75, 0.0, 0.0]
  """
  _check_steps(num_steps)
  return lambda step: (
      start + (end - start) * _progress(step, start_step, num_steps))


def cosine(
    start: float, end: float, num_steps: int, start_step: int = 0) -> Schedule:
  """Half a cosine wave from `start` to `end`, then `end`.

  >>> [round(float(cosine(1.0, 0.0, num_steps=4)(s)), 3) for s in (0, 2, 4)]
  [1.0, 0.5, 0.0]
  """
  _check_steps(num_steps)
  def schedule(step: Step) -> jnp.ndarray:
    wave = 0.5 * (1 + jnp.cos(
        jnp.pi * _progress(step, start_step, num_steps)))
    return end + (start - end) * wave
  return schedule


def step(
    values: Sequence[float], boundaries: Sequence[int], start_step: int = 0,
) -> Schedule:
  """`values[i]` until `boundaries[i]`, the last value from then on.

  >>> schedule = step([0.5, 0.8, 1.0], boundaries=[100, 200])
  >>> [round(float(schedule(s)), 1) for s in (0, 99, 100, 200, 900)]
  [0.5, 0.5, 0.8, 1.0, 1.0]
  """
  if len(values) != len(boundaries) + 1:
    raise ValueError(
        f"a step schedule needs one value more than boundaries, got "
        f"{len(values)} values and {len(boundaries)} boundaries")
  if list(boundaries) != sorted(set(boundaries)):
    # Refused, not sorted: the values would go to other steps than meant.
    raise ValueError(f"boundaries must increase, got {list(boundaries)}")
  table = jnp.asarray(values, jnp.float32)
  edges = jnp.asarray(boundaries, jnp.int32)
  def schedule(at_step: Step) -> jnp.ndarray:
    passed = jnp.sum(jnp.asarray(at_step - start_step, jnp.int32) >= edges)
    return table[passed]
  return schedule


def as_schedule(weight: Weight) -> Schedule:
  """A number becomes a constant schedule; a schedule stays what it is."""
  return weight if callable(weight) else Constant(weight)


def is_constant(schedule: Schedule) -> TypeGuard[Constant]:
  """True if the weight is known not to depend on the step."""
  return isinstance(schedule, Constant)


def steps_of_epochs(epochs: float, records: int, batch_size: int) -> int:
  """Steps that see each of `records` so many times.

  >>> steps_of_epochs(epochs=3, records=720, batch_size=64)
  34
  """
  return math.ceil(epochs * records / batch_size)
