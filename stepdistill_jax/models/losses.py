"""The losses of a student, as pure functions of logits and targets.

A batch may hold several tasks (a label and a rationale of the same records).
With n the target tokens of task k in the *global* batch, v_n their weights
and CE_n their cross entropies, the mean loss of a task and the loss are

  L_k = Σ_n v_n·CE_n / D_k      with D_k = Σ_n v_n,      L = Σ_k w_k·L_k

Sums are kept apart from their denominators D_k until the end: a microbatch
adds its share of the sum, the denominators are those of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenLoss(NamedTuple):
  """Losses of each target token, `[batch, length]` float32, in nats."""

  cross_entropy: jnp.ndarray
  z_loss: jnp.ndarray


def token_loss(
    logits: jnp.ndarray, targets: jnp.ndarray, *, label_smoothing: float = 0.0,
    z_loss: float = 0.0) -> TokenLoss:
  """Cross entropy of each token, and T5X's z-loss beside it.

  CE = log Z − logit[target],  z_loss = c·(log Z)²,  Z = Σ exp(logits).

  With `label_smoothing` s the target's share is 1−s and every other token's
  s/(vocab−1); the entropy of that distribution is subtracted, so that a
  perfect model has loss 0, as in T5X.

  Args:
    logits: `[batch, length, vocab]` float.
    targets: `[batch, length]` int32.
    label_smoothing: s.
    z_loss: c, 0 to leave it out.

  Returns:
    The two losses of each token; padding is not masked here.
  """
  logits = logits.astype(jnp.float32)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  vocab = logits.shape[-1]
  # A comparison instead of a gather: it fuses with the sum, its gradient is
  # no scatter, and it stays local where the vocabulary is sharded.
  is_target = jnp.arange(vocab) == targets[..., None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  cross_entropy = log_z - target_logit
  if label_smoothing:
    on, off = 1.0 - label_smoothing, label_smoothing / (vocab - 1)
    entropy = -(on * jnp.log(on) + (vocab - 1) * off * jnp.log(off + 1e-20))
    all_others = vocab * log_z - jnp.sum(logits, axis=-1) - cross_entropy
    cross_entropy = on * cross_entropy + off * all_others - entropy
  return TokenLoss(cross_entropy, z_loss * jnp.square(log_z))


def task_mask(task_ids: jnp.ndarray, num_tasks: int) -> jnp.ndarray:
  """`[batch, length]` ids, 1 for the first task -> `[batch, length, tasks]`."""
  return task_ids[..., None] == jnp.arange(1, num_tasks + 1)


def task_sums(
    values: jnp.ndarray, task_ids: jnp.ndarray, num_tasks: int) -> jnp.ndarray:
  """Sums of `[batch, length]` values by task, `[tasks]` float32.

  >>> import jax.numpy as jnp
  >>> task_sums(jnp.array([[3., 4., 5.]]), jnp.array([[2, 1, 2]]), 2).tolist()
  [4.0, 8.0]
  """
  mask = task_mask(task_ids, num_tasks)
  # Masked before it is multiplied: padding may hold anything but NaN's sum.
  return jnp.sum(jnp.where(mask, values[..., None], 0.0), axis=(0, 1))


def safe_divide(sums: jnp.ndarray, denominators: jnp.ndarray) -> jnp.ndarray:
  """Elementwise quotient, 0 where a task has no token, also in its gradient."""
  present = denominators > 0
  return jnp.where(present, sums / jnp.where(present, denominators, 1.0), 0.0)
