"""The command that an import prints fine-tunes the imported student."""

import os
import shlex

import pytest

from stepdistill_jax import cli
from stepdistill_jax import gin_config
from stepdistill_jax import t5x_command
from stepdistill_jax.interop import fixtures
from stepdistill_jax.interop import gin_model


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


@pytest.mark.parametrize("known,size", [
    ("t5_1_1/xl", "xl"), ("t5_1_0/base", "base"), ("mt5/large", "large"),
    ("byt5/small", "base"), ("t5_1_0/11B", "xxl")])
def test_recipes_by_size(known, size):
  dimensions = gin_model._KNOWN[known]  # pylint: disable=protected-access
  arch = gin_model.architecture.Architecture(
      *dimensions, ("gelu", "linear"), False)
  assert gin_model.recipe_size(arch) == size
