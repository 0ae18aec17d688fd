"""Matrix products of a student's step, by formulas.

Two FLOPs for each multiply-add. Going backward costs twice the forward
products (one for the input's gradient, one for the parameter's or the other
operand's); what is computed again for rematerialization is not useful work and
does not count here: `program_flops` counts it, in a traced program.
"""

import math
from typing import Any


def layers(config: Any) -> tuple[int, int]:
  """Blocks of the encoder, none in a decoder alone, and of the decoder."""
  if hasattr(config, "num_layers"):
    return 0, config.num_layers
  return config.num_encoder_layers, config.num_decoder_layers


def _attention(config: Any, queries: int, keys: int, project_keys: int) -> int:
  """One attention block of one row."""
  joined = config.num_heads * config.head_dim
  # Query and output maps act on queries, key and value maps on keys.
  joined_kv = getattr(
      config, "num_kv_heads", config.num_heads) * config.head_dim
  projections = 2 * config.emb_dim * (
      2 * queries * joined + 2 * project_keys * joined_kv)
  products = 2 * 2 * queries * keys * joined
  return projections + products


def _mlp(config: Any, length: int) -> int:
  return 2 * length * config.emb_dim * config.mlp_dim * (
      len(config.mlp_activations) + 1)


def forward(config: Any, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of a forward pass.

  Args:
    config: of the network, a `T5Config` or a `LlamaConfig`.
    rows: of the batch.
    inputs: length of a row of the encoder.
    targets: length of a row of the decoder.
  """
  logits = 2 * targets * config.emb_dim * config.vocab_size
  encoder_layers, decoder_layers = layers(config)
  if not encoder_layers:
    length = inputs + targets
    return rows * (logits + decoder_layers * (
        _attention(config, length, length, length) + _mlp(config, length)))
  encoder = encoder_layers * (
      _attention(config, inputs, inputs, inputs) + _mlp(config, inputs))
  decoder = decoder_layers * (
      _attention(config, targets, targets, targets)
      + _attention(config, targets, inputs, inputs) + _mlp(config, targets))
  return rows * (encoder + decoder + logits)


def train(config: Any, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of a train step: forward and backward."""
  return 3 * forward(config, rows, inputs, targets)


def decode(
    config: Any, rows: int, inputs: int, targets: int, beams: int = 1) -> int:
  """FLOPs of an answer of `targets` tokens with cached keys and values.

  Each step attends to the whole cache, filled or not.
  """
  encoder_layers, decoder_layers = layers(config)
  if not encoder_layers:
    length = inputs + targets
    prompt = _attention(config, length, length, length) + _mlp(config, length)
    step = _attention(config, 1, length, 1) + _mlp(config, 1)
    return rows * (decoder_layers * (prompt + beams * targets * step)
                   + beams * targets * 2 * config.emb_dim * config.vocab_size)
  encoder = encoder_layers * (
      _attention(config, inputs, inputs, inputs) + _mlp(config, inputs))
  joined = config.num_heads * config.head_dim
  cross_keys = decoder_layers * 2 * 2 * inputs * config.emb_dim * joined
  step = decoder_layers * (
      _attention(config, 1, targets, 1) + _attention(config, 1, inputs, 0)
      + _mlp(config, 1)) + 2 * config.emb_dim * config.vocab_size
  return rows * (encoder + cross_keys + beams * targets * step)


def program_flops(jaxpr: Any) -> int:
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
    inner = [program_flops(value) for parameter in equation.params.values()
             for value in (parameter if isinstance(parameter, (tuple, list))
                           else (parameter,))
             if hasattr(getattr(value, "jaxpr", value), "eqns")]
    if equation.primitive.name == "cond":
      total += max(inner)
    else:
      total += equation.params.get("length", 1) * sum(inner)
  return total
