"""Gin files and bindings: what is found, and how mistakes are reported."""

import logging

import gin
import pytest

from stepdistill_jax.config import gin_config
from stepdistill_jax.util import errors


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


def test_macros_that_nothing_uses_pass_as_in_t5x_and_are_named(
    gin_file, capsys):
  parse(gin_file, "USE_CACHED_TASKS = False")
  assert capsys.readouterr().err.startswith(
      "warning: USE_CACHED_TASKS is set, and nothing in these gin files uses")


def test_stand_ins_are_below_bindings_and_are_not_named(gin_file, capsys):
  gin_config.parse(
      ["gin/main.gin"], ["BOUND_LATER = 1", "TRAIN_STEPS = 7"],
      [str(gin_file)], stand_ins=("TRAIN_STEPS = 0", "MODEL_DIRS = 'none'"))
  bound = gin_config.bindings()
  assert bound["TRAIN_STEPS"] == "7" and bound["MODEL_DIRS"] == "'none'"
  assert not capsys.readouterr().err


@pytest.mark.parametrize("value", ["/tmp/run", "~/run", "run", "gs://b/run"])
def test_unquoted_paths_are_explained(gin_file, value):
  with pytest.raises(errors.UserError, match=(
      "a string needs quotes: --gin.MODEL_DIR=")):
    parse(gin_file, f"MODEL_DIR = {value}")


def test_a_name_that_two_things_have_is_reported(gin_file):
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


def test_an_open_bracket_is_reported(gin_file):
  with pytest.raises(errors.UserError, match=(
      "gin config: .*EOF in multi-line statement")):
    parse(gin_file, "SIZES = [1, 2")


def test_a_macro_that_is_never_set_is_named_alone(gin_file):
  with pytest.raises(errors.UserError) as refused:
    parse(gin_file, "SIZE = %NOWHERE_SET", "TRAIN_STEPS = %SIZE")
  assert str(refused.value) == (
      "gin config: %NOWHERE_SET is used and never set; set it with "
      "--gin.NOWHERE_SET=VALUE")


@pytest.mark.parametrize("value", ["foo", "[foo]", "-foo", "foo(3)"])
def test_a_value_that_is_none_is_reported_without_addresses(gin_file, value):
  with pytest.raises(errors.UserError) as refused:
    parse(gin_file, f"PACKED_FEATURE_LENGTHS = {value}")
  message = str(refused.value)
  assert ("foo is not a value; a string needs quotes: "
          "--gin.PACKED_FEATURE_LENGTHS=") in message
  assert "<" not in message and "0x" not in message
  file = gin_file / "gin" / "bad.gin"
  file.write_text(f"PACKED_FEATURE_LENGTHS = {value}")
  with pytest.raises(errors.UserError, match=r"foo is not a value \(.*bad.gin"):
    gin_config.parse([str(file)], [])


def test_a_path_without_quotes_is_named_whole(gin_file):
  with pytest.raises(errors.UserError) as refused:
    parse(gin_file, "MODEL_DIR = runs/x")
  assert str(refused.value) == (
      "gin config: runs/x is not a value; a string needs quotes: "
      "--gin.MODEL_DIR='\"runs/x\"'")


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("binding, expected", [
    ("utils.SaveCheckpointConfig.perod = 3",
     "unknown argument of utils.SaveCheckpointConfig 'perod'; did you mean: "
     "period,"),
    ("decoding.beam_serch.alpha = 0.3",
     "unknown gin configurable 'decoding.beam_serch'; did you mean: "
     "decoding.beam_search,"),
    ("utils.SaveCheckpointConfig.dtype = @decoding.beam_serch()",
     "unknown gin configurable 'decoding.beam_serch'; did you mean: "
     "decoding.beam_search,"),
    ("models.EncoderDecoderModel.predict_batch_with_aux.num_decods = 4",
     "unknown argument of models.EncoderDecoderModel.predict_batch_with_aux "
     "'num_decods'; did you mean: num_decodes,"),
])
def test_near_names_of_configurables_and_their_arguments(
    gin_file, binding, expected, in_file):
  files, bindings = ["gin/main.gin"], ["BOUND_LATER = 1", binding]
  if in_file:
    (gin_file / "gin" / "near.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from t5x import decoding\nfrom t5x import models\n"
        f"from t5x import utils\n{bindings.pop()}\n")
    files.append("gin/near.gin")
  with pytest.raises(errors.UserError) as refused:
    gin_config.parse(files, bindings, [str(gin_file)])
  assert expected in str(refused.value)


@pytest.mark.parametrize("binding, name, value", [
    ("decoding.beam_search.alpha = 0.3", "decoding.beam_search.alpha", 0.3),
    # In full: another test may have imported the scalable network, too.
    ("t5x.examples.t5.network.T5Config.emb_dim = 8",
     "t5x.examples.t5.network.T5Config.emb_dim", 8),
    ("models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4",
     "models.EncoderDecoderModel.predict_batch_with_aux.num_decodes", 4),
])
def test_a_command_line_may_name_what_no_file_has_named(
    gin_file, binding, name, value):
  parse(gin_file, binding)
  assert gin.query_parameter(name) == value


def test_a_command_line_may_refer_to_what_no_file_has_named(gin_file):
  parse(gin_file, "DECODE_FN = @decoding.temperature_sample")
  assert gin_config.bindings()["DECODE_FN"].endswith(
      "decoding.temperature_sample")


@pytest.mark.parametrize("files, bindings, expected", [
    (["gin/recipes/svamp_step_by_stp.gin"], [], "unknown gin file"),
    ([], ["ALPHA = '@students.linear()'"], "has no quotes of its own"),
    ([], ["TRAIN_STEPS = -1"], "TRAIN_STEPS must be"),
])
def test_early_checks(files, bindings, expected):
  with pytest.raises(errors.UserError, match=expected):
    gin_config.check_early(files, bindings)
  gin_config.check_early(["gin/recipes/svamp_step_by_step.gin"],
                         ["TRAIN_STEPS = 1", "ALPHA = @students.linear()"])
