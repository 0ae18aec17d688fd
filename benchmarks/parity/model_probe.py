"""Runs a tiny T5 on one T5X engine and saves all that it gives.

`python -m benchmarks.parity.model_probe OUTPUT.npz` runs on the engine that
$STEPDISTILL_ENGINE names. Two such files, one of each engine, are compared
by `compare`: parameters bit by bit, losses and scores within tolerances,
decoded tokens one by one. No data set and no vocabulary are needed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

VOCAB = 64
STEPS = 50

# A T5 1.1 and a T5 1.0, small enough to train on any machine in seconds, with
# a head size whose square root rounds.
SIZES = dict(
    vocab_size=VOCAB, emb_dim=16, num_heads=2, num_encoder_layers=2,
    num_decoder_layers=2, head_dim=6, mlp_dim=32)
NETWORKS = {
    "t5_1_1": dict(mlp_activations=("gelu", "linear")),
    "t5_1_0": dict(mlp_activations=("relu",), logits_via_embedding=True),
}


def make_batch(
    seed: int, packed: bool = False, rows: int = 8) -> dict[str, np.ndarray]:
  """Random tokens whose targets repeat the inputs: something to learn."""
  rng = np.random.default_rng(seed)
  enc_length, dec_length = 12, 10
  batch = {
      "encoder_input_tokens": np.zeros((rows, enc_length), np.int32),
      "decoder_target_tokens": np.zeros((rows, dec_length), np.int32),
  }
  segments = {k: np.zeros_like(v) for k, v in batch.items()}
  positions = {k: np.zeros_like(v) for k, v in batch.items()}
  starts = np.zeros((rows, dec_length), bool)
  for row in range(rows):
    used = {k: 0 for k in batch}
    for segment in range(1, 3 if packed else 2):
      n = int(rng.integers(2, 5 if packed else 9))
      tokens = np.append(rng.integers(2, VOCAB, n), 1)
      for name, values in batch.items():
        span = slice(used[name], used[name] + n + 1)
        values[row, span] = tokens
        segments[name][row, span] = segment
        positions[name][row, span] = np.arange(n + 1)
        used[name] += n + 1
        if name == "decoder_target_tokens":
          starts[row, span.start] = True
  targets = batch["decoder_target_tokens"]
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  batch["decoder_input_tokens"] = np.where(
      starts | (targets == 0), 0, shifted).astype(np.int32)
  batch["decoder_loss_weights"] = (targets > 0).astype(np.float32)
  if packed:
    for short, name in (("encoder", "encoder_input_tokens"),
                        ("decoder", "decoder_target_tokens")):
      batch[f"{short}_segment_ids"] = segments[name]
      batch[f"{short}_positions"] = positions[name]
  return batch


def make_model(network_module, config: dict[str, Any], **arguments):
  """An `EncoderDecoderModel` of the engine in use."""
  import seqio
  from t5x import models
  vocabulary = seqio.PassThroughVocabulary(VOCAB, eos_id=1)
  arguments.setdefault("optimizer_def", None)
  return models.EncoderDecoderModel(
      module=network_module.Transformer(network_module.T5Config(**config)),
      input_vocabulary=vocabulary, output_vocabulary=vocabulary,
      z_loss=1e-4, **arguments)


def make_optimizer(name: str):
  from t5x import adafactor
  from t5x import optimizers
  if name == "adafactor":
    # Factored even at this size.
    return adafactor.Adafactor(
        learning_rate=1e-2, min_dim_size_to_factor=8, beta1=0.9,
        logical_factor_rules=adafactor.standard_logical_factor_rules())
  return optimizers.adamw(learning_rate=1e-3)


def flat(tree, prefix: str) -> dict[str, np.ndarray]:
  import flax
  flat_tree = flax.traverse_util.flatten_dict(
      flax.core.unfreeze(tree), sep="/")
  return {f"{prefix}/{k}": np.asarray(v) for k, v in flat_tree.items()}


def initial_variables(model) -> dict[str, Any]:
  import flax
  import jax
  batch = make_batch(0)
  variables = model.get_initial_variables(
      jax.random.PRNGKey(7), {k: v.shape for k, v in batch.items()},
      {k: v.dtype for k, v in batch.items()})
  return flax.core.unfreeze(variables)


def train(model, variables, packed: bool, dropout: bool) -> dict:
  """Losses of `STEPS` steps, and the final parameters."""
  import flax
  import jax
  from flax.linen import partitioning
  optimizer_def = model.optimizer_def
  if hasattr(optimizer_def, "set_param_axes"):
    optimizer_def.set_param_axes(
        partitioning.get_axis_names(variables["params_axes"]))
  optimizer = optimizer_def.create(flax.core.freeze(variables["params"]))

  @jax.jit
  def step(optimizer, batch, i):
    key = jax.random.fold_in(jax.random.PRNGKey(3), i) if dropout else None
    grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
    (loss, metrics), grads = grad_fn(optimizer.target, batch, key)
    accuracy = metrics["accuracy"].compute()
    return optimizer.apply_gradient(grads, learning_rate=1e-2), loss, accuracy

  results = []
  for i in range(STEPS):
    optimizer, *values = step(optimizer, make_batch(i, packed), i)
    results.append(np.asarray(values))
  return {"losses": np.stack(results), "optimizer": optimizer}


def decode_all(model, params) -> dict[str, np.ndarray]:
  """Greedy, sampled and beam decodes with their scores."""
  import jax
  from t5x import decoding
  batch = make_batch(99)
  ways = {
      "greedy": (decoding.temperature_sample, 1, dict(
          temperature=0.0, rescale_log_probs=False)),
      "beam1": (decoding.beam_search, 1, {}),
      "beam4": (decoding.beam_search, 4, {}),
      "beam4_no_penalty": (decoding.beam_search, 4, dict(alpha=0.0)),
      "sample": (decoding.temperature_sample, 3, dict(
          topk=0, temperature=0.7)),
      "sample_topk": (decoding.temperature_sample, 3, dict(topk=5)),
      "sample_topp": (decoding.temperature_sample, 3, dict(
          topk=0, topp=0.8)),
  }
  results = {}
  for name, (decode_fn, num_decodes, arguments) in ways.items():
    model._decode_fn = decode_fn  # pylint: disable=protected-access

    def predict(params, batch, prompted):
      return model.predict_batch_with_aux(
          params, batch, num_decodes=num_decodes, return_all_decodes=True,
          decoder_params={**arguments, "decode_rng": jax.random.PRNGKey(5)},
          prompt_with_targets=prompted)

    for prompted in (False, True) if "beam4" == name else (False,):
      short = {k: v.copy() for k, v in batch.items()}
      if prompted:
        short["decoder_input_tokens"][:, 3:] = 0
      decodes, aux = jax.jit(predict, static_argnums=2)(
          params, short, prompted)
      suffix = "/prompted" if prompted else ""
      results[f"decodes/{name}{suffix}"] = np.asarray(decodes)
      results[f"scores/{name}{suffix}"] = np.asarray(aux["scores"])
  results["scores/targets"] = np.asarray(
      jax.jit(model.score_batch)(params, batch))
  return results


def probe() -> dict[str, np.ndarray]:
  """Everything, by name; the name's first part says how to compare it."""
  from t5x.examples.t5 import network
  results = {}
  for name, config in NETWORKS.items():
    for dropout in (0.0, 0.1):
      model = make_model(
          network, {**SIZES, **config, "dropout_rate": dropout},
          optimizer_def=make_optimizer("adafactor" if dropout else "adamw"))
      variables = initial_variables(model)
      if not dropout:
        results |= flat(variables["params"], f"params/{name}")
        results |= {
            f"axes/{name}/{k}": np.array(v.item().names)
            for k, v in flat(variables["params_axes"], "").items()}
      for packed in (False, True):
        run = f"{name}/dropout{dropout}/{'packed' if packed else 'unpacked'}"
        trained = train(model, variables, packed, bool(dropout))
        results[f"losses/{run}"] = trained["losses"]
        if not packed and not dropout:
          results |= {
              f"{kind}/{name}/{k}": v for kind, rest in (
                  ("state", trained["optimizer"].state_dict()["state"]),)
              for k, v in flat(rest, "").items()}
          results |= {
              f"{k.split('/')[0]}/{name}/{k.split('/', 1)[1]}": v
              for k, v in decode_all(
                  model, trained["optimizer"].target).items()}
  return results


if __name__ == "__main__":
  import stepdistill_jax  # pylint: disable=unused-import
  np.savez(sys.argv[1], **probe())
