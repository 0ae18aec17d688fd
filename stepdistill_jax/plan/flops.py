"""Matrix products of a student's step, by formulas.

Two FLOPs for each multiply-add. Going backward costs twice the forward
products (one for the input's gradient, one for the parameter's or the other
operand's); what is computed again for rematerialization is not useful work and
does not count here: `of_program` counts it, in a traced program.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A T5's or a decoder's dimensions.

  Attributes:
    vocab: rows of the embedding.
    embed: width of the residual stream.
    heads: attention heads.
    head_dim: of each.
    mlp: width of the hidden layer.
    mlp_inputs: projections into it: 2 where gated.
    encoder_layers: number of; 0 of a decoder alone, whose rows are inputs and
      then targets.
    decoder_layers: number of.
    kv_heads: key-value heads; None is `heads`.
  """

  vocab: int
  embed: int
  heads: int
  head_dim: int
  mlp: int
  mlp_inputs: int
  encoder_layers: int
  decoder_layers: int
  kv_heads: int | None = None

  @classmethod
  def of(cls, config) -> Sizes:
    """Of a `T5Config` or a `LlamaConfig`."""
    decoder_alone = hasattr(config, "num_kv_heads")
    return cls(
        config.vocab_size, config.emb_dim, config.num_heads, config.head_dim,
        config.mlp_dim, len(config.mlp_activations),
        0 if decoder_alone else config.num_encoder_layers,
        config.num_layers if decoder_alone else config.num_decoder_layers,
        config.num_kv_heads if decoder_alone else None)


def _attention(sizes: Sizes, queries: int, keys: int, project_keys: int) -> int:
  """One attention block of one row."""
  joined = sizes.heads * sizes.head_dim
  # Query and output maps act on queries, key and value maps on keys.
  joined_kv = (sizes.kv_heads or sizes.heads) * sizes.head_dim
  projections = 2 * sizes.embed * (
      2 * queries * joined + 2 * project_keys * joined_kv)
  products = 2 * 2 * queries * keys * joined
  return projections + products


def _mlp(sizes: Sizes, length: int) -> int:
  return 2 * length * sizes.embed * sizes.mlp * (sizes.mlp_inputs + 1)


def forward(sizes: Sizes, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of a forward pass.

  Args:
    sizes: of the network.
    rows: of the batch.
    inputs: length of a row of the encoder.
    targets: length of a row of the decoder.
  """
  logits = 2 * targets * sizes.embed * sizes.vocab
  if not sizes.encoder_layers:
    length = inputs + targets
    return rows * (logits + sizes.decoder_layers * (
        _attention(sizes, length, length, length) + _mlp(sizes, length)))
  encoder = sizes.encoder_layers * (
      _attention(sizes, inputs, inputs, inputs) + _mlp(sizes, inputs))
  decoder = sizes.decoder_layers * (
      _attention(sizes, targets, targets, targets)
      + _attention(sizes, targets, inputs, inputs) + _mlp(sizes, targets))
  return rows * (encoder + decoder + logits)


def train(sizes: Sizes, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of a train step: forward and backward."""
  return 3 * forward(sizes, rows, inputs, targets)


def decode(
    sizes: Sizes, rows: int, inputs: int, targets: int, beams: int = 1) -> int:
  """FLOPs of an answer of `targets` tokens with cached keys and values.

  Each step attends to the whole cache, filled or not.
  """
  if not sizes.encoder_layers:
    length = inputs + targets
    prompt = _attention(sizes, length, length, length) + _mlp(sizes, length)
    step = _attention(sizes, 1, length, 1) + _mlp(sizes, 1)
    return rows * (sizes.decoder_layers * (prompt + beams * targets * step)
                   + beams * targets * 2 * sizes.embed * sizes.vocab)
  encoder = sizes.encoder_layers * (
      _attention(sizes, inputs, inputs, inputs) + _mlp(sizes, inputs))
  joined = sizes.heads * sizes.head_dim
  cross_keys = sizes.decoder_layers * 2 * 2 * inputs * sizes.embed * joined
  step = sizes.decoder_layers * (
      _attention(sizes, 1, targets, 1) + _attention(sizes, 1, inputs, 0)
      + _mlp(sizes, 1)) + 2 * sizes.embed * sizes.vocab
  return rows * (encoder + cross_keys + beams * targets * step)


def of_program(jaxpr: Any) -> int:
  """FLOPs of all matrix products of a traced program, turn by turn of loops.

  With what is computed again for rematerialization, and a TPU's gradients of
  embeddings. Loops of unknown length count once, of branches the dearest.

  Args:
    jaxpr: `jax.core.Jaxpr`, or a closed one.
  """
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      operand = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
          operand[axis] for axis in contracted)
      continue
    inner = [of_program(value) for parameter in equation.params.values()
             for value in (parameter if isinstance(parameter, (tuple, list))
                           else (parameter,))
             if hasattr(getattr(value, "jaxpr", value), "eqns")]
    if equation.primitive.name == "cond":
      total += max(inner)
    else:
      total += equation.params.get("length", 1) * sum(inner)
  return total
