"""The `t5x` command: users' mistakes in one line, before any compilation."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest
import seqio

from stepdistill_jax.config import gin_config
from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import devices, errors, t5x_finder
from tests.support import real_data as testing, testing_tasks

TRAIN = ("train", "--engine=embedded",
         "--gin_file=tests/support/testing.gin")


def fail(capsys, *argv, programs_before: int = 0) -> str:
  """Runs the command; returns its error line, checking that it is one."""
  with testing.counted_compilations() as programs:
    assert t5x_command.main(argv) == errors.USER_ERROR_EXIT_CODE
  assert len(programs) <= programs_before, "compiled before the mistake"
  lines = [line for line in capsys.readouterr().err.splitlines()
           if not line.startswith("t5x ")]
  assert len(lines) == 1, lines
  assert lines[0].startswith("error: ")
  return lines[0]


def train(capsys, tmp_path, *bindings, **options) -> str:
  return fail(capsys, *TRAIN, f"--gin.MODEL_DIR={str(tmp_path / 'run')!r}",
              "--gin.TRAIN_STEPS=2", *bindings, **options)


def test_missing_macros_are_all_named(capsys):
  line = fail(capsys, *TRAIN)
  assert "macros not set: MODEL_DIR, TRAIN_STEPS;" in line
  assert "--gin.MODEL_DIR=VALUE" in line


def test_the_first_line_names_engine_and_devices(capsys, tmp_path):
  assert t5x_command.main([
      *TRAIN, f"--gin.MODEL_DIR='{tmp_path / 'run'}'", "--gin.TRAIN_STEPS=2",
      "--gin.MIXTURE_OR_TASK_NAME='nowhere'"]) == errors.USER_ERROR_EXIT_CODE
  first = capsys.readouterr().err.splitlines()[0]
  assert first == (
      "t5x train: engine embedded (stepdistill_jax's embedded T5X), "
      + devices.description())


def test_unknown_gin_file_lists_near_ones(capsys):
  line = fail(capsys, "train", "--engine=embedded",
              "--gin_file=t5x/configs/runs/finetun.gin")
  assert "unknown gin file 't5x/configs/runs/finetun.gin'" in line
  assert "t5x/configs/runs/finetune.gin" in line


def test_unquoted_string_is_explained(capsys, tmp_path):
  line = train(capsys, tmp_path, "--gin.MIXTURE_OR_TASK_NAME=some_task")
  assert "a string needs quotes: --gin.MIXTURE_OR_TASK_NAME=" in line


def test_unknown_parameter_is_reported(capsys, tmp_path):
  line = train(capsys, tmp_path, "--gin.trainer.Trainer.num_micro=2")
  assert "num_micro" in line


def test_binding_without_value(capsys):
  assert "expected --gin.NAME=VALUE" in fail(capsys, *TRAIN, "--gin.A")


@pytest.mark.parametrize("mode, run_file", [
    ("train", "finetune.gin"), ("export", "export.gin")])
def test_gin_files_without_a_run(capsys, mode, run_file):
  line = fail(capsys, mode, "--engine=embedded",
              "--gin_file=t5x/examples/t5/t5_1_1/tiny.gin",
              "--gin.DROPOUT_RATE=0.0")
  assert "include a run file, such as --gin_file=t5x/configs/runs/" in line
  assert line.endswith(run_file)


def test_misspelt_task_lists_near_ones(capsys, tmp_path):
  line = train(capsys, tmp_path,
               "--gin.MIXTURE_OR_TASK_NAME='t5x_testing_revers'")
  assert "unknown SeqIO task or mixture 't5x_testing_revers'" in line
  assert "t5x_testing_reverse" in line


def test_missing_split(capsys, tmp_path):
  line = train(capsys, tmp_path,
               "--gin.infer_eval/utils.DatasetConfig.split='dev'")
  assert "no split 'dev'" in line and "'validation'" in line


def test_missing_checkpoint_says_what_is_there(capsys, tmp_path):
  line = train(capsys, tmp_path,
               "--gin.INITIAL_CHECKPOINT_PATH='/nowhere/checkpoint_7'")
  assert "no checkpoint at /nowhere/checkpoint_7" in line
  (tmp_path / "old" / "checkpoint_5").mkdir(parents=True)
  line = train(
      capsys, tmp_path,
      f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/old/checkpoint_7'")
  assert "has steps [5]" in line


def test_uneven_batch(capsys, tmp_path):
  # The trainer, which knows, is made with a random key: trivial programs.
  line = train(capsys, tmp_path, "--gin.trainer.Trainer.num_microbatches=3",
               programs_before=5)
  assert "batch size 8 is not divisible by Trainer.num_microbatches=3" in line


@pytest.mark.parametrize("value", ["'8'", "0", "-8", "8.0"])
def test_batch_size_that_is_none(capsys, tmp_path, value):
  line = train(capsys, tmp_path, f"--gin.BATCH_SIZE={value}")
  assert "BATCH_SIZE must be a whole number" in line
  assert f"got {value}" in line


def test_value_of_another_type(capsys, tmp_path):
  line = train(capsys, tmp_path, "--gin.utils.create_learning_rate_scheduler"
               ".warmup_steps=1", "--gin.utils.create_learning_rate_scheduler"
               ".factors=7", programs_before=5)
  assert "gin config:" in line and "create_learning_rate_scheduler" in line


def test_uneven_partitions(capsys, tmp_path, monkeypatch):
  # One CPU alone takes any number, as in T5X.
  monkeypatch.setattr(
      device_mesh, "devices_here", lambda backend=None: jax.devices() * 2)
  line = train(capsys, tmp_path,
               "--gin.partitioning.PjitPartitioner.num_partitions=3")
  assert "num_partitions=3 does not divide the number of devices, 2" in line


def test_other_vocabulary(capsys, tmp_path):
  line = train(capsys, tmp_path, "--gin.seqio.ByteVocabulary.extra_ids=7")
  assert "the vocabularies of task t5x_testing_reverse" in line


def _register(name, source, vocabulary=testing_tasks.VOCABULARY):
  if name not in seqio.TaskRegistry.names():
    feature = seqio.Feature(vocabulary)
    seqio.TaskRegistry.add(
        name, source=source, preprocessors=[seqio.preprocessors.tokenize],
        output_features={"inputs": feature, "targets": feature})
  return f"--gin.MIXTURE_OR_TASK_NAME='{name}'"


def test_data_folder_without_the_data(capsys, tmp_path):
  binding = _register(
      "t5x_testing_no_data",
      seqio.TfdsDataSource("stepdistill_absent/teacher:1.0.0"))
  line = train(capsys, tmp_path, binding, f"--tfds_data_dir={tmp_path}")
  assert "task t5x_testing_no_data: its data cannot be read" in line
  binding = _register("t5x_testing_no_files", seqio.TextLineDataSource(
      {"train": str(tmp_path / "*.txt"), "validation": str(tmp_path)}))
  line = train(capsys, tmp_path, binding)
  assert "there are no files for split 'train'" in line


def test_vocabulary_file_that_is_not_there(capsys, tmp_path):
  vocabulary = seqio.SentencePieceVocabulary(str(tmp_path / "absent.model"))
  binding = _register(
      "t5x_testing_no_vocabulary", seqio.FunctionDataSource(
          testing_tasks._dataset, splits=["train"]), vocabulary)
  line = train(capsys, tmp_path, binding)
  assert "the vocabulary of 'inputs' cannot be loaded" in line
  assert str(tmp_path / "absent.model") in line


def test_folder_of_a_run_with_another_config(capsys, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "run.json").write_text(json.dumps(
      {"schema_version": 1, "config": {"BATCH_SIZE": "64"}, "starts": []}))
  line = train(capsys, tmp_path)
  assert "BATCH_SIZE was 64, now 8" in line
  assert "--allow_config_change" in line


def test_a_run_of_another_engine_ends_in_what_is_next(tmp_path):
  """Of which none of ours is imported before gin's configuration is locked."""
  package = tmp_path / "t5x"
  package.mkdir()
  (package / "__init__.py").write_text("")
  (package / "train.py").write_text(
      "import pathlib\n"
      "def train(model_dir):\n"
      "  pathlib.Path(model_dir, 'checkpoint_7').mkdir(parents=True)\n")
  (tmp_path / "run.gin").write_text(
      "from __gin__ import dynamic_registration\n"
      "import __main__ as train_script\n"
      "MODEL_DIR = 'run'\n"
      "train_script.train.model_dir = %MODEL_DIR\n")
  done = subprocess.run(
      [sys.executable, "-m", "stepdistill_jax.runs.t5x_command", "train",
       "--engine=google", "--gin_file=run.gin"], cwd=tmp_path,
      capture_output=True, text=True, env={**os.environ, "PYTHONPATH": (
          os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))})
  assert done.returncode == 0, done.stderr
  assert f"next: `stepdistill predict {tmp_path}/run FILE`" in done.stderr


