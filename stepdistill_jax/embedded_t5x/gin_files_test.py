"""Tests that the gin files of T5X's names build the networks they name."""

import dataclasses
import pathlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import models

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from stepdistill_jax.config import gin_config
from stepdistill_jax.runs import t5x_command

EXAMPLES = pathlib.Path(__file__).parent / "examples"
ALL = sorted(
    str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.gin"))
# What trains or answers; the others bind a model.
RUNS = [file for file in ALL if "/examples/" in file or "umt5/" in file
        or "local_tiny" in file]
FILES = [file for file in ALL if file not in RUNS]

# Millions, as the papers and model cards give them.
PARAMETERS = {
    "t5/t5_1_0/small.gin": 61, "t5/t5_1_0/base.gin": 223,
    "t5/t5_1_0/large.gin": 738, "t5/t5_1_0/3B.gin": 2852,
    "t5/t5_1_0/11B.gin": 11307,
    "t5/t5_1_1/small.gin": 77, "t5/t5_1_1/base.gin": 248,
    "t5/t5_1_1/large.gin": 783, "t5/t5_1_1/xl.gin": 2850,
    "t5/t5_1_1/xxl.gin": 11135,
    "t5/mt5/small.gin": 300, "t5/mt5/base.gin": 582,
    "t5/mt5/large.gin": 1230, "t5/mt5/xl.gin": 3743,
    "t5/mt5/xxl.gin": 12921,
    "t5/byt5/small.gin": 300, "t5/byt5/base.gin": 582,
    "t5/byt5/large.gin": 1229, "t5/byt5/xl.gin": 3742,
    "t5/byt5/xxl.gin": 12921,
}


def _model_of(file):
  gin_config.parse([f"t5x/examples/{file}"], ["DROPOUT_RATE = 0.25"])
  decoder_only = file.startswith("decoder_only")
  cls = models.DecoderOnlyModel if decoder_only else models.EncoderDecoderModel
  model = gin.get_configurable(cls)()
  gin.clear_config()
  return model


def _shapes(model):
  tokens = {name: (1, 4) for name in (
      "encoder_input_tokens", "decoder_input_tokens")}
  return jax.eval_shape(
      lambda key: model.get_initial_variables(key, tokens)["params"],
      jax.random.PRNGKey(0))


def _number_of_parameters(model):
  """Of networks of one and two layers: each layer more has as many again."""
  module, config = model.module, model.module.config
  depths = [config.num_encoder_layers, config.num_decoder_layers]

  def count(encoder, decoder):
    model.module = module.clone(config=dataclasses.replace(
        config, num_encoder_layers=encoder, num_decoder_layers=decoder))
    params = _shapes(model)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    return sum(np.prod(x.shape) for x in jax.tree.leaves(params))

  one = count(1, 1)
  return one + sum((depth - 1) * (count(*two) - one) for depth, two in zip(
      depths, [(2, 1), (1, 2)]))


@pytest.mark.parametrize("file", FILES)
def test_file_builds_its_network(file):
  model = _model_of(file)
  assert model.module.config.dropout_rate == 0.25
  if file in PARAMETERS:
    assert round(_number_of_parameters(model) / 1e6) == pytest.approx(
        PARAMETERS[file], rel=5e-3)
  else:
    assert all(x.dtype == jnp.float32
               for x in jax.tree.leaves(_shapes(model)))


@pytest.mark.parametrize("file", ["t5/t5_1_0/base.gin", "t5/mt5/small.gin"])
def test_networks_of_few_layers_count_the_whole_one(file):
  model = _model_of(file)
  whole = sum(np.prod(x.shape) for x in jax.tree.leaves(_shapes(model)))
  assert _number_of_parameters(model) == whole


def test_the_table_names_files():
  assert set(PARAMETERS) <= set(FILES)


# A run's files and settings that a file of `RUNS` goes on from, by its name.
_BEFORE = {
    "t5/local_tiny.gin": ["t5/t5_1_1/tiny.gin", "../configs/runs/pretrain.gin"],
    "scalable_t5/local_tiny.gin": [
        "scalable_t5/t5_1_1/small.gin", "../configs/runs/pretrain.gin"]}
_PARTS = ("umt5/vocab", "umt5/runs", "umt5/optimizer", "umt5/architectures")


@pytest.mark.parametrize(
    "file", [f for f in RUNS if not any(part in f for part in _PARTS)])
def test_file_of_a_run_has_all_that_the_run_needs(file, tmp_path):
  mode = ("eval" if file.endswith("_eval.gin") else
          "infer" if "infer" in file else "train")
  t5x_command.run(
      mode, [*(str(EXAMPLES / f) for f in _BEFORE.get(file, ())),
             str(EXAMPLES / file)],
      [f"{name} = {str(tmp_path)!r}" for name in (
          "MODEL_DIR", "EVAL_OUTPUT_DIR", "INFER_OUTPUT_DIR",
          "CHECKPOINT_PATH")] + (
              ["DROPOUT_RATE = 0.0"] if file in _BEFORE else []) + (
                  [] if "INITIAL" in (EXAMPLES / file).read_text() else
                  ["INITIAL_CHECKPOINT_PATH = 'x'"]) + [
          "MIXTURE_OR_TASK_NAME = 'a'",
          "TRAIN_EVAL_MIXTURE_OR_TASK_NAME = 'b'",
          *(["INITIAL_CHECKPOINT_PATH = 'x'"] if "enfr_eval" in file else [])],
      engine="embedded", dry_run=True)
