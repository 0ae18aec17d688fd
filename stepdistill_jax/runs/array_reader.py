"""T5X's checkpoints as files: what is in them, read slice by slice.

No jax, no devices, nothing read but what is asked for. `checkpoint_reading`
restores train states with it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
import dataclasses
import json
import math
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from stepdistill_jax.runs import (
  checkpoint_manifest,
  checkpoint_paths,
  legacy_checkpoints,
)
from stepdistill_jax.util import errors, locations, remote_storage

STATE_ITEM = checkpoint_paths.STATE_ITEM
STEP = "state/step"
# uint8 array, JSON: where the parameters are that were not saved; see `based`.
BASE = "base_checkpoint"
METADATA_FILE = "_METADATA"
OCDBT_MANIFEST = "manifest.ocdbt"
_PLACEHOLDER = "PLACEHOLDER://"
# TensorStore's codes of errors that do not concern what is in a file.
_NOT_OF_THE_CONTENTS = ("PERMISSION_DENIED", "UNAVAILABLE", "UNAUTHENTICATED",
                        "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
# Conversions go through arrays once: caches would only hold memory.
CONTEXT = ts.Context({
    "cache_pool": {"total_bytes_limit": 0},
    "data_copy_concurrency": {"limit": 2},
    "file_io_concurrency": {"limit": 4},
    # `streaming.Journal` waits for the disk, for many arrays at once.
    "file_io_sync": False,
})


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a checkpoint.

  Attributes:
    name: such as `target/encoder/encoder_norm/scale`.
    shape: its shape.
    dtype: its dtype.
    chunk: the shape in which it is stored; what to read at once.
    read: (index) -> that part of it.
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  chunk: tuple[int, ...]
  read: Callable[[Any], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint.

  Attributes:
    path: of its folder.
    layout: `orbax` (with `ocdbt`, or a folder an array) or `legacy`.
    arrays: by name: `target/…` (parameters) and `state/…`.
  """

  path: str
  layout: str
  arrays: Mapping[str, Array]

  @property
  def step(self) -> int | None:
    array = self.arrays.get(STEP)
    return None if array is None else int(array.read(...))

  @property
  def parameters(self) -> Mapping[str, Array]:
    """The arrays below `target/`, without that prefix."""
    return {name.removeprefix("target/"): array
            for name, array in self.arrays.items()
            if name.startswith("target/")}


def resolve(path: str | os.PathLike[str]) -> str:
  """Returns the checkpoint's folder: `path`, or the latest below it.

  Raises:
    errors.UserError: there is none.
  """
  folder = epath.Path(locations.absolute(path))
  if folder.is_file():  # The index of an older one.
    folder = folder.parent
  if folder.name == STATE_ITEM and (folder / METADATA_FILE).exists():
    folder = folder.parent
  steps = checkpoint_paths.all_steps(os.fspath(folder))
  if steps and not checkpoint_paths.layout_of(folder):
    return checkpoint_paths.get_checkpoint_dir(os.fspath(folder), steps[-1])
  checkpoint_paths.require(folder)
  return os.fspath(folder)


def _of_store(name: str, store: ts.TensorStore, dtype=None) -> Array:
  dtype = store.dtype.numpy_dtype if dtype is None else dtype

  def read(index) -> np.ndarray:
    try:
      values = store[index].read().result()
    except ValueError as error:
      raise checkpoint_paths.unreadable(f"the array {name}", error) from error
    return legacy_checkpoints.as_stored_dtype(np.asarray(values), dtype)

  return Array(name, tuple(store.shape), dtype,
               tuple(store.chunk_layout.read_chunk.shape or store.shape), read)


def _of_value(name: str, value: Any) -> Array:
  value = np.asarray(value)
  return Array(name, value.shape, value.dtype, value.shape,
               lambda index: value[index])


def _open_all(specs: Mapping[str, dict[str, Any]], path) -> dict[str, Array]:
  """Opens many arrays at once; each open reads a small file."""
  futures = {name: ts.open(spec, read=True, open=True, context=CONTEXT)
             for name, spec in specs.items()}
  arrays = {}
  for name, future in futures.items():
    try:
      arrays[name] = _of_store(name, future.result())
    except ValueError as error:
      why = str(error).split(" [")[0]
      if why.startswith(_NOT_OF_THE_CONTENTS) or (
          remote_storage.is_unreachable(error)):
        raise checkpoint_paths.unreadable(
            f"the array {name} of {path}", error) from error
      raise errors.UserError(
          f"the array {name} of {path}, which its metadata list, cannot be "
          f"opened: {why}") from error
  return arrays


def _orbax_names(
    state: epath.Path) -> tuple[Mapping[str, str], Mapping[str, Any]]:
  """Reads orbax's metadata: `a/b/c` name -> name of the stored array; and all.
  """
  file = state / METADATA_FILE
  with errors.reported(
      (ValueError, KeyError, TypeError, AttributeError), lambda error: (
          f"{file} is not orbax's metadata: {error!r}; is it damaged?")):
    metadata, names = json.loads(file.read_text()), {}
    for entry in metadata["tree_metadata"].values():
      # Empty subtrees and None are listed, but have no array.
      if entry["value_metadata"]["value_type"] in ("None", "Dict", "List"):
        continue
      keys = [str(key["key"]) for key in entry["key_metadata"]]
      names["/".join(keys)] = ".".join(keys)
  return names, metadata


