"""T5X's name for many things: a face over the modules that define them."""

from __future__ import annotations

from flax import traverse_util
import flax.core
import jax
from jax.experimental import multihost_utils
import seqio

from stepdistill_jax.embedded_t5x.checkpoint_config import *  # noqa: F403
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
