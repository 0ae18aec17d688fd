"""The command that an import prints fine-tunes the imported student."""

import os
import shlex

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.config import gin_config
from stepdistill_jax.interop import gin_model
from stepdistill_jax.runs import t5x_command
from tests.support import hf_fixtures as fixtures


def test_the_printed_command_fine_tunes_what_was_imported(
    tmp_path, monkeypatch, capsys):
  fixtures.write_folder(tmp_path / "hf", "t5_v1_1")
  monkeypatch.chdir(tmp_path)
  assert cli.main(["checkpoint", "import-hf", "hf", "--output=t5 x",
                   "--quiet"]) == 0
  line, = (line for line in capsys.readouterr().out.splitlines()
           if line.startswith("to distill into it: "))
  variable, program, *words = shlex.split(line.partition(": ")[2])
  assert variable == f"STEPDISTILL_VOCAB={tmp_path / 't5 x/hf/spiece.model'}"
  assert os.path.isfile(variable.split("=")[1])
  assert (program, words[1]) == (
      "t5x", "--gin_file=gin/recipes/svamp_step_by_step_small.gin")
  assert t5x_command.main([*words, "--engine=embedded", "--dry_run"]) == 0
  found = gin_config.bindings()
  initial = tmp_path / "t5 x" / "checkpoint_0"
  assert initial.is_dir()
  assert found["INITIAL_CHECKPOINT_PATH"] == repr(str(initial))
  # The papers' rate and steps, for a pretrained student; its own dimensions.
  assert (found["LEARNING_RATE"], found["TRAIN_STEPS"]) == ("5e-05", "10000")
  dimensions = {name: value for name, value in found.items()
                if name.endswith("T5Config.emb_dim")}
  assert list(dimensions.values()) == ["16"]


@pytest.mark.parametrize("family, options, why", [
    ("byt5", [], "its tokens are bytes"),
    ("unpadded", ["--pad_vocabulary=1"], None),
    ("mt5", [], None)])
def test_a_vocabulary_that_no_recipe_has_is_said(
    tmp_path, capsys, family, options, why):
  fixtures.write_folder(tmp_path / "hf", family)
  student = tmp_path / "t5x/student.gin"
  student.parent.mkdir()
  student.write_text("of an earlier import")
  assert cli.main(["checkpoint", "import-hf", f"{tmp_path}/hf", "--quiet",
                   f"--output={tmp_path}/t5x", *options]) == 0
  said = capsys.readouterr().out
  if why is None:
    spiece = f"STEPDISTILL_VOCAB={tmp_path}/t5x/hf/spiece.model t5x train"
    assert f"to distill into it: {spiece}" in said
    assert spiece in student.read_text()
  else:
    assert f"no recipe can follow it: {why}" in said
    assert "t5x train" not in said and not student.exists()


@pytest.mark.parametrize("family, pieces, why", [
    ("byt5/small", None, "its tokens are bytes"),
    ("mt5/base", None, "--pad_vocabulary=512`"),
    ("t5_1_1/base", None, ""),
    # Of 32,000 pieces, whosever: STEPDISTILL_VOCAB names them.
    ("t5_1_1/base", 32_000, ""),
    ("t5_1_1/base", 32_100, "--pad_vocabulary=256`")])
def test_recipes_need_a_place_for_each_token(family, pieces, why):
  said = gin_model.why_no_recipe(
      gin_model.published_sizes()[family], pieces)
  assert why in said and bool(said) == bool(why)


@pytest.mark.parametrize("known,size", [
    ("t5_1_1/xl", "xl"), ("t5_1_0/base", "base"), ("mt5/large", "large"),
    ("byt5/small", "base"), ("t5_1_0/11B", "xxl")])
def test_recipes_by_size(known, size):
  arch = gin_model.published_sizes()[known]
  assert gin_model.recipe_size(arch) == size
