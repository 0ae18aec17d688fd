"""Tiny students and random records for tests; small enough to compile fast."""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
import numpy as np
import seqio
from t5x import optimizers
from t5x.examples.t5 import network as t5_network
import tensorflow as tf

from stepdistill_jax.data import feature_converter, pair_rows
from stepdistill_jax.models import (
  decoder_model,
  step_model,
  weights as weights_lib,
)
from stepdistill_jax.models.llama import network as llama_network
from stepdistill_jax.util import equations

VOCAB = 64


def tiny_module(network=t5_network, dtype: str = "float32", **overrides):
  """A T5 v1.1 of 1 + 1 layers and width 16: compiles in a second or two.

  Args:
    network: the module of `T5Config` and `Transformer`.
    dtype: of activations.
    **overrides: of the config.
  """
  config = dict(
      vocab_size=VOCAB, dtype=dtype, emb_dim=16, num_heads=4,
      num_encoder_layers=1, num_decoder_layers=1, head_dim=4, mlp_dim=32,
      mlp_activations=("gelu", "linear"), dropout_rate=0.0,
      logits_via_embedding=False)
  return network.Transformer(
      config=network.T5Config(**{**config, **overrides}))


def tiny_decoder_module(dtype: str = "float32", **overrides):
  """A decoder with all that the Llama family has, of one layer."""
  return llama_network.Transformer(llama_network.LlamaConfig(**{
      **dict(vocab_size=VOCAB, dtype=dtype, emb_dim=16, num_heads=4,
             num_kv_heads=2, num_layers=1, head_dim=4, mlp_dim=32,
             qkv_bias=True, qk_norm=True), **overrides}))


def tiny_decoder(
    task_weights: weights_lib.TaskWeights | None = None, module=None,
    **options) -> decoder_model.StepDistillDecoder:
  """A decoder with AdamW; by default of label and rationale at α = 0.5."""
  return decoder_model.StepDistillDecoder(
      module=module or tiny_decoder_module(),
      vocabulary=seqio.PassThroughVocabulary(VOCAB, eos_id=1),
      optimizer_def=optimizers.adamw(1e-3),
      task_weights=task_weights or weights_lib.label_and_rationale(),
      **options)


def tiny_student(
    task_weights: weights_lib.TaskWeights | None = None, module=None,
    **options) -> step_model.StepDistillModel:
  """A student with AdamW; by default of label and rationale at α = 0.5."""
  vocabulary = seqio.PassThroughVocabulary(VOCAB, eos_id=1)
  return step_model.StepDistillModel(
      module=module or tiny_module(), input_vocabulary=vocabulary,
      output_vocabulary=vocabulary,
      optimizer_def=optimizers.adamw(1e-3),
      task_weights=task_weights or weights_lib.label_and_rationale(),
      **options)


def random_pairs(
    seed: int, count: int, longest: int = 10) -> list[dict[str, np.ndarray]]:
  """Paired examples; rationales are longer than labels, as in the data."""
  rng = np.random.default_rng(seed)
  def sequence(most):
    body = rng.integers(2, VOCAB, rng.integers(1, most))
    return np.append(body, 1).astype(np.int32)  # EOS
  return [{
      "inputs": sequence(longest), "targets": sequence(longest // 2),
      "rationale_inputs": sequence(longest),
      "rationale_targets": sequence(longest),
  } for _ in range(count)]


def as_dataset(examples: Sequence[dict]) -> tf.data.Dataset:
  """A data set of ragged examples with the types that tasks give."""
  signature = {
      name: tf.TensorSpec([None], tf.as_dtype(np.asarray(value).dtype))
      for name, value in examples[0].items()}
  return tf.data.Dataset.from_generator(
      lambda: iter(examples), output_signature=signature)


def paired_batch(examples, input_length=10, target_length=10):
  """All examples in one batch `[records, 2, length]`, not packed."""
  return convert(examples, input_length, target_length, pack=False)


def joined_batch(examples, input_length=10, target_length=10):
  """All examples, the targets of each one after the other in a row."""
  return convert(
      examples, input_length, target_length, pack=False, join_pairs=True)


def packed_batch(examples, input_length=40, target_length=32, rows=16):
  """All examples packed; empty rows are added up to `rows`."""
  batch = convert(examples, input_length, target_length, pack=True)
  return {name: np.pad(v, [(0, rows - len(v)), (0, 0)])
          for name, v in batch.items()}


def pairs_batch(examples, input_length=10, target_length=10, multiple=1):
  """All examples in the fewest rows, as of `PACK = 'pairs'`."""
  converter = feature_converter.StepDistillFeatureConverter(pack=False)
  given = {"inputs": input_length, "targets": target_length}
  keys = list(examples[0])
  spec = {key: tf.TensorSpec([None], tf.int32) for key in keys}
  *sizes, _, _ = converter.row_sizes(spec, lambda names: np.array(
      [[len(e[name]) for e in examples] for name in names]), given)
  sizes = np.stack(sizes)
  shape = pair_rows.shape_of(
      lambda at: sizes[:, None], 1, tuple(sizes.max(axis=1)), multiple)
  rows, = pair_rows.place(sizes[:, None], shape)
  return {name: value.numpy() for name, value in converter.of_many(
      spec, given, shape)({
          feature_converter.PLACEMENT: pair_rows.starts(sizes, rows),
          **{key: tf.ragged.constant([e[key].tolist() for e in examples],
                                     tf.int32) for key in keys}}).items()}


def convert(examples, input_length, target_length, **options):
  converter = feature_converter.StepDistillFeatureConverter(**options)
  ds = converter(as_dataset(examples),
                 {"inputs": input_length, "targets": target_length})
  rows = list(ds.as_numpy_iterator())
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def init_params(model, batch, seed: int = 0):
  """Initial parameters for a batch's shapes."""
  init = lambda rng: model.get_initial_variables(
      rng, {k: v.shape for k, v in batch.items()},
      {k: v.dtype for k, v in batch.items()})["params"]
  return equations.one_by_one(init)(jax.random.PRNGKey(seed))


@functools.cache
def value_and_grad(model):
  """A compiled `(params, batch) -> loss, metrics, gradient` of a student."""

  def step(params, batch):
    (loss, metrics), gradient = jax.value_and_grad(
        lambda p: model.loss_fn(p, batch, None), has_aux=True)(params)
    values = {k: m.compute() for k, m in metrics.items()
              if not k.startswith("timing/")}
    return loss, values, gradient

  return jax.jit(step)
