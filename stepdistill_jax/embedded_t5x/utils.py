"""T5X's name for many things: a face over the modules that define them."""

from __future__ import annotations

import re
from typing import Sequence

import flax.core
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental import multihost_utils
import seqio

from stepdistill_jax.embedded_t5x.checkpoint_config import *  # noqa: F403
from stepdistill_jax.embedded_t5x.checkpoints import get_local_data  # noqa: F401
from stepdistill_jax.embedded_t5x.datasets import *  # noqa: F403
from stepdistill_jax.embedded_t5x.inference import *  # noqa: F403
from stepdistill_jax.embedded_t5x.learning_rate import *  # noqa: F403
from stepdistill_jax.embedded_t5x.state_initializer import *  # noqa: F403

TensorBoardLogger = seqio.TensorBoardLogger


def flatten_dict_string_keys(x):
  """Flattens a nested dict to `a/b/c` keys."""
  return traverse_util.flatten_dict(flax.core.unfreeze(x), sep="/")


def set_hardware_rng_ops() -> None:
  """Takes the fast random bits whose values depend on the sharding."""
  jax.config.update("jax_default_prng_impl", "unsafe_rbg")


def sync_global_devices(name: str) -> None:
  """Waits for all hosts."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def multihost_assert_equal(input_tree, fail_message: str = "") -> None:
  """Raises unless all hosts have the same values."""
  if jax.process_count() > 1:
    multihost_utils.assert_equal(input_tree, fail_message)


def override_params_axes_names(
    model_variables,
    params_axes_names_override: Sequence[tuple[str, tuple[str, ...]]] = ()):
  """Replaces axis names of parameters whose `a/b/c` name matches a pattern.

  Args:
    model_variables: with the collections `params` and `params_axes`.
    params_axes_names_override: (regex, axis names); the first that matches
      a parameter's whole name counts.

  Returns:
    The variables with other `params_axes`.
  """
  if "params_axes" not in model_variables:
    raise ValueError("The model's variables have no `params_axes`")
  variables = flax.core.unfreeze(model_variables)
  axes = traverse_util.flatten_dict(variables["params_axes"])
  for key, param in traverse_util.flatten_dict(variables["params"]).items():
    name = "/".join(key)
    override = next((names for pattern, names in params_axes_names_override
                     if re.fullmatch(pattern, name)), None)
    if override is None:
      continue
    if len(override) != param.ndim:
      raise ValueError(
          f"{name} has {param.ndim} axes, its override {override}")
    axes[*key[:-1], f"{key[-1]}_axes"] = flax_partitioning.AxisMetadata(
        names=tuple(override))
  variables["params_axes"] = traverse_util.unflatten_dict(axes)
  return flax.core.freeze(variables)