def _open_orbax(
    state: epath.Path, path: str, wanted: Container[str] | None
) -> Checkpoint:
  options: Mapping[str, Any] = {}
  values: dict[str, Any] = {}
  if (state / METADATA_FILE).exists():
    names, options = _orbax_names(state)
  else:  # Orbax before 2023: an index like T5X's older one, with names.
    if not (state / legacy_checkpoints.INDEX_FILE).exists():
      raise errors.UserError(
          f"{path} is incomplete: {state} has neither {METADATA_FILE} nor "
          f"{legacy_checkpoints.INDEX_FILE}")
    index = legacy_checkpoints.read_index(state)
    names = {name: value.removeprefix(_PLACEHOLDER)
             for name, value in index.items()
             if isinstance(value, str) and value.startswith(_PLACEHOLDER)}
    values = {n: v for n, v in index.items() if n not in names}
  base = legacy_checkpoints.kvstore_spec(os.fspath(state))
  ocdbt = (state / OCDBT_MANIFEST).exists()
  driver = "zarr3" if options.get("use_zarr3") else "zarr"

  def spec(stored: str) -> dict[str, Any]:
    if ".." in stored or stored.startswith("/"):
      raise errors.UserError(f"{path} lists an array at {stored!r}")
    kvstore = ({"driver": "ocdbt", "base": base, "path": stored + "/"} if ocdbt
               else {**base, "path": base["path"] + stored + "/"})
    return {"driver": driver, "kvstore": kvstore,
            # Only where zeros are stored too is a missing file a loss.
            "fill_missing_data_reads": not options.get(
                "store_array_data_equal_to_fill_value", False)}

  arrays = _open_all({n: spec(s) for n, s in names.items()
                      if wanted is None or n in wanted}, path)
  arrays.update({n: _of_value(n, v) for n, v in values.items()})
  return Checkpoint(path, "orbax, ocdbt" if ocdbt else "orbax", arrays)


def _open_legacy(
    folder: epath.Path, wanted: Container[str] | None) -> Checkpoint:
  arrays = {}
  for name, value in legacy_checkpoints.read_index(folder).items():
    if wanted is not None and name not in wanted:
      continue
    if isinstance(value, legacy_checkpoints.ZarrArray):
      store = legacy_checkpoints.open_array(
          os.fspath(folder), value, CONTEXT,
          # Chunks of zeros were not stored; no T5's parameters have any.
          fill_missing=not name.startswith("target/"))
      arrays[name] = _of_store(name, store, value.dtype)
    else:
      arrays[name] = _of_value(name, value)
  return Checkpoint(os.fspath(folder), "legacy", arrays)


def open_checkpoint(
    path: str | os.PathLike[str], wanted: Container[str] | None = None
) -> Checkpoint:
  """Opens a checkpoint of any of T5X's layouts; reads no weights.

  Args:
    path: `MODEL_DIR/checkpoint_STEP`, or MODEL_DIR for its latest.
    wanted: the names of the arrays to open, where not all are needed.

  Raises:
    errors.UserError: there is none, or it is incomplete or unreadable.
  """
  path = resolve(path)
  opened = _open(path, wanted)
  if BASE not in opened.arrays:
    return opened
  arrays = dict(opened.arrays)
  said = json.loads(arrays.pop(BASE).read(...).tobytes())
  try:
    base = open_checkpoint(said["path"], wanted)
  except errors.UserError as error:
    raise errors.UserError(
        f"{path} holds adapters alone, and the checkpoint that they adapt "
        f"cannot be read: {error}; put it back there") from error
  if said["checksum"] != checkpoint_manifest.own_checksum(base.path):
    raise errors.UserError(
        f"{path} holds adapters of {base.path}, which is another checkpoint "
        "than they were trained on; put that one back there")
  return dataclasses.replace(opened, arrays={
      **{name: array for name, array in base.arrays.items()
         if name.startswith("target/")}, **arrays})


def based(path: str | os.PathLike[str]) -> np.ndarray:
  """The entry `BASE` of a checkpoint that lacks what another one has.

  `open_checkpoint` takes from there the parameters that it does not have.

  Args:
    path: of the other one, as `resolve` takes it.
  """
  path = resolve(path)
  said = {"path": path, "checksum": checkpoint_manifest.own_checksum(path)}
  return np.frombuffer(json.dumps(said).encode(), np.uint8)


def _open(path: str, wanted: Container[str] | None) -> Checkpoint:
  folder = epath.Path(path)
  try:
    if (folder / STATE_ITEM).is_dir():
      return _open_orbax(folder / STATE_ITEM, path, wanted)
    if (folder / METADATA_FILE).exists():
      return _open_orbax(folder, path, wanted)
    return _open_legacy(folder, wanted)
  except (FileNotFoundError, NotADirectoryError):
    raise
  except OSError as error:
    raise checkpoint_paths.unreadable(f"the checkpoint {path}", error
                                      ) from error
