"""What is refused before the modules are imported, gin refuses too."""

import pathlib
import re
import subprocess
import sys

import pytest

from stepdistill_jax.config import early_names, gin_config
from stepdistill_jax.util import errors

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = "gin/recipes/svamp_step_by_step.gin"
MISTAKES = {
    "BATCHSIZE = 3": "unknown gin macro 'BATCHSIZE'; did you mean: BATCH_SIZE",
    "students.StepDistilModel.z_loss = 1":
        "'students.StepDistilModel'; did you mean: students.StepDistillModel",
    "students.StepDistillModel.zloss = 1": "'zloss'; did you mean: z_loss",
    "utils.SaveCheckpointConfig.perod = 1": "'perod'; did you mean: period",
    "network.T5Config.emb_dm = 3": "'emb_dm'; did you mean: emb_dim",
    "ALPHA = @students.linaer()": "did you mean: students.linear",
    "trainer.Trainer.num_microbatchs = 2": "did you mean: num_microbatches",
    "adafactor.Adafactor.decay = 0.1": "did you mean: decay_rate",
    "ALPHA = (": "EOF in multi-line statement",
    "INITIAL_CHECKPOINT_PATH = %gin.REQUIRED":
        "gin macro not set: INITIAL_CHECKPOINT_PATH",
}


def both(bindings, files=(RECIPE,)):
  """Messages of the early check and of gin, "" where it passes."""
  from t5x import train
  said = []
  for check in (lambda: gin_config.check_early(
      files, bindings, (), ["train"]), lambda: gin_config.parse(
          files, bindings)):
    try:
      # A stand-in would take the name in gin's registry from all tests.
      with gin_config.main_module(train=train.train):
        check()
      said.append("")
    except errors.UserError as error:
      said.append(str(error))
  return said


@pytest.mark.parametrize("binding", MISTAKES)
def test_mistakes_are_found_by_both(binding):
  early, late = both(["MODEL_DIR = 'x'", binding])
  assert MISTAKES[binding] in early
  assert late


@pytest.mark.parametrize("text, expected", [
    ("students.linaer.start = 1", "'students.linaer'; did you mean"),
    ("students.linear.strat = 1", "'strat'; did you mean: start"),
    ("X = @students.linaer()", "'students.linaer'; did you mean"),
    ("include 'gin/runs/tain.gin'", "unknown gin file 'gin/runs/tain.gin'"),
    ("X = 1 1", "gin config: ")])
def test_a_mistake_in_a_file_has_its_line(tmp_path, text, expected):
  path = tmp_path / "own.gin"
  path.write_text("from __gin__ import dynamic_registration\n"
                  "from stepdistill_jax import models as students\n" + text)
  early, late = both(["MODEL_DIR = 'x'"], [RECIPE, str(path)])
  assert expected in early and late
  if "include" not in text:
    assert path.name in early and "line 3" in early


@pytest.mark.parametrize("binding", [
    "students.StepDistillTrainer.num_microbatches = 2",
    "decoding.beam_search.num_decodes = 4",
    "preprocessors.filter_train_records.only_ok = True",
    "checkpoints.SavePolicy.async_saves = True",
    "UNKNOWN_TO_ALL = 3",
    "STUDENT_TASK_WEIGHTS = @students.single_task()",
    "t5x.trainer.Trainer.num_microbatches = 2"])
def test_what_gin_takes_passes(binding):
  early, late = both(["MODEL_DIR = 'x'", binding])
  if not late:
    assert not early


def test_no_gin_file_of_ours_is_refused():
  files = [*(ROOT / "gin").rglob("*.gin"),
           *(ROOT / "stepdistill_jax/embedded_t5x").rglob("*.gin")]
  assert len(files) > 250
  text = early_names.Text()
  folders = gin_config.search_paths()
  for file in files:
    gin_config._read_early(str(file), folders, text)
  assert len({name.selector for name in text.names}) > 60
  for name in text.names:
    assert not early_names.mistake(name, text, gin_config._T5X_MODULES)


def test_nothing_large_is_imported():
  program = (
      "import sys\n"
      "from stepdistill_jax.config import gin_config\n"
      f"gin_config.check_early([{RECIPE!r}], [\"MODEL_DIR = 'x'\"], (), "
      "['train'])\n"
      "heavy = {'jax', 'tensorflow', 'seqio', 'flax', 'numpy'}\n"
      "assert not heavy & set(sys.modules), heavy & set(sys.modules)")
  result = subprocess.run([sys.executable, "-c", program], cwd=ROOT,
                          capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr


def test_arguments_are_those_that_python_has():
  import importlib
  import inspect
  checked = 0
  for module in ("stepdistill_jax.models", "t5x.utils", "t5x.trainer",
                 "t5x.partitioning", "t5x.examples.t5.network"):
    found = early_names._top_level(module)
    for name in found:
      arguments = early_names._arguments(*early_names._definition(module, name))
      if arguments is None:
        continue
      value = getattr(importlib.import_module(module), name)
      parameters = inspect.signature(value).parameters
      if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        continue
      missing = set(parameters) - set(arguments) - {"args", "self"}
      assert not {m for m in missing if not re.match("_", m)}, (module, name)
      checked += 1
  assert checked > 40


@pytest.mark.parametrize("bindings, missing", [
    ([], "by teacher 'palm540b'"), (["TEACHER = 'other'"], "'other'"),
    (["LABELS = 'teacher'"], "by teacher 'palm540b'"),
    (["MIXTURE_OR_TASK_NAME = 'of_mine'"], ""),
    (["TEACHER = 'there'"], "")])
def test_records_that_are_not_there_are_named(tmp_path, bindings, missing):
  from stepdistill_jax.data import early_records
  from stepdistill_jax.records import record_writer, records
  record_writer.write_records(tmp_path, "svamp", "there", {
      "train": [records.Record(id="1", inputs="a", label="1")]})
  text = gin_config.check_early(
      [RECIPE], ["MODEL_DIR = 'x'", *bindings], (), ["train"])
  if not missing:
    early_records.require(text, str(tmp_path))
    return
  with pytest.raises(errors.UserError, match=missing):
    early_records.require(text, str(tmp_path))
  # Labels of the rows themselves serve, whoever explained them.
  early_records.require(gin_config.check_early(
      [RECIPE, "gin/methods/finetune.gin"], ["MODEL_DIR = 'x'"], (),
      ["train"]), str(tmp_path))
