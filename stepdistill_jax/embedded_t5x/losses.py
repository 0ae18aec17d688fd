"""Cross entropy of tokens, its weights, and what it is divided by."""

from __future__ import annotations

from collections.abc import Mapping
import enum
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from stepdistill_jax.util import errors

Array = Any


def cross_entropy_with_logits(
    logits: Array, targets: Array, z_loss: float = 0.0) -> tuple[Array, Array]:
  """Cross entropy of each position against a distribution of targets.

  loss = -Σ_v targets_v · log_softmax(logits)_v + z_loss · (log Z)²

  with Z = Σ_v exp(logits_v). The z-loss keeps log Z near 0: logits stay where
  bfloat16 is precise, and are log-probabilities nearly.

  Args:
    logits: float `[batch, length, vocab]`.
    targets: float `[batch, length, vocab]`, e.g. one-hot; its sum over the
      vocabulary is taken to be 1.

  Returns:
    The total loss and the z-loss alone, both `[batch, length]`. Only the
    first is meant to be differentiated; the second is for logs.
  """
  log_z = jax.nn.logsumexp(logits, axis=-1)
  log_softmax = logits - log_z[..., None]
  total_z_loss = z_loss * jnp.square(log_z)
  loss = -jnp.sum(targets * log_softmax, axis=-1) + total_z_loss
  return loss, jax.lax.stop_gradient(total_z_loss)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def token_cross_entropy(
    logits: Array, tokens: Array, label_smoothing: float = 0.0,
    z_loss: float = 0.0) -> tuple[Array, Array]:
  """`cross_entropy_with_logits` against smoothed one-hot targets.

  The same numbers without an array of targets: the target's log-probability
  is gathered, and the gradient keeps nothing but the logits and log Z.

  Args:
    logits: float `[batch, length, vocab]`.
    tokens: int `[batch, length]`. A token outside the vocabulary is an
      all-off target, as `one_hot` makes it.
    label_smoothing: probability taken from the token and spread evenly over
      all others.

  Returns:
    The total loss and the z-loss alone, both `[batch, length]`; gradients do
    not flow through the second.
  """
  return _token_cross_entropy_fwd(logits, tokens, label_smoothing, z_loss)[0]


def _confidences(label_smoothing: float, vocab: int) -> tuple[float, float]:
  """Probability of the target token, and of each other token."""
  return 1.0 - label_smoothing, label_smoothing / max(vocab - 1, 1)


def _token_cross_entropy_fwd(logits, tokens, label_smoothing, z_loss):
  on, off = _confidences(label_smoothing, logits.shape[-1])
  max_logit = jnp.max(logits, axis=-1, keepdims=True)
  log_sum = jnp.log(jnp.sum(jnp.exp(logits - max_logit), axis=-1))
  in_vocab = (tokens >= 0) & (tokens < logits.shape[-1])
  token_logit = jnp.take_along_axis(
      logits, tokens[..., None].astype(jnp.int32), axis=-1, mode="clip")
  # Minus the maximum first, so that near-certain tokens keep their digits.
  token_log_prob = jnp.where(
      in_vocab, (token_logit - max_logit)[..., 0] - log_sum, 0.0)
  loss = -(on - off) * token_log_prob
  if off:
    log_softmax = logits - max_logit - log_sum[..., None]
    loss -= off * jnp.sum(log_softmax, axis=-1)
  log_z = log_sum + max_logit[..., 0]
  total_z_loss = z_loss * jnp.square(log_z)
  return (loss + total_z_loss, total_z_loss), (logits, tokens, log_z)


def _token_cross_entropy_bwd(label_smoothing, z_loss, residuals, cotangents):
  logits, tokens, log_z = residuals
  g = cotangents[0]
  on, off = _confidences(label_smoothing, logits.shape[-1])
  softmax = jnp.exp(logits - log_z[..., None])
  is_token = tokens[..., None] == jnp.arange(logits.shape[-1])
  targets = jnp.where(is_token, on, off)
  grad = (1 + 2 * z_loss * log_z)[..., None] * softmax - targets
  return (g[..., None] * grad).astype(logits.dtype), None


token_cross_entropy.defvjp(_token_cross_entropy_fwd, _token_cross_entropy_bwd)