def test_strict_is_not_for_googles_engine(monkeypatch):
  monkeypatch.setattr(t5x_finder, "current_engine", lambda: "google")
  with pytest.raises(errors.UserError, match="--engine=embedded"):
    t5x_command.run("train", strict=True)


def test_eval_and_infer_want_a_checkpoint(capsys, tmp_path):
  for mode, output in [("eval", "EVAL"), ("infer", "INFER")]:
    line = fail(
        capsys, mode, "--engine=embedded",
        f"--gin_file=t5x/configs/runs/{mode}.gin",
        "--gin_file=tests/support/testing_model.gin",
        f"--gin.CHECKPOINT_PATH='{tmp_path}/checkpoint_3'",
        f"--gin.{output}_OUTPUT_DIR='{tmp_path}/out'")
    assert f"no checkpoint at {tmp_path}/checkpoint_3" in line
    assert not (tmp_path / "out").exists()


def test_dry_run_only_parses(tmp_path):
  t5x_command.run(
      "train", ["tests/support/testing.gin"],
      [f"MODEL_DIR = {str(tmp_path / 'run')!r}", "TRAIN_STEPS = 2"],
      engine="embedded", dry_run=True)
  assert gin_config.bindings()["BATCH_SIZE"] == "8"
  assert not (tmp_path / "run").exists()
  assert not hasattr(sys.modules["__main__"], "train")


