"""Reading a checkpoint into a train state: which entries, from where, how.

A *source* lists a checkpoint's entries by name (`entries`) and loads those that
are asked for, as arrays with the sharding asked for (`load`); orbax and legacy
checkpoints are two sources. `restore` decides what to ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
from typing import Any

from etils import epath
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import orbax.checkpoint as ocp

from stepdistill_jax.embedded_t5x import state_utils
from stepdistill_jax.embedded_t5x.checkpointing import (
  legacy as legacy_checkpoints,
)
from stepdistill_jax.embedded_t5x.checkpointing.entries import Entry, Request
from stepdistill_jax.runs import checkpoint_manifest, checkpoint_paths
from stepdistill_jax.util import errors, locations


class OrbaxSource:
  """A checkpoint in T5X's current layout: `checkpoint_STEP/state/...`."""

  def __init__(self, path: epath.Path):
    inner = path / checkpoint_paths.STATE_ITEM
    self._folder, self._path = path, inner if inner.is_dir() else path
    self._checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    with _reason_given(self._folder):
      found = self._checkpointer.metadata(self._path).item_metadata
      if found is None:  # Orbax keeps why to itself.
        raise ValueError("orbax finds no metadata of arrays in it")
      self._tree = found.tree

  def entries(self) -> Mapping[str, Entry]:
    flat = traverse_util.flatten_dict(self._tree, sep="/")
    # Placeholders of empty subtrees have no shape.
    return {name: Entry(name, tuple(value.shape), value.dtype)
            for name, value in flat.items()
            if getattr(value, "shape", None) is not None}

  def load(self, requests):
    tree = traverse_util.unflatten_dict(dict.fromkeys(requests, 0), sep="/")
    restore_args = traverse_util.unflatten_dict(
        {name: ocp.ArrayRestoreArgs(sharding=r.sharding, dtype=r.dtype)
         for name, r in requests.items()}, sep="/")
    with _reason_given(self._folder):
      restored = self._checkpointer.restore(
          self._path, args=ocp.args.PyTreeRestore(
              item=tree, restore_args=restore_args, partial_restore=True))
    return traverse_util.flatten_dict(restored, sep="/")


@contextlib.contextmanager
def _reason_given(folder: epath.Path) -> Iterator[None]:
  """Makes a UserError of what orbax raises; of damage where that is proven."""
  try:
    yield
  except Exception as error:  # Orbax raises no other.
    with contextlib.suppress(OSError):  # Then nothing is proven.
      if checkpoint_manifest.has_manifest(folder) and (
          found := checkpoint_manifest.verify(folder)):
        raise errors.UserError(checkpoint_manifest.describe(
            os.fspath(folder), found)) from error
    raise checkpoint_paths.unreadable(
        f"the checkpoint {folder}", error) from error


def open_checkpoint(path):
  """Opens the checkpoint in a folder, whichever layout it has: a source."""
  path = epath.Path(locations.absolute(path))
  layout = checkpoint_paths.layout_of(path)
  if layout == checkpoint_paths.CURRENT:
    return OrbaxSource(path)
  if layout == checkpoint_paths.OLDER:
    return legacy_checkpoints.LegacySource(path)
  raise errors.UserError(
      f"{path} holds no checkpoint: {checkpoint_paths.NEITHER_LAYOUT}")


def transformed_entries(
    entries: Mapping[str, Entry], state_dict,
    transformation_fns: Sequence[Callable[..., Any]]) -> Mapping[str, Entry]:
  """Applies renames and the like; returns model name -> entry."""
  tree = traverse_util.unflatten_dict(dict(entries), sep="/")
  if "optimizer" in tree and "target" not in tree:
    tree = tree["optimizer"]
  for transform in transformation_fns:
    tree = transform(tree, state_dict)
  return state_utils.flatten_state_dict(tree)


def _check_shapes(path, wanted, found: Mapping[str, Entry]) -> None:
  """Raises UserError, naming parameters, where shapes differ."""
  wrong = [f"{name} is {tuple(found[name].shape)}, the model's {tuple(x.shape)}"
           for name, x in wanted.items()
           if name in found and tuple(found[name].shape) != tuple(x.shape)]
  if wrong:
    raise errors.UserError(
        f"the checkpoint {path} is of another model: {'; '.join(wrong[:3])}"
        f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")


def restore(
    path, train_state, partitioner, *, dtype=None,
    fallback_state: Mapping[str, Any] | None = None,
    state_transformation_fns: Sequence[Callable[..., Any]] = ()):
  """Restores a train state.

  Args:
    path: `MODEL_DIR/checkpoint_STEP`.
    train_state: the state's shapes (`jax.ShapeDtypeStruct` leaves).
    dtype: of the restored parameters (`target`); None keeps the saved one.
    fallback_state: a state dict whose entries fill what the checkpoint lacks.
    state_transformation_fns: `fn(checkpoint's dict, model's dict) -> dict`,
      applied to the checkpoint's entries.

  Returns:
    A train state of sharded arrays.

  Raises:
    errors.UserError: there is no checkpoint, or it is of another model.
  """
  source = open_checkpoint(path)
  state_dict = train_state.state_dict()
  flat = traverse_util.flatten_dict(
      state_dict, keep_empty_nodes=True, sep="/")
  empty = {k: v for k, v in flat.items() if v is None or v == {}
           or v is traverse_util.empty_node}
  wanted = {k: v for k, v in flat.items() if k not in empty}
  found = transformed_entries(
      source.entries(), state_dict, state_transformation_fns)
  missing = sorted(set(wanted) - set(found))
  if missing and fallback_state is None:
    raise errors.UserError(
        f"the checkpoint {path} lacks {len(missing)} of the model's "
        f"{len(wanted)} arrays, such as {missing[0]}; give "
        "RestoreCheckpointConfig an `assignment_map`, with "
        "`fallback_to_scratch` for what has no counterpart")
  _check_shapes(path, wanted, found)

  mesh_axes = traverse_util.flatten_dict(
      partitioner.get_mesh_axes(train_state).state_dict(),
      keep_empty_nodes=True, sep="/")

  def request(name: str) -> Request:
    spec = mesh_axes.get(name)
    sharding = NamedSharding(
        partitioner.mesh, spec if spec is not None else PartitionSpec())
    # Only parameters are cast: the step is an integer, and the optimizer's
    # state is float32 whatever the parameters are.
    cast = dtype is not None and name.startswith("target/")
    return Request(sharding, np.dtype(dtype) if cast else None)

  loaded = source.load({
      entry.name: request(name) for name, entry in found.items()
      if name in wanted})
  result = dict(empty)
  if missing:
    fallback = state_utils.flatten_state_dict(fallback_state)
    result.update({name: fallback[name] for name in missing})
  result.update({name: loaded[found[name].name]
                 for name in wanted if name in found})
  return train_state.restore_state(
      traverse_util.unflatten_dict(result, sep="/"))
