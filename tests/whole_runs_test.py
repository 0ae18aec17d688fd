"""Guards, the watchdog and saving policies, each in a whole run by gin."""

import pathlib

import jax
import numpy as np
import pytest

from stepdistill_jax.runs import (
  checkpoint_paths,
  fault_points,
  restore_choice,
  schedule,
  t5x_command,
)
from stepdistill_jax.util import errors
from tests.support import trials

STEPS = 12
TASK = "t5x_testing_reverse"
BINDINGS = (
    f"TRAIN_STEPS = {STEPS}", "EVAL_PERIOD = 3",
    "train_script.train.stats_period = 1", "DROPOUT_RATE = 0.0",
    "utils.SaveCheckpointConfig.period = 3",
    "t5.network.T5Config.num_encoder_layers = 1",  # Less to compile.
    "t5.network.T5Config.num_decoder_layers = 1",
    "train_script.train.infer_eval_dataset_cfg = None")
NO_EVALUATION = "train_script.train.train_eval_dataset_cfg = None"
GIN = """\
from __gin__ import dynamic_registration
import __main__ as train_script
from stepdistill_jax.runs import guards
from tests.support import trial_data
from stepdistill_jax.runs import watchdog
from t5x import checkpoints
train_script.train.get_dataset_fn = @trial_data.bad_dataset
trial_data.bad_dataset.factors = {}
"""


def run(tmp_path, *bindings):
  """(run folder, last state) of a training."""
  gin_file = tmp_path / "trial.gin"
  gin_file.write_text(GIN)
  folder = tmp_path / "run"
  _, state = t5x_command.run(
      "train", ["tests/support/testing.gin", str(gin_file)],
      [f"MODEL_DIR = {str(folder)!r}", *BINDINGS, *bindings],
      engine="embedded")
  return folder, state


def train_metric(folder: pathlib.Path, tag: str) -> dict[int, float]:
  """step -> value."""
  return {step: float(value) for (part, name, step), value
          in trials.scalars(folder).items() if (part, name) == ("train", tag)}


def steps_saved(folder: pathlib.Path) -> list[int]:
  return list(checkpoint_paths.all_steps(str(folder)))


def is_finite(state) -> bool:
  return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))


def test_a_batch_that_gives_nan_stops_the_run(tmp_path):
  with pytest.raises(errors.UserError, match=(
      r"not finite in 1 of the steps up to 5 \(loss nan\); nothing was saved "
      "since")):
    run(tmp_path, NO_EVALUATION, "trial_data.bad_dataset.factors = {4: 'nan'}")
  folder = tmp_path / "run"
  # The metrics of the step are written; what is saved is from before.
  assert np.isnan(train_metric(folder, "loss")[5])
  assert train_metric(folder, "guard/nonfinite_steps")[5] == 1
  assert steps_saved(folder) == [0, 3]
  assert restore_choice.problems(str(folder / "checkpoint_3")) == []


def test_a_batch_that_gives_nan_is_skipped(tmp_path, capsys):
  folder, state = run(
      tmp_path, NO_EVALUATION, "trial_data.bad_dataset.factors = {4: 'nan'}",
      "guards.Guards.nonfinite = 'skip'")
  skipped = train_metric(folder, "guard/nonfinite_steps")
  assert [step for step, count in skipped.items() if count] == [5]
  losses = train_metric(folder, "loss")
  assert np.isnan(losses.pop(5)) and np.all(np.isfinite(list(losses.values())))
  assert is_finite(state) and int(state.step) == STEPS
  assert "warning: 1 of the steps up to 5 were skipped" in " ".join(
      capsys.readouterr().err.split())
  assert steps_saved(folder)[-1] == STEPS


def test_a_batch_that_gives_nan_is_ignored(tmp_path):
  folder, state = run(
      tmp_path, NO_EVALUATION, "trial_data.bad_dataset.factors = {4: 'nan'}",
      "guards.Guards.nonfinite = 'ignore'")
  losses = train_metric(folder, "loss")
  assert [step for step in losses if np.isnan(losses[step])] == list(
      range(5, STEPS + 1))
  assert not is_finite(state)


def test_a_spike_stops_the_run_and_the_watchdog_names_a_late_step(
    tmp_path, capsys, monkeypatch):
  # (A late batch may have been read ahead: guards_test has it, by the clock.)
  monkeypatch.setenv(fault_points.VARIABLE, "step:6:hang:1.5")
  with pytest.raises(errors.UserError, match=(
      "the loss up to step 11 is .*, a spike above the")):
    run(tmp_path, NO_EVALUATION, "guards.Guards.spike = 'stop'",
        "trial_data.bad_dataset.factors = {10: 100.0}",
        "watchdog.Watchdog.step_seconds = 0.4")
  folder = tmp_path / "run"
  losses = train_metric(folder, "loss")
  assert losses[11] > 50 * losses[10]  # It is written.
  assert steps_saved(folder) == [0, 3, 6, 9]
  said = " ".join(capsys.readouterr().err.split())
  assert "warning: running a training step (after step 5) takes" in said
  assert "longer than the 0.4 s that the watchdog allows" in said


def test_the_last_ones_every_mth_and_chosen_steps_are_kept(tmp_path):
  folder, _ = run(
      tmp_path, NO_EVALUATION, "utils.SaveCheckpointConfig.keep = 2",
      "utils.SaveCheckpointConfig.checkpoint_steps = [10]",
      "checkpoints.OrbaxCheckpointManagerInterface.force_keep_period = 6")
  assert steps_saved(folder) == [0, 6, 10, 12]


def test_the_best_by_a_metric_and_the_latest_are_kept(tmp_path):
  manager = "checkpoints.OrbaxCheckpointManagerInterface"
  folder, _ = run(
      tmp_path, "utils.SaveCheckpointConfig.keep = 1",
      f"{manager}.metric_name_to_monitor = 'training_eval/{TASK}/loss'",
      f"{manager}.metric_mode = 'max'",
      f"{manager}.keep_checkpoints_without_metrics = False")
  losses = {step: value for (part, name, step), value
            in trials.scalars(folder).items()
            if (part, name) == (f"training_eval/{TASK}", "loss")}
  assert sorted(losses) == [3, 6, 9, 12]
  # That of step 12 is saved before it is evaluated.
  del losses[12]
  assert steps_saved(folder) == [max(losses, key=losses.get), 12]


def test_saving_by_the_clock(tmp_path):
  # Always due: at every step at which metrics are written.
  folder, _ = run(
      tmp_path, NO_EVALUATION, "utils.SaveCheckpointConfig.period = None",
      "train_script.train.stats_period = 4",
      "utils.SaveCheckpointConfig.period_minutes = 1e-9")
  assert steps_saved(folder) == [4, 8, STEPS]


def test_a_save_is_due_when_so_many_minutes_have_passed():
  now = [0.0]
  saving = schedule.TimedSaving(2.0, now=lambda: now[0])
  due = []
  for now[0] in (60.0, 119.0, 121.0):
    due.append(saving.is_due())
  assert due == [False, False, True]
  saving.saved()
  assert not saving.is_due() and saving.is_due(last=True)
  assert not schedule.TimedSaving(None).is_due(last=True)
