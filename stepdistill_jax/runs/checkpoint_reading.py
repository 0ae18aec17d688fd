"""Reading a checkpoint into a train state: which of its arrays, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import functools
import os
from typing import Any

from etils import epath
from flax import traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from stepdistill_jax.runs import (
  array_reader,
  checkpoint_manifest,
  checkpoint_paths,
  lazy_arrays,
)
from stepdistill_jax.util import errors, locations, progress


@contextlib.contextmanager
def reason_given(folder: epath.Path) -> Iterator[None]:
  """Makes a UserError of what reading raises; of damage where it is proven."""
  try:
    yield
  except Exception as error:
    with contextlib.suppress(OSError):  # Then nothing is proven.
      if checkpoint_manifest.has_manifest(folder) and (
          found := checkpoint_manifest.verify(folder)):
        raise errors.UserError(checkpoint_manifest.describe(
            os.fspath(folder), found)) from error
    raise checkpoint_paths.unreadable(
        f"the checkpoint {folder}", error) from error


def open_arrays(
    folder: epath.Path, state_dict,
    transformation_fns: Sequence[Callable[..., Any]]
) -> Mapping[str, array_reader.Array]:
  """A checkpoint's arrays by the model's names: renames are applied."""
  with reason_given(folder):
    arrays = array_reader.open_checkpoint(folder).arrays
  tree = traverse_util.unflatten_dict(dict(arrays), sep="/")
  if "optimizer" in tree and "target" not in tree:
    tree = tree["optimizer"]
  for transform in transformation_fns:
    tree = transform(tree, state_dict)
  return traverse_util.flatten_dict(tree, sep="/")


def as_lazy(array: array_reader.Array, dtype=None,
            sharding: jax.sharding.Sharding | None = None
            ) -> lazy_arrays.LazyArray:
  """An array that is read when its `get` is called.

  Args:
    dtype: to cast to; None keeps the saved one.
    sharding: None gives a numpy array, else a `jax.Array` of which each
      device's part is read by itself.
  """
  dtype = array.dtype if dtype is None else np.dtype(dtype)
  read = lambda index: np.asarray(array.read(index)).astype(dtype, copy=False)

  def get():
    if sharding is None:
      return read(...)
    once = functools.cache(  # Replicas have the same index.
        lambda index: read(tuple(slice(*part) for part in index)))
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: once(
            tuple((part.start, part.stop) for part in index)))

  return lazy_arrays.LazyThreadPoolArray(array.shape, dtype, get)


def read_all(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Reads lazy arrays, several at a time; leaves others as they are."""
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    return dict(zip(arrays, pool.map(lazy_arrays.fetch, arrays.values())))


