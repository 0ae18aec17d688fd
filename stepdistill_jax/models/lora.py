"""Low-rank adapters of a decoder's matrices: LoRA, arXiv 2106.09685.

  y = x·W + (alpha / rank)·(x·A)·B,   A [in, rank], B [rank, out]

W and all other parameters stay as they are; B begins at 0, so that a run
begins with the model that it adapts. `export-hf` merges them into W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

ADAPTERS = ("lora_a", "lora_b")


def is_adapter(path: Sequence[Any]) -> bool:
  """Whether a key path of JAX's ends in an adapter's name."""
  return getattr(path[-1], "key", path[-1]) in ADAPTERS


def freeze_the_rest(params: Any) -> Any:
  """Parameters whose gradients are 0 but for the adapters'."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x if is_adapter(path) else jax.lax.stop_gradient(x),
      params)


def train_adapters(
    transformations: Sequence[optax.GradientTransformation]
) -> optax.GradientTransformation:
  """For gin: a chain of optimizers that has a state for adapters alone.

  Args:
    transformations: such as `[@optax.clip_by_global_norm(), @optax.adamw()]`.
  """
  def labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "adapter" if is_adapter(path) else "rest", params)

  return optax.multi_transform(
      {"adapter": optax.chain(*transformations),
       "rest": optax.set_to_zero()}, labels)
