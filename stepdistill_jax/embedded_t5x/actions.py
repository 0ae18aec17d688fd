"""What may end training early: actions that look at metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import enum
import math
from typing import Any

from absl import logging

from stepdistill_jax.config import setting_checks
from stepdistill_jax.util import errors


@enum.unique
class ActionMode(enum.Enum):
  """After which part of an epoch an action runs."""

  TRAIN = 1
  TRAIN_EVAL = 2
  INFER_EVAL = 3


class BaseAction:
  """Something to do with the metrics of a train loop or an evaluation."""

  def run(self, train_state, metrics_by_task: Mapping[str, Mapping[str, Any]]
          ) -> bool:
    """Returns True to end training."""
    raise NotImplementedError


ActionMapType = Mapping[ActionMode, Sequence[BaseAction]]


def _scalar(metrics_by_task, task: str, metric: str) -> float | None:
  """The metric as a float; None, with a warning, if there is none."""
  value = metrics_by_task.get(task, {}).get(metric)
  try:
    if isinstance(value, int):  # A count; as in T5X, no metric to judge by.
      raise TypeError
    return float(getattr(value, "value", value))  # clu's, or a number.
  except (TypeError, ValueError):
    logging.warning(
        "An action watches metric %s of %s; there are %s", metric, task,
        {k: sorted(v) for k, v in metrics_by_task.items()})
    return None


class EarlyStoppingAction(BaseAction):
  """Ends training when a metric has stopped improving."""

  def __init__(self, metric: tuple[str, str], mode: str, patience: int = 3,
               atol: float = 0.0, rtol: float = 0.0):
    """Initializes.

    Args:
      mode: `min` if less is better, else `max`.
      patience: how many values in a row must bring no improvement.
      atol: a change of at most atol + rtol * |previous| is not an improvement.
      rtol: see `atol`.
    """
    setting_checks.require_choice(
        "EarlyStoppingAction's mode", mode, ("min", "max"))
    if atol < 0 or rtol < 0:
      raise errors.InvalidValue(
          "EarlyStoppingAction's atol and rtol must be >= 0, got "
          f"{atol} and {rtol}")
    self._task, self._metric = metric
    self._sign = 1.0 if mode == "min" else -1.0
    self._patience, self._atol, self._rtol = patience, atol, rtol
    self._history = []

  def run(self, train_state, metrics_by_task) -> bool:
    value = _scalar(metrics_by_task, self._task, self._metric)
    if value is None:
      return False
    self._history = [*self._history, value][-self._patience:]
    improved = any(
        self._sign * (previous - current)
        > self._atol + self._rtol * abs(previous)
        for previous, current in zip(self._history, self._history[1:]))
    if improved or len(self._history) < self._patience:
      return False
    logging.warning("Ending training: %s of %s did not improve: %s",
                    self._metric, self._task, self._history)
    return True


class TerminateOnNanAction(BaseAction):
  """Ends training when a metric is not finite."""

  def __init__(self, task: str, metric: str = "loss"):
    self._task, self._metric = task, metric

  def run(self, train_state, metrics_by_task) -> bool:
    value = _scalar(metrics_by_task, self._task, self._metric)
    if value is None or math.isfinite(value):
      return False
    logging.warning("Ending training: %s of %s is %s", self._metric,
                    self._task, value)
    return True