def _check_shapes(path, wanted, found: Mapping[str, Any]) -> None:
  """Raises UserError, naming parameters, where shapes differ."""
  wrong = [f"{name} is {tuple(found[name].shape)}, the model's {tuple(x.shape)}"
           for name, x in wanted.items()
           if name in found and tuple(found[name].shape) != tuple(x.shape)]
  if wrong:
    raise errors.InvalidValue(
        f"the checkpoint {path} is of another model: {'; '.join(wrong[:3])}"
        f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")


def restore(
    path, train_state, partitioner, *, dtype=None,
    fallback_state: Mapping[str, Any] | None = None,
    state_transformation_fns: Sequence[Callable[..., Any]] = (),
    lazy_parameters: bool = False):
  """Restores a train state.

  Args:
    path: `MODEL_DIR/checkpoint_STEP`.
    train_state: the state's shapes (`jax.ShapeDtypeStruct` leaves).
    dtype: of the restored parameters (`target`); None keeps the saved one.
    fallback_state: a state dict whose entries fill what the checkpoint lacks.
    state_transformation_fns: `fn(checkpoint's dict, model's dict) -> dict`,
      applied to the checkpoint's arrays.
    lazy_parameters: leaves all but the step to be read by `LazyArray.get`.

  Returns:
    A train state of sharded arrays.

  Raises:
    errors.UserError: there is no checkpoint, or it is of another model.
  """
  folder = epath.Path(locations.absolute(path))
  checkpoint_paths.require(folder)
  state_dict = train_state.state_dict()
  flat = traverse_util.flatten_dict(
      state_dict, keep_empty_nodes=True, sep="/")
  empty = {k: v for k, v in flat.items()
           if v is None or v is traverse_util.empty_node}
  wanted = {k: v for k, v in flat.items() if k not in empty}
  found = open_arrays(folder, state_dict, state_transformation_fns)
  missing = sorted(set(wanted) - set(found))
  if missing and fallback_state is None:
    raise errors.InvalidValue(
        f"the checkpoint {path} lacks {len(missing)} of the model's "
        f"{len(wanted)} arrays, such as {missing[0]}; give "
        "RestoreCheckpointConfig an `assignment_map`, with "
        "`fallback_to_scratch` for what has no counterpart")
  _check_shapes(path, wanted, found)

  mesh_axes = traverse_util.flatten_dict(
      partitioner.get_mesh_axes(train_state).state_dict(),
      keep_empty_nodes=True, sep="/")

  def lazy(name: str) -> lazy_arrays.LazyArray:
    spec = mesh_axes.get(name)
    sharding = NamedSharding(
        partitioner.mesh, PartitionSpec() if spec is None else spec)
    if lazy_parameters and not partitioner.params_on_devices:
      sharding = None
    # Only parameters are cast: the step is an integer, and the optimizer's
    # state is float32 whatever the parameters are.
    return as_lazy(
        found[name], dtype if name.startswith("target/") else None,
        sharding)

  lazies = {name: lazy(name) for name in wanted if name in found}
  result = dict(empty)
  if missing:
    fallback = traverse_util.flatten_dict(fallback_state, sep="/")
    result.update({name: fallback[name] for name in missing})
  with reason_given(folder):
    if lazy_parameters:
      result.update(lazies)
      lazies = {k: v for k, v in lazies.items() if k == array_reader.STEP}
    result.update(read_all(lazies))
  return train_state.restore_state(
      traverse_util.unflatten_dict(result, sep="/"))


def cast_like(shapes, train_state, path: str | None):
  """Casts a train state to the dtypes that programs are compiled for.

  Args:
    shapes: the state with `jax.ShapeDtypeStruct` leaves.
    train_state: as it was restored or made.
    path: the checkpoint that it is from, to report a cast of its parameters.
  """
  cast = lambda x, shape: x if x.dtype == shape.dtype else x.astype(shape.dtype)
  before = {str(x.dtype) for x in jax.tree.leaves(train_state.params)}
  cast_state = jax.tree.map(cast, train_state, shapes)
  after = {str(x.dtype) for x in jax.tree.leaves(cast_state.params)}
  if before - after:
    progress.say(
        f"the parameters of {path} are {', '.join(sorted(before - after))}, "
        f"and are trained in {', '.join(sorted(after))}: they go on from what "
        f"was saved, rounded")
  return cast_state


def tell_whose_steps(path: str, train_state) -> None:
  """Reports which steps a run counts that begins from another's checkpoint.

  Args:
    path: of the checkpoint.
    train_state: as it was restored from that.
  """
  step = int(jax.device_get(train_state.step))
  saved = checkpoint_paths.step_of(os.path.basename(path.rstrip("/")))
  if step == 0 and saved:
    progress.say(
        f"begins from {path}: the {saved} steps of that do not count, neither "
        "in TRAIN_STEPS nor in schedules and periods")
  counts = [int(jax.device_get(x)) for key, x in (  # Optax's, of schedules.
      jax.tree_util.tree_leaves_with_path(train_state.param_states))
            if getattr(key[-1], "name", None) == "count"]
  if step and counts and max(counts) == 0:
    progress.say(
        f"warning: begins from {path} at step {step}, but the optimizer counts "
        "its steps, and follows its own schedule, from 0: learning_rate in "
        "the logs and schedules of weights are those of other steps; bind "
        "utils.RestoreCheckpointConfig.assignment_map = "
        "((r'state/.*', None),) to begin from 0 in all of them")
