"""What a model is to the trainer: loss, scores, predictions of a batch."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

import flax
from flax import linen as nn
from flax.core import scope as flax_scope
import jax
import jax.numpy as jnp
import seqio

from stepdistill_jax.embedded_t5x import (
  decoding,
  losses,
  metrics as metrics_lib,
  model_metrics,
  optimizers,
)
from stepdistill_jax.util import errors

Array = Any
PyTree = Any
Batch = Mapping[str, Array]
MetricsMap = metrics_lib.MetricsMap
LossNormalizingFactor = (
    float | int | str | losses.SpecialLossNormalizingFactor | None)
TokensIdsToLogitsCallable = decoding.TokensToLogits
# Such as `decoding.beam_search` and `temperature_sample`: gives int
# `[batch, num_decodes, length]` and scores of all decodes, the best last.
DecodeFnCallable = Callable[..., tuple[Array, Array]]


class BaseModel(abc.ABC):
  """A flax module with its loss, its metrics and its optimizer.

  Attributes:
    FEATURE_CONVERTER_CLS: makes a task's examples into the model's features.
  """

  FEATURE_CONVERTER_CLS: Callable[..., seqio.FeatureConverter]

  def __init__(self, optimizer_def: optimizers.OptimizerDefType):
    self.optimizer_def = optimizer_def

  @abc.abstractmethod
  def loss_fn(
      self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Array, MetricsMap]:
    """The training loss, a scalar, and metrics; no key means no dropout."""

  def eval_fn(self, params: PyTree, batch: Batch) -> tuple[Array, MetricsMap]:
    """The loss without dropout, and metrics."""
    return self.loss_fn(params=params, batch=batch, dropout_rng=None)

  def predict_batch(
      self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> Array:
    """Predicted tokens, see `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params=params, batch=batch, rng=rng)[0]

  @abc.abstractmethod
  def predict_batch_with_aux(
      self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Array, Mapping[str, Array]]:
    """Predicted tokens, and what else is known of them (`scores`)."""

  @abc.abstractmethod
  def score_batch(self, params: PyTree, batch: Batch,
                  return_intermediates: bool = False) -> Array:
    """Log-probability of each row's targets, `[batch]`."""

  @abc.abstractmethod
  def get_initial_variables(
      self, rng: jax.Array, input_shapes: Mapping[str, Any],
      input_types: Mapping[str, Any] | None = None,
  ) -> flax_scope.FrozenVariableDict:
    """Freshly initialized parameters with their logical axes."""


class BaseTransformerModel(BaseModel):
  """Loss, metrics and scores from the logits that subclasses compute."""

  def __init__(
      self, module: nn.Module, input_vocabulary: seqio.Vocabulary,
      output_vocabulary: seqio.Vocabulary,
      optimizer_def: optimizers.OptimizerDefType,
      decode_fn: DecodeFnCallable | None = None, label_smoothing: float = 0.0,
      z_loss: float = 0.0,
      loss_normalizing_factor: LossNormalizingFactor = None):
    """Sets the model up.

    Args:
      output_vocabulary: of the decoder's tokens; its `eos_id` ends decoding.
      loss_normalizing_factor: what the loss is divided by, see
        `losses.get_loss_normalizing_factor_and_weights`.
    """
    super().__init__(optimizer_def)
    self.module = module
    self._input_vocabulary = input_vocabulary
    self._output_vocabulary = output_vocabulary
    self._decode_fn = decode_fn
    self._label_smoothing = label_smoothing
    self._z_loss = z_loss
    self._loss_normalizing_factor = loss_normalizing_factor

  @property
  def input_vocabulary(self) -> seqio.Vocabulary:
    return self._input_vocabulary

  @property
  def output_vocabulary(self) -> seqio.Vocabulary:
    return self._output_vocabulary

  @property
  def decode_fn(self) -> DecodeFnCallable | None:
    return self._decode_fn

  @abc.abstractmethod
  def _compute_logits(
      self, params: PyTree, batch: Batch,
      dropout_rng: jax.Array | None = None,
      mutable: flax_scope.CollectionFilter = False,
      other_variables: PyTree | None = None) -> Any:
    """Logits of the targets' positions, `[batch, length, vocab]`.

    With `mutable`, also the changed collections.
    """

  def _apply(self, params, dropout_rng, mutable, other_variables, *inputs,
             **features) -> Any:
    """The network on whole sequences, with dropout if there is a key."""
    return self.module.apply(
        {"params": params, **(other_variables or {})}, *inputs, **features,
        decode=False, enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        mutable=mutable)

  def loss_fn(
      self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Array, MetricsMap]:
    """Cross entropy of `decoder_target_tokens`."""
    logits = self._compute_logits(params, batch, dropout_rng)
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
        self._loss_normalizing_factor, batch)
    loss, z_loss, _ = losses.compute_weighted_cross_entropy(
        logits, targets=batch["decoder_target_tokens"], weights=weights,
        label_smoothing=self._label_smoothing, z_loss=self._z_loss,
        loss_normalizing_factor=factor)
    metrics = self._compute_metrics(
        logits=logits, targets=batch["decoder_target_tokens"], mask=weights,
        loss=loss, z_loss=z_loss, segment_ids=_segments(batch))
    return loss, metrics

  def _compute_metrics(
      self, logits: Array, targets: Array, mask: Array, loss: Array,
      z_loss: Array | None = None,
      segment_ids: Mapping[str, Array] | None = None) -> MetricsMap:
    return model_metrics.compute_base_metrics(
        logits, targets, mask, loss, z_loss, segment_ids)

  def score_batch(
      self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ) -> Array | tuple[Array, Mapping[str, Any]]:
    """Log-probability of each row's targets, weighted by the loss weights.

    Args:
      return_intermediates: also returns what the network sowed, with
        `decoder/{target_tokens,loss_weights,token_scores}` added, each a
        tuple of one `[batch, length]` array.

    Returns:
      float32 `[batch]`, and the intermediates if asked for.
    """
    targets = batch["decoder_target_tokens"]
    weights = batch["decoder_loss_weights"]
    if return_intermediates:
      logits, sown = self._compute_logits(
          params=params, batch=batch, mutable=["intermediates"])
    else:
      logits = self._compute_logits(params=params, batch=batch)
    # No smoothing and no z-loss: those are for training.
    token_scores = -losses.token_cross_entropy(logits, targets)[0] * weights
    sequence_scores = token_scores.sum(-1)
    if not return_intermediates:
      return sequence_scores
    intermediates = flax.core.unfreeze(sown.get("intermediates", {}))
    intermediates.setdefault("decoder", {}).update(
        target_tokens=(targets,), loss_weights=(weights,),
        token_scores=(token_scores,))
    return sequence_scores, intermediates

  def _decode(
      self, inputs: Array, cache: PyTree, tokens_to_logits: Callable[..., Any],
      num_decodes: int, return_all_decodes: bool, rng: jax.Array | None,
      decoder_params: Mapping[str, Any] | None, initial_index: Array | None
  ) -> tuple[Array, Mapping[str, Array]]:
    """Calls `decode_fn`; keeps all decodes or the best."""
    arguments = dict(decoder_params or {})
    if rng is not None:
      if arguments.get("decode_rng") is not None:
        raise errors.InvalidValue(
            "got a random key twice, as `rng` and as "
            "decoder_params['decode_rng']; give one of them")
      arguments["decode_rng"] = rng
    if initial_index is not None:
      arguments["initial_index"] = initial_index
    arguments.setdefault("eos_id", self.output_vocabulary.eos_id or 1)
    decodes, scores = self.decode_fn(
        inputs=inputs, cache=cache, tokens_to_logits=tokens_to_logits,
        num_decodes=num_decodes,
        # Scanned layers put their axis before the batch.
        cache_offset=1 if getattr(self.module, "scan_layers", False) else 0,
        **arguments)
    if return_all_decodes:
      return decodes, {"scores": scores}
    return decodes[:, -1], {"scores": scores[:, -1]}


def _segments(batch: Batch) -> Mapping[str, Array]:
  """Packed examples' numbers by feature, else which tokens are real."""
  suffix = "_segment_ids"
  segments = {
      name.removesuffix(suffix): ids
      for name, ids in batch.items() if name.endswith(suffix)}
  return segments or {
      name: batch[name] != 0
      for name in ("encoder_input_tokens", "decoder_target_tokens")
      if name in batch}


def ones(name: str, shapes: Mapping[str, Any],
         types: Mapping[str, Any] | None, default: Any) -> Array | None:
  """An example input for initialization; None if there is no such feature."""
  if name not in shapes:
    return None
  return jnp.ones(shapes[name], (types or {}).get(name, default))


def get_input_vocabulary(model: BaseTransformerModel) -> seqio.Vocabulary:
  """For gin files: the vocabulary of `MODEL`'s inputs."""
  return model.input_vocabulary


def get_output_vocabulary(model: BaseTransformerModel) -> seqio.Vocabulary:
  """For gin files: the vocabulary of `MODEL`'s targets."""
  return model.output_vocabulary
