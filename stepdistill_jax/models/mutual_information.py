"""The term that ties the rationale's distribution to the label's.

Chen et al. 2024 (arXiv 2403.03348) add β·CE to the loss, in their code's form:
with P and R `[vocab]` the maxima over positions of a record's softmax for the
label and for the rationale,

  CE = −Σ_v P[v]·log softmax(R)[v]         no gradient through P

averaged over records. R, though probabilities, goes through a softmax as if it
were logits, and P is not normalized; that is what their numbers were made
with. One thing differs: they take the maxima over padding too, so that a
record's term depends on its batch. Here they are over a record's own tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LABEL_ID, RATIONALE_ID = 1, 2


def has_both(task_ids: jnp.ndarray) -> jnp.ndarray:
  """Which records have a label and a rationale.

  Args:
    task_ids: `[records, positions]` int32, all of a record's target tokens.

  Returns:
    `[records]` bool.
  """
  return (jnp.any(task_ids == LABEL_ID, axis=1)
          & jnp.any(task_ids == RATIONALE_ID, axis=1))


def _highest_probabilities(
    probabilities: jnp.ndarray, where: jnp.ndarray) -> jnp.ndarray:
  """`[records, positions, vocab]` -> `[records, vocab]`: max over positions."""
  return jnp.max(jnp.where(where[..., None], probabilities, 0.0), axis=1)


def record_losses(logits: jnp.ndarray, task_ids: jnp.ndarray) -> jnp.ndarray:
  """The term of each record, 0 where it lacks a label or a rationale.

  Args:
    logits: `[records, positions, vocab]` float, of all of a record's targets.
    task_ids: `[records, positions]` int32, 0 on padding.

  Returns:
    `[records]` float32, in nats.
  """
  probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  label = jax.lax.stop_gradient(
      _highest_probabilities(probabilities, task_ids == LABEL_ID))
  rationale = _highest_probabilities(probabilities, task_ids == RATIONALE_ID)
  cross_entropy = -jnp.sum(
      label * jax.nn.log_softmax(rationale, axis=-1), axis=-1)
  return jnp.where(has_both(task_ids), cross_entropy, 0.0)
