"""Low-rank adapters of a decoder's matrices: LoRA, arXiv 2106.09685.

  y = x·W + (alpha / rank)·(x·A)·B,   A [in, rank], B [rank, out]

W and all other parameters stay as they are; B begins at 0, so that a run
begins with the model that it adapts. `export-hf` merges them into W. A run's
checkpoints hold adapters, and where the rest is; who reads one reads both.

The package qwix (0.1.8) has LoRA for flax.linen too. Its adapters get the axes
of kernels that are boxed (`nn.Partitioned`); those of T5X's networks stand in
the collection `params_axes`, where it writes nothing, so that the partitioner
would not know them. They also get the kernel's dtype: bfloat16, where that is
what is not trained has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stepdistill_jax.runs import array_reader

ADAPTERS = ("lora_a", "lora_b")


def is_adapter(path: Sequence[Any]) -> bool:
  """Whether a key path of JAX's ends in an adapter's name."""
  return getattr(path[-1], "key", path[-1]) in ADAPTERS


def freeze_the_rest(params: Any) -> Any:
  """Parameters whose gradients are 0 but for the adapters'."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x if is_adapter(path) else jax.lax.stop_gradient(x),
      params)


def cast_the_rest(params: Any, dtype: Any) -> Any:
  """Parameters in another dtype, but for the adapters."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x if is_adapter(path) else jnp.asarray(x, dtype), params)


def _adapters_of(tree: Mapping[str, Any]) -> dict[str, Any]:
  kept = {name: _adapters_of(x) if isinstance(x, Mapping) else x
          for name, x in tree.items()}
  return {name: x for name, x in kept.items()
          if name in ADAPTERS or isinstance(x, dict) and x}


def save_adapters(
    base: str | None
) -> Callable[[Mapping[str, Any], Any], tuple[Mapping[str, Any], Any]]:
  """For gin: makes checkpoints of adapters, of `SaveCheckpointConfig`.

  Args:
    base: the checkpoint that the run began from, from which its parameters
      are read again; without one, all are saved.
  """
  if not base:
    return lambda state_dict, names: (state_dict, names)
  # Now, so that a run ends at its beginning where there is none.
  entry = array_reader.based(base)

  def transform(
      state_dict: Mapping[str, Any], names: Any
  ) -> tuple[Mapping[str, Any], Any]:
    return {**state_dict, "target": _adapters_of(state_dict["target"]),
            array_reader.BASE: entry}, names

  return transform


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
