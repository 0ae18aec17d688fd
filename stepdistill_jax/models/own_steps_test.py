"""A run that begins from another's checkpoint counts its own steps.

The rate that is logged, the rate that AdamW applies and the formula are one;
so are the weights' schedules, periods and TRAIN_STEPS.
"""

import pathlib
import shlex
import shutil

import numpy as np
import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.data import task_names
from stepdistill_jax.embedded_t5x import checkpoints, train_test
from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.runs import run_record, t5x_command
from stepdistill_jax.util import errors
from tests.support import hf_fixtures as fixtures, real_data as testing

STEP = 1_000_000  # Of T5's public checkpoints.
RATE, STEPS = 1e-3, 4
SMALL = [
    "--gin.BATCH_SIZE=2", f"--gin.LEARNING_RATE={RATE}",
    "--gin.CHECKPOINT_PERIOD=1", "--gin.CHECKPOINTS_KEPT=None",
    "--gin.train_script.train.stats_period=1",
    "--gin.train_script.train.infer_eval_dataset_cfg=None",
    "--gin.train_script.train.train_eval_dataset_cfg=None",
    "--gin.MAX_INPUTS=16", "--gin.MAX_LABEL=8", "--gin.MAX_RATIONALE=8",
    # α from 0 to 1 within two steps.
    "--gin.ALPHA=@students.linear()", "--gin.students.linear.start=0.0",
    "--gin.students.linear.end=1.0", "--gin.students.linear.num_steps=2"]


@pytest.fixture(name="command", scope="module")
def _command(tmp_path_factory):
  """The command that `import-t5x --step=1000000` prints, as arguments."""
  folder = tmp_path_factory.mktemp("own_steps")
  fixtures.write_folder(folder / "hf", "t5_v1_1")
  import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
  made = {split: [
      records.Record(id=f"{split}/{i}", inputs=f"what is {i}", label=str(i),
                     teacher_label=str(i), rationale=f"it is {i}")
      for i in range(8)] for split in ("train", "validation", "test")}
  record_writer.write_records(
      folder / "records", "svamp", "palm540b", made)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_VOCAB", str(
        testing.write_tiny_vocabulary(folder / "spiece.model")))
    patch.setenv("STEPDISTILL_RECORDS", str(folder / "records"))
    printed = []
    patch.setattr("builtins.print", lambda text, **_: printed.append(text))
    assert cli.main(["checkpoint", "import-t5x", str(folder / "t5x"),
                     f"--step={STEP}", f"--output={folder / 'public'}",
                     "--quiet"]) == 0
    line = next(line for line in printed[0].splitlines() if "t5x train" in line)
    patch.undo()
    patch.setenv("STEPDISTILL_VOCAB", str(folder / "spiece.model"))
    patch.setenv("STEPDISTILL_RECORDS", str(folder / "records"))
    yield shlex.split(line.split(": ", 1)[1])[1:]


def train(command, model_dir: pathlib.Path, *more: str, steps: int = STEPS):
  own = [a for a in command if not a.startswith("--gin.MODEL_DIR")]
  assert len(own) == len(command) - 1
  return t5x_command.main([
      *own, *SMALL, f'--gin.MODEL_DIR="{model_dir}"',
      f"--gin.TRAIN_STEPS={steps}", *more])


def parameters(model_dir: pathlib.Path, step: int) -> np.ndarray:
  """All of a checkpoint's parameters in one row."""
  import jax
  state = checkpoints.load_t5x_checkpoint(str(model_dir), step=step)
  return np.concatenate([x.ravel() for x in jax.tree.leaves(state["target"])])


def first_move(model_dir: pathlib.Path, step: int = 0) -> float:
  """How far AdamW's first step moves parameters: by the rate, all that move.

  (m / sqrt(v) is g / |g| then; a gradient near epsilon, 1e-8, moves less.)
  """
  moved = np.abs(parameters(model_dir, step + 1) - parameters(model_dir, step))
  return float(np.median(moved[moved > 0.5 * moved.max()]))


@pytest.fixture(name="run", scope="module")
def _run(command, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run") / "run"
  assert train(command, folder) == 0
  return folder


def test_rate_logged_rate_applied_and_formula_are_one(run):
  logged = train_test.scalars(run / "train", "learning_rate")
  formula = {step + 1: RATE * (1 - step / STEPS) for step in range(STEPS)}
  assert logged == pytest.approx(formula, rel=1e-6)
  # Parameters of about 1 hold a move of 1e-3 to some 1e-4 of it.
  assert first_move(run) == pytest.approx(formula[1], rel=1e-3)


def test_schedules_of_weights_begin_with_the_run(run):
  assert train_test.scalars(run / "train", "loss_weight/label") == (
      pytest.approx({1: 0.0, 2: 0.5, 3: 1.0, 4: 1.0}))


def test_checkpoints_and_record_have_the_runs_own_steps(run):
  assert checkpoints.all_steps(str(run)) == list(range(STEPS + 1))
  start, = run_record.read(run)["starts"]
  assert start["step"] == 0
  assert start["checkpoint"].endswith(f"checkpoint_{STEP}")


def test_interrupted_run_equals_the_whole_one(command, run, tmp_path):
  part = tmp_path / "run"
  shutil.copytree(run, part)
  for step in (2, 3, 4):
    shutil.rmtree(part / f"checkpoint_{step}")
  assert train(command, part) == 0
  np.testing.assert_array_equal(
      parameters(part, STEPS), parameters(run, STEPS))
  starts = run_record.read(part)["starts"]
  assert [start["step"] for start in starts] == [0, 1]


def test_t5xs_own_meaning_by_one_line(command, tmp_path, capsys):
  line = "--gin.utils.RestoreCheckpointConfig.assignment_map=None"
  assert train(command, tmp_path, line) == errors.USER_ERROR_EXIT_CODE
  message = " ".join(capsys.readouterr().err.split())
  assert "TRAIN_STEPS=4 is less than the step of" in message
  assert train(command, tmp_path / "run", line, steps=STEP + 2) == 0
  message = " ".join(capsys.readouterr().err.split())
  assert f"at step {STEP}, but the optimizer counts its steps" in message
  run = tmp_path / "run"
  assert checkpoints.all_steps(str(run)) == [STEP, STEP + 1, STEP + 2]
  assert sorted(train_test.scalars(run / "train", "loss")) == [
      STEP + 1, STEP + 2]


def test_a_network_with_too_few_embeddings_is_refused(
    command, tmp_path, capsys):
  assert train(
      command, tmp_path,
      "--gin.t5x.examples.t5.network.T5Config.vocab_size=256") == (
          errors.USER_ERROR_EXIT_CODE)
  message = " ".join(capsys.readouterr().err.split())
  needed = task_names.vocabulary_of("svamp_label_gold").vocab_size
  assert (f"T5Config.vocab_size = 256 is less than the {needed} tokens"
          in message)
  assert "set network.T5Config.vocab_size = 384" in message
