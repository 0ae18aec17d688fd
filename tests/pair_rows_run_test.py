"""Runs with PACK = 'pairs': the same steps in fewer rows, whole or resumed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from stepdistill_jax.data import pair_rows
from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x import train_test
from stepdistill_jax.runs import run_record, t5x_command
from stepdistill_jax.util import t5x_finder
from tests.support import trials

STEPS = 6
PLAIN = ("DROPOUT_RATE = 0.0",)
PAIRS, OWN = ("PACK = 'pairs'",), ("PACK = False",)

pytestmark = pytest.mark.skipif(
    t5x_finder.current_engine() == "google", reason="of the own engine")


@pytest.fixture(name="records", scope="module")
def _records(tmp_path_factory):
  return trials.write_records(tmp_path_factory.mktemp("records"), 16)


@pytest.fixture(name="train", scope="module")
def _train(records):
  def train(folder, *bindings, files=(), steps=STEPS):
    assert t5x_command.main([
        *trials.arguments(records, [
            *trials.NO_EVALUATION, "train_script.train.stats_period = 1",
            "EVAL_PERIOD = 2", f"CHECKPOINT_PERIOD = {steps}",
            "CHECKPOINTS_KEPT = None", *bindings], steps),
        *(f"--gin_file={file}" for file in files),
        f'--gin.MODEL_DIR="{folder}"']) == 0
    return folder
  return train


def data_of(folder):
  return run_record.read(folder)["data"]


def assert_same_steps(folder, expected):
  """All metrics of the steps, to float32's rounding."""
  for name in ("loss", "loss/label", "loss/rationale", "accuracy",
               "timing/target_tokens_per_second"):
    found, wanted = (train_test.scalars(f / "train", name)
                     for f in (folder, expected))
    assert len(found) == STEPS and found.keys() == wanted.keys()
    if not name.startswith("timing"):
      # After some steps of Adafactor, which divides by small numbers.
      np.testing.assert_allclose(
          list(found.values()), list(wanted.values()), rtol=2e-5)


@pytest.mark.parametrize("files, more", [
    ((), ()), ((), trials.MICROBATCHES),
    (["gin/methods/step_by_step_mixture.gin"], trials.MICROBATCHES)],
    ids=["step_by_step", "microbatches", "mixture"])
def test_steps_are_those_of_a_row_for_each_pair(
    train, tmp_path, files, more, capfd, monkeypatch):
  multiple, asked = pair_rows.multiple, []
  monkeypatch.setattr(pair_rows, "multiple", lambda *arguments: (
      asked.append(multiple(*arguments)) or asked[-1]))
  own = train(tmp_path / "own", *PLAIN, *OWN, *more, files=files)
  assert "share" not in capfd.readouterr().err
  shared = train(tmp_path / "shared", *PLAIN, *PAIRS, *more, files=files)
  assert "the 8 pairs of a batch share" in capfd.readouterr().err
  assert_same_steps(shared, own)
  assert data_of(own)["pack"] is False
  assert data_of(shared)["pack"] == "pairs"
  assert asked == [2 if more else 1]
  shape = pair_rows.Shape(*data_of(shared)["packed_rows"])
  assert shape.rows < 8 and shape.rows % asked[0] == 0


def test_resumed_equals_whole_with_dropout(train, tmp_path):
  often = "CHECKPOINT_PERIOD = 2"
  whole = train(tmp_path / "whole", *PAIRS, often)
  part = tmp_path / "part"
  shutil.copytree(whole, part)
  for step in (4, 6):
    shutil.rmtree(part / f"checkpoint_{step}")
  train(part, *PAIRS, often)
  assert trials.assert_same_run(part, whole, STEPS) > 0
  assert data_of(part)["packed_rows"] == data_of(whole)["packed_rows"]


def test_accelerators_have_it_by_default_and_runs_go_on_as_they_began(
    train, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(device_mesh, "on_accelerators", lambda: True)
    train(tmp_path / "run", steps=2)
    assert data_of(tmp_path / "run")["pack"] == "pairs"
    train(tmp_path / "own", *OWN, steps=2)  # The user's word.
    assert data_of(tmp_path / "own")["pack"] is False
  here = train(tmp_path / "here", steps=2)
  assert data_of(here)["pack"] is False  # A CPU.
  train(tmp_path / "run", steps=4)
  assert data_of(tmp_path / "run")["pack"] == "pairs"
  with monkeypatch.context() as patch:
    patch.setattr(device_mesh, "on_accelerators", lambda: True)
    train(here, steps=4)
    assert data_of(here)["pack"] is False
    # One of before PACK could be None.
    assert not run_record.differences({"PACK": "False"}, {"PACK": "None"})


def test_what_cannot_have_it_goes_on_without_or_says_why(
    train, tmp_path, monkeypatch, records, capfd):
  monkeypatch.setattr(device_mesh, "on_accelerators", lambda: True)
  mutual = ["gin/methods/mutual_information.gin"]
  train(tmp_path / "run", files=mutual, steps=2)
  assert data_of(tmp_path / "run")["pack"] is False
  capfd.readouterr()
  other = tmp_path / "other"
  assert t5x_command.main([
      *trials.arguments(records, [*trials.NO_EVALUATION, *PAIRS], 2),
      f"--gin_file={mutual[0]}", f'--gin.MODEL_DIR="{other}"']) == 2
  assert "the mutual-information term needs" in capfd.readouterr().err


_PLAN = """
import json
from stepdistill_jax.util import runtime, t5x_finder
runtime.configure()
t5x_finder.install("embedded")
import jax
jax.devices()
runtime.import_tensorflow()
from stepdistill_jax.data import exact_order
from stepdistill_jax.plan import programs

def planned():
  with programs.parsed(
      ["gin/recipes/tracking_step_by_step.gin"],
      ["TRAIN_STEPS = 2", "BATCH_SIZE = 8", "PACK = 'pairs'"], jax.devices()
  ) as arguments:
    plan = programs.build(arguments)
  return [plan.rows, *(
      [*batch["encoder_input_tokens"].shape,
       batch["decoder_target_tokens"].shape[-1]]
      for batch in (plan.train_batch, plan.eval_batch))]

found = [planned()]
exact_order.are_at_hand = lambda *_: False
print(json.dumps([*found, planned()]))
"""


@pytest.mark.usefixtures("forked_python")
def test_a_plan_has_the_rows_of_the_run(train, tmp_path, records):
  run = train(tmp_path / "run", *PAIRS, steps=2)
  process = subprocess.run(
      [sys.executable, "-c", _PLAN], text=True, capture_output=True,
      env={**os.environ, "STEPDISTILL_RECORDS": str(records)})
  assert process.returncode == 0, process.stderr
  (said, shape, own), (without, *same) = json.loads(
      process.stdout.splitlines()[-1])
  assert shape == data_of(run)["packed_rows"] and own[0] == 8
  assert "the 8 pairs of a batch share" in said
  # Without records it says what it plans instead.
  assert "the plan of PACK = False" in without and same == [own, own]
