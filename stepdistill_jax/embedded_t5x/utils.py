"""T5X's name for many things: a face over the modules that define them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
import re
from typing import Any

from absl import app
from flax import traverse_util
import flax.core
from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as PartitionSpec
import seqio
import tensorflow as tf

from stepdistill_jax.data.train_iterator import *  # noqa: F403
from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x.checkpoint_config import *  # noqa: F403
from stepdistill_jax.embedded_t5x.checkpoints import (
  get_local_data as get_local_data,
)
from stepdistill_jax.embedded_t5x.datasets import *  # noqa: F403
from stepdistill_jax.embedded_t5x.inference import *  # noqa: F403
from stepdistill_jax.embedded_t5x.learning_rate import *  # noqa: F403
from stepdistill_jax.embedded_t5x.state_initializer import *  # noqa: F403
from stepdistill_jax.util import errors

TensorBoardLogger = seqio.TensorBoardLogger
Array = jax.Array | tf.Tensor | Any
PyTree = DType = Any
Shape = tuple[int, ...]
# What T5X's arguments of these names are called with.
InitFnCallable = Callable[..., Mapping[str, Any]]
InferStepCallable = InferStepWithRngCallable = Callable[..., PyTree]
InferStepWithoutRngCallable = Callable[..., PyTree]
EvaluatorConstructor = Callable[..., seqio.Evaluator]
GetDatasetCallable = Callable[..., Any]
GetEvalDatasetCallable = Callable[..., Mapping[str, tf.data.Dataset]]


def run_main(main: Callable[..., Any], flags_parser) -> None:
  """`absl.app.run`."""
  app.run(main, flags_parser=flags_parser)


def override_params_axes_names(
    model_variables, params_axes_names_override: Sequence[
        tuple[str, tuple[str, ...]]] = ()) -> flax.core.FrozenDict:
  """Gives parameters other axis names.

  Args:
    model_variables: with the collections `params` and `params_axes`.
    params_axes_names_override: (pattern of whole `a/b/c` names, axis names)
      pairs; the first that matches counts.

  Raises:
    ValueError: there are no `params_axes`, or names for another rank.
  """
  if "params_axes" not in model_variables:
    raise errors.InvalidValue(
        "the model's variables have no collection 'params_axes'")
  variables = flax.core.unfreeze(model_variables)
  axes = traverse_util.flatten_dict(variables["params_axes"])
  for path, param in traverse_util.flatten_dict(variables["params"]).items():
    name = "/".join(path)
    names = next((names for pattern, names in params_axes_names_override
                  if re.fullmatch(pattern, name)), None)
    if names is None:
      continue
    if len(names) != param.ndim:
      raise errors.InvalidValue(
          f"{name} has {param.ndim} axes, its new names are {names}")
    axes[(*path[:-1], f"{path[-1]}_axes")] = flax_partitioning.AxisMetadata(
        names=names)
  variables["params_axes"] = traverse_util.unflatten_dict(axes)
  return flax.core.freeze(variables)


def find_first_checkpoint_step(
    checkpoint_steps_index: int, checkpoint_steps: Sequence[int],
    first_step: int, host_step: int) -> int:
  """The index of the first of `checkpoint_steps` that is still to come.

  Args:
    checkpoint_steps_index: where to begin.
    first_step: of the run, which is not saved again.
    host_step: the current step.
  """
  last = len(checkpoint_steps or ()) - 1
  while checkpoint_steps_index < last and (
      checkpoint_steps[checkpoint_steps_index] < host_step
      or checkpoint_steps[checkpoint_steps_index] == first_step):
    checkpoint_steps_index += 1
  return checkpoint_steps_index


def find_next_checkpoint_step(
    checkpoint_steps_index: int, inner_num_steps: int,
    is_checkpoint_step: bool, host_step: int, checkpoint_steps: Sequence[int],
    epoch_end_step: int, checkpoint_period: int, first_step: int
) -> tuple[int, bool]:
  """Cuts a period of steps at a step that is to be saved besides.

  Args:
    checkpoint_steps_index: of the first of `checkpoint_steps` to look at.
    inner_num_steps: of the period.
    host_step: before the period.
    epoch_end_step: the last step.
    checkpoint_period: steps that are saved anyway, from `first_step` on.

  Returns:
    How many steps to take, and whether the step after them is to be saved.
  """
  for step in (checkpoint_steps or ())[checkpoint_steps_index:]:
    if step > host_step + inner_num_steps:
      break
    if max(first_step, host_step) < step <= epoch_end_step and (
        (step - first_step) % checkpoint_period):
      return step - host_step, True
  return inner_num_steps, is_checkpoint_step


def flatten_dict_string_keys(x):
  """Flattens a nested dict to `a/b/c` keys."""
  return traverse_util.flatten_dict(flax.core.unfreeze(x), sep="/")


def random_bits(
    use_hardware_rng: bool | None, random_seed: int | None,
    recorded: str | None = None) -> str:
  """JAX's name of the random bits of a run's steps.

  Args:
    use_hardware_rng: True for fast bits that depend on the sharding. None
      takes a device's own generator where there is one: an accelerator's
      time then does not go into threefry, whose bits are the same everywhere.
    random_seed: None takes fast bits, as in T5X.
    recorded: those that the run began with, for None.
  """
  if use_hardware_rng or random_seed is None:
    return "unsafe_rbg"
  default = str(jax.config.jax_default_prng_impl)
  if use_hardware_rng is None and "JAX_DEFAULT_PRNG_IMPL" not in os.environ:
    return recorded or ("rbg" if device_mesh.on_accelerators() else default)
  return default


def set_hardware_rng_ops() -> None:
  """Takes the fast random bits whose values depend on the sharding."""
  jax.config.update("jax_default_prng_impl", "unsafe_rbg")


# Of all hosts; alone, there is nothing to wait for, and nothing differs.
sync_global_devices = multihost_utils.sync_global_devices
multihost_assert_equal = multihost_utils.assert_equal
