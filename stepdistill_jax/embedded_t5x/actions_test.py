"""Actions that end training."""

import clu.values
import pytest

from stepdistill_jax.embedded_t5x import actions


def stops(action, values, task="t", metric="loss"):
  """For each value in turn, whether the action asks to stop."""
  return [action.run(None, {task: {metric: v}}) for v in values]


def test_stops_when_loss_stops_falling():
  action = actions.EarlyStoppingAction(("t", "loss"), mode="min", patience=3)
  values = [clu.values.Scalar(v) for v in (5.0, 4.0, 3.0, 3.5, 3.6)]
  assert stops(action, values) == [False, False, False, False, True]


def test_stops_when_accuracy_stops_rising():
  action = actions.EarlyStoppingAction(
      ("t", "accuracy"), mode="max", patience=2, atol=0.1)
  assert stops(action, [0.1, 0.5, 0.55], metric="accuracy") == [
      False, False, True]


def test_relative_tolerance():
  action = actions.EarlyStoppingAction(
      ("t", "loss"), mode="min", patience=2, rtol=0.1)
  assert stops(action, [100.0, 85.0, 80.0]) == [False, False, True]


def test_missing_metrics_never_stop():
  action = actions.EarlyStoppingAction(("t", "loss"), "min", patience=1)
  assert not action.run(None, {"other": {}})
  assert not action.run(None, {"t": {"accuracy": 1.0}})
  assert not actions.TerminateOnNanAction("t").run(None, {"t": {}})


def test_nan_ends_training():
  action = actions.TerminateOnNanAction(task="t")
  values = [1.0, clu.values.Scalar(2.0), float("inf"), float("nan")]
  assert stops(action, values) == [False, False, True, True]


def test_arguments_are_checked():
  with pytest.raises(ValueError, match="'less'"):
    actions.EarlyStoppingAction(("t", "loss"), mode="less")
  with pytest.raises(ValueError, match=">= 0"):
    actions.EarlyStoppingAction(("t", "loss"), mode="min", atol=-1)
