"""Initializes and decodes tiny T5s on one T5X engine; saves what they give.

`python -m benchmarks.parity.model_probe OUTPUT.npz` runs on the engine that
$STEPDISTILL_ENGINE names. Two such files, one of each engine, are compared by
`compare`. Tokens are random, no vocabulary and no data set are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import sys
from typing import Any

import numpy as np

# name -> (decoding function, decodes of each row, arguments)
WAYS = {
    "greedy": ("temperature_sample", 1, dict(
        temperature=0.0, rescale_log_probs=False)),
    "beam1": ("beam_search", 1, {}),
    "beam4": ("beam_search", 4, {}),
    "beam4_no_penalty": ("beam_search", 4, dict(alpha=0.0)),
    "sample": ("temperature_sample", 3, dict(topk=0, temperature=0.7)),
    "sample_topk": ("temperature_sample", 3, dict(topk=5)),
    "sample_topp": ("temperature_sample", 3, dict(topk=0, topp=0.8)),
}
# Scores are sums of ten float32 log-probabilities.
SCORE_TOLERANCE = 1e-4


def _flat(tree, prefix: str) -> dict[str, Any]:
  import flax
  flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(tree), sep="/")
  return {f"{prefix}/{name}": value for name, value in flat.items()}


# Ways that make sense of a network that has no encoder.
_DECODER_ONLY_WAYS = ("greedy", "sample", "sample_topk")


def _decoder_only() -> tuple[Any, dict[str, np.ndarray]]:
  """A tiny prefix LM, and a batch of prompts and targets for it."""
  from t5x import models
  from t5x.examples.decoder_only import network

  from tests.support import tiny_models
  model = models.DecoderOnlyModel(
      module=network.DecoderWrapper(network.TransformerConfig(
          vocab_size=tiny_models.VOCAB_SIZE, emb_dim=16, num_heads=2,
          num_layers=2, head_dim=6, mlp_dim=32,
          mlp_activations=("gelu", "linear"), dropout_rate=0.1)),
      vocabulary=tiny_models.make_vocabulary(), optimizer_def=None,
      inputs_bidirectional_attention=True, z_loss=1e-4)
  rng = np.random.default_rng(3)
  targets, causal = np.zeros((2, 6, 16), np.int32)
  for row, (prompt, answer) in enumerate(rng.integers(2, 7, (6, 2))):
    length = prompt + answer
    targets[row, :length] = rng.integers(2, tiny_models.VOCAB_SIZE, length)
    targets[row, [prompt - 1, length - 1]] = 1
    causal[row, :prompt + 1] = 1
  return model, {
      "decoder_target_tokens": targets,
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      "decoder_causal_attention": causal,
      "decoder_loss_weights": (
          (targets > 0) & (np.pad(causal, ((0, 0), (0, 1)))[:, 1:] == 0)
      ).astype(np.float32)}


def probe() -> dict[str, np.ndarray]:
  """Parameters, axes, decodes and scores, by name.

  A name's first part says how it is compared: `scores` within a tolerance,
  all others must be equal.
  """
  import jax
  from t5x import decoding
  from t5x.examples.scalable_t5 import network as scalable
  from t5x.examples.t5 import network as t5

  from tests.support import tiny_models
  networks = {
      "t5_1_0": (t5, tiny_models.T5_1_0),
      "t5_1_1": (t5, tiny_models.T5_1_1),
      "scanned": (scalable, dict(remat_policy="minimal")),
  }
  cases = {name: (tiny_models.make_model(*parts), tiny_models.make_batch(99),
                  WAYS) for name, parts in networks.items()}
  cases["decoder_only"] = (*_decoder_only(), _DECODER_ONLY_WAYS)
  results = {}
  for name, (model, batch, ways) in cases.items():
    variables = tiny_models.initial_variables(model, seed=7, batch=batch)
    results |= {
        k: np.asarray(v)
        for k, v in _flat(variables["params"], f"params/{name}").items()}
    results |= {
        k: np.array(v.names)
        for k, v in _flat(variables["params_axes"], f"axes/{name}").items()}
    for way in ways:
      decode_fn, decodes, arguments = WAYS[way]
      model._decode_fn = getattr(decoding, decode_fn)
      tokens, aux = jax.jit(
          functools.partial(
              model.predict_batch_with_aux, batch=batch, num_decodes=decodes,
              return_all_decodes=True, rng=jax.random.PRNGKey(5),
              decoder_params=dict(arguments)))(variables["params"])
      results[f"decodes/{name}/{way}"] = np.asarray(tokens)
      results[f"scores/{name}/{way}"] = np.asarray(aux["scores"])
    results[f"scores/{name}/targets"] = np.asarray(
        jax.jit(model.score_batch)(variables["params"], batch))
  return results


def compare(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, int, float]]:
  """kind -> (arrays, arrays that differ, greatest absolute difference)."""
  result = {}
  for name in sorted(set(ours) | set(theirs)):
    kind = name.split("/")[0]
    count, wrong, worst = result.get(kind, (0, 0, 0.0))
    a, b = ours.get(name), theirs.get(name)
    if a is None or b is None or a.shape != b.shape:
      result[kind] = count + 1, wrong + 1, float("inf")
      continue
    if a.dtype.kind == "U":
      difference = 0.0 if np.array_equal(a, b) else float("inf")
    else:
      difference = float(np.max(np.abs(
          a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
    limit = SCORE_TOLERANCE if kind == "scores" else 0.0
    result[kind] = (
        count + 1, wrong + (not difference <= limit), max(worst, difference))
  return result


def main() -> int:
  from stepdistill_jax.util import runtime
  runtime.configure()
  np.savez(sys.argv[1], **probe())
  return 0


if __name__ == "__main__":
  sys.exit(main())