def test_folders_are_absolute_for_both_engines(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/me")
  bound = {
      "MODEL_DIR": ("runs/a", f"{tmp_path}/runs/a"),
      "INITIAL_CHECKPOINT_PATH": ("~/b", "/home/me/b"),
      "CHECKPOINT_PATH": ("gs://bucket/a/checkpoint_3",) * 2,
      "utils.RestoreCheckpointConfig.path": (
          ["../c", "gs://b"], [f"{tmp_path.parent}/c", "gs://b"]),
      "scoped/utils.RestoreCheckpointConfig.path": ("d", f"{tmp_path}/d"),
      "MIXTURE_OR_TASK_NAME": ("a/task",) * 2}
  (tmp_path / "run.gin").write_text(
      "from __gin__ import dynamic_registration\n"
      "import __main__ as train_script\n"
      "from t5x import utils\n"
      "train_script.train.model_dir = 'e'\n"
      + "".join(f"{name} = {value!r}\n" for name, (value, _) in bound.items()))
  t5x_command.run("train", ["run.gin"], engine="embedded", dry_run=True)
  found = gin_config.bindings()
  assert found["train_script.train.model_dir"] == f"'{tmp_path}/e'"
  assert {name: found[name] for name in bound} == {
      name: repr(value) for name, (_, value) in bound.items()}


def test_a_command_line_may_weigh_any_tasks():
  t5x_command.run(
      "train", ["gin/recipes/svamp_step_by_step.gin"], [
          "MODEL_DIR = 'x'", "STUDENT_TASK_WEIGHTS = @students.TaskWeights()",
          "students.TaskWeights.weights = {"
          "'label': 1.0, 'rationale': @students.cosine(), 'question': 0.1}"],
      engine="embedded", dry_run=True)
  assert "TaskWeights" in gin_config.bindings()["STUDENT_TASK_WEIGHTS"]


def test_every_run_has_a_configuration_of_its_own(tmp_path):
  for steps in ("2", "3"):
    t5x_command.run(
        "train", ["tests/support/testing.gin"],
        ["MODEL_DIR = 'x'", f"TRAIN_STEPS = {steps}"], engine="embedded",
        dry_run=True)
    assert gin_config.bindings()["TRAIN_STEPS"] == steps


@pytest.mark.parametrize("mode", ["eval", "infer", "precompile", "export"])
def test_gin_files_of_another_mode_are_named(mode):
  with pytest.raises(errors.UserError) as caught:
    t5x_command.run(mode, ["tests/support/testing.gin"], [],
                    engine="embedded", dry_run=True)
  line = str(caught.value)
  assert f"for `t5x train`, not for `t5x {mode}`" in line
  # The file that is named is there, and for this mode: it is complained of
  # for what else it needs.
  run_file = re.search(r"such as (\S+),", line)[1]
  with pytest.raises(errors.UserError, match="(not set|MODEL)") as caught:
    t5x_command.run(mode, [run_file], [], engine="embedded", dry_run=True)
  assert "unknown gin file" not in str(caught.value)
