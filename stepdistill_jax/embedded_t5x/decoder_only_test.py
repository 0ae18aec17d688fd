"""A decoder-only model trains and answers through T5X's gin files."""

import json

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.config import gin_config
from stepdistill_jax.embedded_t5x import models
from stepdistill_jax.runs import t5x_command
from tests.support import testing_tasks

MODEL_FILE = "t5x/examples/decoder_only/models/base.gin"
SMALL = """
from __gin__ import dynamic_registration
import seqio
from tests.support import testing_tasks
from t5x import decoding
from t5x import models
from t5x.examples.decoder_only import network

MIXTURE_OR_TASK_NAME = "t5x_testing_reverse"
TASK_FEATURE_LENGTHS = {"inputs": 12, "targets": 12}
VOCABULARY = @seqio.ByteVocabulary()
DROPOUT_RATE = 0.0
models.DecoderOnlyModel.inputs_bidirectional_attention = True
decoding.temperature_sample.topk = 1
network.TransformerConfig:
  vocab_size = 384
  dtype = "float32"
  emb_dim = 16
  num_heads = 2
  num_layers = 2
  head_dim = 8
  mlp_dim = 32
"""
NO_EVAL = ("train_script.train.train_eval_dataset_cfg = None",
           "train_script.train.infer_eval_dataset_cfg = None")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A run folder: ten steps of a prefix LM, with `small.gin` beside it."""
  folder = tmp_path_factory.mktemp("decoder_only")
  (folder / "small.gin").write_text(SMALL)
  t5x_command.run(
      "train", [MODEL_FILE, "t5x/configs/runs/finetune.gin",
                str(folder / "small.gin")], [
          f"MODEL_DIR = {str(folder / 'run')!r}", "TRAIN_STEPS = 10",
          "INITIAL_CHECKPOINT_PATH = []", "USE_CACHED_TASKS = False",
          "BATCH_SIZE = 8", "RANDOM_SEED = 0",
          "train/utils.DatasetConfig.seed = 1",
          "train_script.train.stats_period = 1",
          "utils.SaveCheckpointConfig.period = 10", *NO_EVAL],
      engine="embedded")
  return folder


def losses(run):
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.util import tensor_util
  (path,) = (run / "train").glob("events*")
  return [float(tensor_util.make_ndarray(value.tensor))
          for event in event_file_loader.EventFileLoader(str(path)).Load()
          for value in event.summary.value if value.tag == "loss"]


def test_loss_falls(folder):
  values = losses(folder / "run")
  assert len(values) == 10 and np.isfinite(values).all()
  assert values[-1] < values[0]


def test_inference_is_greedy_by_whole_forward_passes(folder):
  """Prompts filled in at once, then a token a step, give the same answers."""
  output = folder / "answers"
  t5x_command.run(
      "infer", ["t5x/configs/runs/infer.gin", MODEL_FILE,
                str(folder / "small.gin")], [
          f"CHECKPOINT_PATH = {str(folder / 'run' / 'checkpoint_10')!r}",
          f"INFER_OUTPUT_DIR = {str(output)!r}",
          "utils.RestoreCheckpointConfig.dtype = 'float32'",
          "utils.DatasetConfig.batch_size = 4"], engine="embedded")
  (path,) = output.glob("*-predict.jsonl-00000-of-00001")
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(lines) == testing_tasks.SIZES["test"]

  with gin_config.main_module():
    gin_config.parse([MODEL_FILE, str(folder / "small.gin")], [])
    model = gin.query_parameter("%MODEL").scoped_configurable_fn()
    gin.clear_config()
  assert isinstance(model, models.DecoderOnlyModel)
  params = _parameters(folder / "run" / "checkpoint_10")
  logits = jax.jit(lambda batch: model._compute_logits(params, batch))
  vocabulary = testing_tasks.VOCABULARY
  for line in lines[:4]:
    prompt = [*vocabulary.encode(line["inputs"]["inputs_pretokenized"]), 1]
    answer = _greedy(logits, prompt, length=24)
    assert line["prediction"] == vocabulary.decode(answer)


def _greedy(logits, prompt, length):
  """Tokens after a prompt until 1, each by a forward pass over everything."""
  tokens = list(prompt)
  causal = np.zeros((1, length), np.int32)
  causal[0, :len(prompt) + 1] = 1
  while len(tokens) < length:
    targets = np.zeros((1, length), np.int32)
    # What follows is masked, but the mask wants something that is no padding.
    targets[0, :len(tokens) + 1] = [*tokens, 2]
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    batch = {"decoder_input_tokens": inputs, "decoder_target_tokens": targets,
             "decoder_causal_attention": causal}
    tokens.append(int(jnp.argmax(logits(batch)[0, len(tokens)])))
    if tokens[-1] == 1:
      break
  return tokens[len(prompt):]


def _parameters(checkpoint):
  import flax

  from stepdistill_jax.embedded_t5x import checkpoints
  return flax.core.freeze(
      checkpoints.load_t5x_checkpoint(str(checkpoint))["target"])
