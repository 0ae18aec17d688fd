"""Gin files and bindings: what is found, and how mistakes are told."""

import logging

import gin
import pytest

from stepdistill_jax import errors
from stepdistill_jax import gin_config


@pytest.fixture(name="gin_file")
def _gin_file(tmp_path):
  with gin.unlock_config():
    folder = tmp_path / "gin files"
    (folder / "gin" / "below").mkdir(parents=True)
    (folder / "gin" / "main.gin").write_text(
        "include 'gin/below/steps.gin'\nMODEL_DIR = 'x'\n")
    (folder / "gin" / "below" / "steps.gin").write_text(
        "TRAIN_STEPS = 4\nTOTAL = %BOUND_LATER\n")
    yield folder


def parse(folder, *bindings):
  gin_config.parse(
      ["gin/main.gin"], ["BOUND_LATER = 1", *bindings], [str(folder)])


def test_files_away_from_the_checkout_are_found_in_silence(
    gin_file, tmp_path, monkeypatch, caplog):
  monkeypatch.chdir(tmp_path)
  with caplog.at_level(logging.DEBUG):
    parse(gin_file, "TRAIN_STEPS = 7")
  assert gin_config.bindings()["TRAIN_STEPS"] == "7"
  assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
  assert not logging.root.manager.disable


def test_misspelt_macro_names_the_right_one(gin_file):
  with pytest.raises(errors.UserError, match=(
      "unknown gin macro 'TRAIN_STEPZ'; did you mean: TRAIN_STEPS")):
    parse(gin_file, "TRAIN_STEPZ = 7")


def test_macros_that_nothing_uses_pass_as_in_t5x(gin_file):
  parse(gin_file, "USE_CACHED_TASKS = False")


@pytest.mark.parametrize("value", ["/tmp/run", "~/run", "run", "gs://b/run"])
def test_unquoted_paths_are_explained(gin_file, value):
  with pytest.raises(errors.UserError, match=(
      "a string needs quotes: --gin.MODEL_DIR=")):
    parse(gin_file, f"MODEL_DIR = {value}")


def test_a_name_that_two_things_have_is_told(gin_file):
  for module in ("one.network", "other.network"):
    gin.external_configurable(
        lambda size=1: size, "AmbiguousConfig", module=module)
  with pytest.raises(errors.UserError, match=(
      r"gin config: Ambiguous selector 'network\.AmbiguousConfig', matches ")):
    parse(gin_file, "network.AmbiguousConfig.size = 2")
  # In a file, gin adds where, and keeps the text no longer as an argument.
  file = gin_file / "gin" / "ambiguous.gin"
  file.write_text("network.AmbiguousConfig.size = 2")
  with pytest.raises(errors.UserError, match=(
      r"gin config: Ambiguous selector .*ambiguous\.gin\", line 1")):
    gin_config.parse([str(file)], [])
  parse(gin_file, "other.network.AmbiguousConfig.size = 2")


def test_files_that_include_themselves_are_named(gin_file):
  for name, other in (("one", "two"), ("two", "one")):
    (gin_file / "gin" / f"{name}.gin").write_text(
        f"include 'gin/{other}.gin'\n")
  with pytest.raises(errors.UserError, match=(
      "include themselves: 'gin/(one|two).gin', 'gin/(one|two).gin'$")):
    gin_config.parse(["gin/one.gin"], [], [str(gin_file)])


def test_an_open_bracket_is_told(gin_file):
  with pytest.raises(errors.UserError, match=(
      "gin config: .*EOF in multi-line statement")):
    parse(gin_file, "SIZES = [1, 2")


def test_a_macro_that_is_never_set_is_named_alone(gin_file):
  with pytest.raises(errors.UserError) as refused:
    parse(gin_file, "SIZE = %NOWHERE_SET", "TRAIN_STEPS = %SIZE")
  assert str(refused.value) == (
      "gin config: %NOWHERE_SET is used and never set; set it with "
      "--gin.NOWHERE_SET=VALUE")
