"""The loss by its plain formula, to hold every other way of computing it to.

Two padded batches, two forward passes, two means, one weighted sum: as the
equation reads, with no pairs' axis, packing, microbatches or task ids. Slow
and used by tests and benchmarks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepdistill_jax.models.llama import network as llama_network


class PlainResult(NamedTuple):
  loss: float
  task_losses: Mapping[str, float]
  gradient: Mapping


def _padded(sequences: Sequence[np.ndarray]) -> np.ndarray:
  width = max(len(s) for s in sequences)
  return np.stack([np.pad(s, (0, width - len(s))) for s in sequences])


def _mean_cross_entropy(module, params, examples, prefix):
  """Mean over all target tokens of one task, one unpacked batch."""
  inputs = _padded([e[prefix + "inputs"] for e in examples])
  targets = _padded([e[prefix + "targets"] for e in examples])
  logits = (_continued if isinstance(module, llama_network.Transformer)
            else _translated)(module, params, inputs, targets)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  real = targets != 0
  weights = np.stack([
      np.full(targets.shape[1], e.get("record_weights", [1.0])[0])
      for e in examples]) * real
  return jnp.sum(losses * weights) / max(np.sum(weights), 1e-9)


def _translated(module, params, inputs, targets):
  decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  return module.apply(
      {"params": params}, inputs, decoder_inputs, targets,
      enable_dropout=False)


def _continued(module, params, inputs, targets):
  """Logits of targets that follow their inputs, one sequence a row."""
  sequences = _padded([
      np.concatenate([a[a > 0], b[b > 0]]) for a, b in zip(inputs, targets)])
  logits = module.apply({"params": params}, sequences, sequences)
  first = np.sum(inputs > 0, axis=1) - 1
  at = np.minimum(first[:, None] + np.arange(targets.shape[1]),
                  sequences.shape[1] - 1)
  return jnp.take_along_axis(logits, at[..., None], axis=1)


def plain_loss(
    module, params, examples: Sequence[Mapping[str, np.ndarray]],
    weights: Mapping[str, float],
    prefixes: Sequence[str] = ("", "rationale_")) -> PlainResult:
  """L = Σ_k w_k·mean(CE of task k) with its gradient.

  Args:
    module: the network.
    params: its parameters.
    examples: paired examples, as a task yields them, not padded.
    weights: w_k by the tasks' names, in the order of `prefixes`.
    prefixes: of the features of each task's inputs and targets.

  Returns:
    The loss, each task's mean and the gradient of the loss.
  """

  def loss_fn(params):
    means = [_mean_cross_entropy(module, params, examples, prefix)
             for prefix in prefixes]
    return sum(w * m for w, m in zip(weights.values(), means)), means

  (loss, means), gradient = jax.jit(
      jax.value_and_grad(loss_fn, has_aux=True))(params)
  return PlainResult(
      float(loss), {n: float(m) for n, m in zip(weights, means)}, gradient)


def relative_difference(tree, reference) -> float:
  """‖a − b‖ / ‖b‖ over two trees of arrays, in float64."""
  flat = lambda t: np.concatenate([
      np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(t)])
  a, b = flat(tree), flat(reference)
  return float(np.linalg.norm(a - b) / np.linalg.norm(b))
