"""Each script of `examples/` runs, and is as short as it says."""

import importlib
import pathlib
import sys

import gin
import pytest

from tests.support import decoder_fixtures, real_data

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
SHORT = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2",
         "--gin.CHECKPOINT_PERIOD=2"]


@pytest.fixture(name="example")
def _example(monkeypatch, tmp_path):
  """Imports a script as `python examples/NAME.py` finds its modules."""
  monkeypatch.syspath_prepend(str(EXAMPLES))
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      real_data.write_tiny_vocabulary(tmp_path / "spiece.model")))
  gin.clear_config()
  yield lambda name: importlib.import_module(name)
  for path in EXAMPLES.glob("*.py"):
    sys.modules.pop(path.stem, None)


def test_scripts_are_short():
  scripts = sorted(path for path in EXAMPLES.glob("*.py"))
  assert len(scripts) == 5
  for path in scripts:
    text = path.read_text("utf-8")
    body = text[text.index('"""', 3) + 3:]  # What follows the docstring.
    assert len(body.strip().splitlines()) <= 40, path.name
    assert not any(part.startswith("_") and not part.startswith("__")
                   for line in body.splitlines()
                   for part in line.replace("(", " ").split(".")[1:]), path


@pytest.mark.parametrize("name", [
    "own_csv", "weight_schedule", "custom_network"])
def test_a_student_answers(example, tmp_path, capsys, name):
  example(name).main(str(tmp_path / "out"), *SHORT)
  assert (tmp_path / "out/run/checkpoint_2").is_dir()
  said = capsys.readouterr()
  assert "['" in said.out or '["' in said.out
  assert "next: `stepdistill-eval --checkpoint=" in said.err
  config = (tmp_path / "out/run/config.gin").read_text("utf-8")
  assert name == "own_csv" or name in config


def test_thoughts_are_apart(example, tmp_path, capsys):
  example("reasoning_teacher").main(str(tmp_path / "out"))
  said = capsys.readouterr().out
  assert "label '8', rationale 'A cat has 4 legs.'" in said
  # Without reasoning of its own the answer has the thoughts.
  assert "label '6', rationale 'Insects have 6.'" in said


def test_a_decoder_goes_in_and_out(example, tmp_path):
  decoder_fixtures.write_folder(tmp_path / "hf", "qwen2_5")
  example("decoder_student").main(
      tmp_path / "hf", tmp_path / "out", *SHORT, "--gin.MAX_INPUTS=96",
      "--gin.MAX_RATIONALE=96", "--gin.MAX_LABEL=16")
  assert (tmp_path / "out/export/model.safetensors").is_file()
