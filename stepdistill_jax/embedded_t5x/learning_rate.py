"""Learning-rate schedules as a product of named factors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from stepdistill_jax.util import errors

LearningRateCallable = Callable[[jax.Array], jax.Array]


def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5, warmup_steps: int = 1000,
    decay_factor: float = 0.5, steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000, step_offset: int = 0,
    min_learning_rate: float = 1e-8) -> LearningRateCallable:
  """Makes `learning_rate(step)`.

  With s = max(0, step - step_offset), w = warmup_steps, b =
  base_learning_rate, d = decay_factor, the factors are

  | name | factor |
  |---|---|
  | `constant` | b |
  | `linear_warmup` | min(1, s / w) |
  | `linear_decay` | b min(s / w, 1 + d (w - s)); stands for the two above |
  | `rsqrt_decay` | 1 / sqrt(max(s, w)) |
  | `rsqrt_normalized_decay` | sqrt(w / max(s, w)) |
  | `decay_every` | d ** (s // steps_per_decay) |
  | `cosine_decay` | (1 + cos(pi ((s - w)+ / steps_per_cycle mod 1))) / 2 |

  Returns:
    A function from an int32 scalar to a float32 scalar.
  """
  b, w, d = base_learning_rate, warmup_steps, decay_factor
  # No warm-up is over at step 0; 0 / 0 would not be a number.
  warmed = lambda s: s / w if w else jnp.inf
  table = {
      "constant": lambda s: b,
      "linear_warmup": lambda s: jnp.minimum(1.0, warmed(s)),
      "linear_decay": lambda s: b * jnp.minimum(
          warmed(s), 1.0 + d * (w - s)),
      "rsqrt_decay": lambda s: 1.0 / jnp.sqrt(jnp.maximum(s, w)),
      "rsqrt_normalized_decay":
          lambda s: jnp.sqrt(w) / jnp.sqrt(jnp.maximum(s, w)),
      "decay_every": lambda s: d ** (s // steps_per_decay),
      "cosine_decay": lambda s: jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(
          jnp.pi * (jnp.maximum(0.0, (s - w) / float(steps_per_cycle)) % 1.0))
      )),
  }
  names = [name.strip() for name in factors.split("*")]
  for name in names:
    errors.require_known("learning-rate factor", name, table)

  def learning_rate(step: jax.Array) -> jax.Array:
    step = jnp.maximum(0, step - step_offset)
    product = 1.0
    for name in names:
      product = product * table[name](step)
    return jnp.asarray(jnp.maximum(product, min_learning_rate), jnp.float32)

  return learning_rate
