"""Metrics that T5X models report, on top of `clu.metrics`.

A metric is carried as sums until `compute`, where the only division happens.
Time and the number of steps are not known inside a compiled step: `Time`
metrics get their duration, `Step` metrics their number of steps, on the host
(`set_time_metrics_duration`, `set_step_metrics_num_steps`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from clu import metrics as clu_metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

MetricsMap = MutableMapping[str, clu_metrics.Metric]
Scalar = int | float | np.number | np.ndarray | jax.Array


def _total(values) -> jax.Array:
  """The sum of a scalar or an array, as a scalar array."""
  return jnp.sum(jnp.atleast_1d(jnp.asarray(values)))


def _known(value, setter: str):
  if value is None:
    raise ValueError(f"`{setter}` must be called before `compute`")
  return value


@flax.struct.dataclass
class Sum(clu_metrics.Metric):
  """A plain sum."""

  total: Scalar

  @classmethod
  def from_model_output(cls, values: Scalar, **_) -> Sum:
    return cls(total=_total(values))

  def merge(self, other: Sum) -> Sum:
    return type(self)(total=self.total + other.total)

  def compute(self) -> Scalar:
    return self.total


@flax.struct.dataclass
class Step(clu_metrics.Metric):
  """Something counted per training step.

  Microbatches would each count as a step: the host sets the true number.
  """

  steps: int | None = 1

  def replace_steps(self, steps: int) -> Step:
    return self.replace(steps=steps)

  def compute(self) -> Scalar:
    return _known(self.steps, "replace_steps")


@flax.struct.dataclass
class AveragePerStep(Step):
  """A sum divided by the number of steps."""

  total: Scalar | None = None

  @classmethod
  def from_model_output(
      cls, values: Scalar, steps: int | None = 1, **_) -> AveragePerStep:
    return cls(total=_total(values), steps=steps)

  def merge(self, other: AveragePerStep) -> AveragePerStep:
    return type(self)(total=self.total + other.total,
                      steps=self.steps + other.steps)

  def compute(self) -> Scalar:
    return _known(self.total, "from_model_output") / Step.compute(self)


@flax.struct.dataclass
class Time(clu_metrics.Metric):
  """The duration itself, in seconds, set on the host."""

  duration: Scalar | None = None

  def merge(self, other: Time) -> Time:
    return self

  def replace_duration(self, duration: Scalar) -> Time:
    return self.replace(duration=duration)

  def compute(self) -> Scalar:
    return _known(self.duration, "replace_duration")


@flax.struct.dataclass
class TimeRate(Time):
  """A sum per second."""

  numerator: Scalar | None = None

  @classmethod
  def from_model_output(cls, numerator: Scalar, **_) -> TimeRate:
    return cls(numerator=numerator)

  def merge(self, other: TimeRate) -> TimeRate:
    if self.duration is not None or other.duration is not None:
      raise ValueError("Rates are merged before their duration is set")
    return type(self)(numerator=self.numerator + other.numerator)

  def compute(self) -> Scalar:
    return self.numerator / Time.compute(self)


@flax.struct.dataclass
class StepsPerTime(Step, Time):
  """Steps per second."""

  @classmethod
  def from_model_output(cls, steps: int | None = 1, **_) -> StepsPerTime:
    return cls(steps=steps)

  def merge(self, other: StepsPerTime) -> StepsPerTime:
    return type(self)(steps=self.steps + other.steps)

  def compute(self) -> Scalar:
    return Step.compute(self) / Time.compute(self)


def is_metric_obj(obj: Any) -> bool:
  return isinstance(obj, clu_metrics.Metric)


def is_time_metric(obj: Any) -> bool:
  return isinstance(obj, Time)


def create_metrics_dict(
    float_metrics_dict: Mapping[str, Scalar]) -> dict[str, clu_metrics.Metric]:
  """Plain numbers as `Sum`s."""
  return {name: Sum(value) for name, value in float_metrics_dict.items()}


def shape_obj_to_defined_obj(obj: clu_metrics.Metric) -> clu_metrics.Metric:
  """The metric of zeros whose leaves have the given shapes and dtypes."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), obj)


def set_time_metrics_duration(metrics, duration: Scalar):
  """Sets the duration, in seconds, of every `Time` metric of a tree."""
  return jax.tree.map(
      lambda m: m.replace_duration(duration) if is_time_metric(m) else m,
      metrics, is_leaf=is_metric_obj)


def set_step_metrics_num_steps(metrics, num_steps: int):
  """Sets the number of steps of every `Step` metric of a tree."""
  return jax.tree.map(
      lambda m: m.replace_steps(num_steps) if isinstance(m, Step) else m,
      metrics, is_leaf=is_metric_obj)