def compute_weighted_cross_entropy(
    logits: Array, targets: Array, weights: Array | None = None,
    label_smoothing: float = 0.0, z_loss: float = 0.0,
    loss_normalizing_factor: float | Array | None = None
) -> tuple[Array, Array, Array]:
  """The batch's loss: a weighted sum over tokens, divided by a factor.

  Smoothed targets' own entropy is subtracted, so that a perfect model's loss
  is 0.

  Args:
    logits: float `[batch, length, vocab]`.
    targets: int `[batch, length]`.
    weights: `[batch, length]`, or None for all ones.
    label_smoothing: see `token_cross_entropy`.
    loss_normalizing_factor: divides the sum; None leaves it a sum.

  Returns:
    Scalars: loss (z-loss included), z-loss, sum of weights.

  Raises:
    ValueError: ranks of logits and targets don't fit.
  """
  if logits.ndim != targets.ndim + 1:
    raise ValueError(
        "logits must have one axis more than targets, got shapes "
        f"{logits.shape} and {targets.shape}")
  vocab = logits.shape[-1]
  loss, total_z_loss = token_cross_entropy(
      logits, targets, label_smoothing, z_loss)
  on, off = _confidences(label_smoothing, vocab)
  entropy = -on * math.log(on) if on > 0 else 0.0
  if off > 0:
    entropy -= (vocab - 1) * off * math.log(off + 1e-20)
  loss = loss - entropy
  weight_sum = jnp.asarray(targets.size)
  if weights is not None:
    loss, total_z_loss = loss * weights, total_z_loss * weights
    weight_sum = jnp.sum(weights)
  if loss_normalizing_factor is not None:
    loss = loss / loss_normalizing_factor
    total_z_loss = total_z_loss / loss_normalizing_factor
  return jnp.sum(loss), jnp.sum(total_z_loss), weight_sum


@enum.unique
class SpecialLossNormalizingFactor(enum.Enum):
  """Loss divisors that depend on the batch.

  Attributes:
    NUM_REAL_TARGET_TOKENS: the sum of loss weights (number of real tokens).
    NUM_TOTAL_TARGET_TOKENS: batch · length, padding included.
    AVERAGE_PER_SEQUENCE: the mean over sequences of each sequence's mean over
      tokens, so that long and short examples count alike.
  """

  NUM_REAL_TARGET_TOKENS = 1
  NUM_TOTAL_TARGET_TOKENS = 2
  AVERAGE_PER_SEQUENCE = 3


def convert_special_loss_normalizing_factor_to_enum(
    x: str) -> SpecialLossNormalizingFactor:
  """The factor of that name, in any case; gin files cannot write enums."""
  factors = SpecialLossNormalizingFactor.__members__
  errors.require_known(
      "loss_normalizing_factor", x.upper(), factors, "(or give a number)")
  return factors[x.upper()]


def _sum_weights_per_segment(
    positions: Array, segment_ids: Array, weights: Array) -> Array:
  """Each token's total weight of its packed example.

      segment_ids = [[1, 1, 2, 2, 0]], weights = [[1, 1, 1, 0, 0]]
      result      = [[2, 2, 1, 1, 0]]

  Args:
    positions: int `[batch, length]`, 0 where an example starts.
    segment_ids: int `[batch, length]`, 0 on padding.
    weights: float `[batch, length]`.

  Returns:
    float32 `[batch, length]`.
  """
  length = positions.shape[-1]
  # Examples of a row numbered 0, 1, ...: ids may have gaps, starts have none.
  numbers = jnp.cumsum(positions == 0, axis=-1) - 1

  def sums(number, weight):
    number = jnp.maximum(number, 0)
    return jax.ops.segment_sum(weight, number, length)[number]

  # Padding is of no example, whatever its weights.
  return jnp.where(segment_ids != 0, jax.vmap(sums)(numbers, weights), 0.0)


def get_loss_normalizing_factor_and_weights(
    loss_normalizing_factor: (
        float | int | str | SpecialLossNormalizingFactor | None),
    batch: Mapping[str, Array],
) -> tuple[float | Array | None, Array | None]:
  """Resolves a configured divisor for one batch.

  Args:
    loss_normalizing_factor: a number or None, given back as they are; or a
      `SpecialLossNormalizingFactor`, or its name.
    batch: model features; `decoder_loss_weights` if present, else the real
      tokens of `decoder_target_tokens` count 1. AVERAGE_PER_SEQUENCE on
      packed batches reads `decoder_positions` and `decoder_segment_ids`.

  Returns:
    The divisor and the loss weights `[batch, length]` to use with it.
  """
  weights = batch.get("decoder_loss_weights")
  factor = loss_normalizing_factor
  if not isinstance(factor, (str, SpecialLossNormalizingFactor)):
    return factor, weights
  if isinstance(factor, str):
    factor = convert_special_loss_normalizing_factor_to_enum(factor)
  targets = batch["decoder_target_tokens"]
  if weights is None:
    weights = jnp.asarray(targets > 0, jnp.float32)
  if factor is SpecialLossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS:
    return math.prod(targets.shape), weights
  if factor is SpecialLossNormalizingFactor.AVERAGE_PER_SEQUENCE:
    if "decoder_segment_ids" in batch:
      totals = _sum_weights_per_segment(
          batch["decoder_positions"], batch["decoder_segment_ids"], weights)
    else:
      totals = jnp.sum(weights, axis=-1, keepdims=True)
    # A sequence without weight counts nothing.
    weights = jnp.nan_to_num(weights / totals, nan=0, posinf=0, neginf=0)
  return jnp.sum(weights), weights
