"""Tiny models and batches for tests and for the parity benchmark.

They are of whichever engine `t5x` is, so that the two can be compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VOCAB_SIZE = 64
ENCODER_LENGTH = 12
DECODER_LENGTH = 10

# A head size whose square root rounds: parity must hold all the same.
SIZES = dict(
    vocab_size=VOCAB_SIZE, emb_dim=16, num_heads=2, num_encoder_layers=2,
    num_decoder_layers=2, head_dim=6, mlp_dim=32, dropout_rate=0.1)
T5_1_0 = dict(mlp_activations=("relu",), logits_via_embedding=True)
T5_1_1 = dict(mlp_activations=("gelu", "linear"))


def make_batch(
    seed: int, packed: bool = False, rows: int = 8) -> dict[str, np.ndarray]:
  """Random examples, one or two a row, whose targets repeat the inputs.

  Args:
    packed: two examples a row, with segment ids and positions.

  Returns:
    Model features as `seqio.EncDecFeatureConverter` makes them.
  """
  rng = np.random.default_rng(seed)
  lengths = {"encoder": ENCODER_LENGTH, "decoder": DECODER_LENGTH}
  tokens, segments, positions = (
      {side: np.zeros((rows, n), np.int32) for side, n in lengths.items()}
      for _ in range(3))
  for row in range(rows):
    start = 0
    for segment in (1, 2) if packed else (1,):
      length = int(rng.integers(2, 4 if packed else 9)) + 1
      example = np.append(rng.integers(2, VOCAB_SIZE, length - 1), 1)
      for side in lengths:
        span = slice(start, start + length)
        tokens[side][row, span] = example
        segments[side][row, span] = segment
        positions[side][row, span] = np.arange(length)
      start += length
  targets = tokens["decoder"]
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  batch = {
      "encoder_input_tokens": tokens["encoder"],
      "decoder_target_tokens": targets,
      "decoder_input_tokens": np.where(
          (positions["decoder"] == 0) | (targets == 0), 0, shifted
      ).astype(np.int32),
      "decoder_loss_weights": (targets > 0).astype(np.float32),
  }
  if packed:
    for side in lengths:
      batch[f"{side}_segment_ids"] = segments[side]
      batch[f"{side}_positions"] = positions[side]
  return batch


def unpack(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same examples, one a row, in their order."""
  rows = {name: [] for name in (
      "encoder_input_tokens", "decoder_target_tokens",
      "decoder_input_tokens", "decoder_loss_weights")}
  for row in range(len(batch["encoder_input_tokens"])):
    for segment in (1, 2):
      for name, out in rows.items():
        values = batch[name][row]
        side = name.split("_")[0]
        values = values[batch[f"{side}_segment_ids"][row] == segment]
        out.append(np.pad(values, (0, batch[name].shape[1] - len(values))))
  return {name: np.stack(out) for name, out in rows.items()}


def make_vocabulary():
  import seqio
  return seqio.PassThroughVocabulary(VOCAB_SIZE, eos_id=1)


def make_model(
    network: Any = None, config: dict[str, Any] | None = None, **arguments):
  """A tiny `EncoderDecoderModel`.

  Args:
    network: a module with `Transformer` and `T5Config`; None is T5's.
    config: what differs from `SIZES` and T5 1.1.
    **arguments: of the model.
  """
  from t5x import models
  if network is None:
    from t5x.examples.t5 import network
  config = network.T5Config(**{**SIZES, **T5_1_1, **(config or {})})
  return models.EncoderDecoderModel(
      module=network.Transformer(config), input_vocabulary=make_vocabulary(),
      output_vocabulary=make_vocabulary(),
      **{"optimizer_def": None, "z_loss": 1e-4, **arguments})


def initial_variables(
    model, seed: int = 0, batch: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
  """`params` and `params_axes`; models share the programs of initializers."""
  import flax
  import jax

  from stepdistill_jax.util import equations
  shapes = {name: values.shape
            for name, values in (batch or make_batch(0)).items()}
  # Axis names are no arrays: they come out of the tracing.
  init = lambda rng: flax.core.unfreeze(
      model.get_initial_variables(rng, shapes))
  return equations.one_by_one(init)(jax.random.PRNGKey(seed))
