"""Writing checkpoints that T5X restores, array by array.

Two layouts. `orbax` is what T5X writes today, without OCDBT, so that every
array is a folder of its own and an interrupted conversion can go on:

```
checkpoint_0/state/_METADATA                    names of the arrays
checkpoint_0/state/target.encoder.….kernel/     a zarr array
```

`legacy` is that of the public checkpoints; see `legacy_checkpoints`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts

from stepdistill_jax.interop import streaming
from stepdistill_jax.runs import (
  array_reader as t5x_reader,
  checkpoint_manifest,
  legacy_checkpoints,
)
from stepdistill_jax.util import durable_files, errors

LAYOUTS = ("orbax", "legacy")
# What T5X itself compresses with, by layout.
_COMPRESSORS = {"orbax": {"id": "zstd", "level": 1},
                "legacy": {"id": "gzip", "level": 1}}
_LEGACY_VERSION = 3
_NDARRAY_EXTENSION = 1


class CheckpointWriter:
  """Writes `DIR/checkpoint_STEP`, under another name until it is complete."""

  def __init__(self, directory: pathlib.Path, step: int,
               layout: str = "orbax"):
    """Initializes.

    Args:
      directory: that will hold `checkpoint_STEP`.
      step: of the train state.
      layout: one of LAYOUTS.

    Raises:
      errors.UserError: the checkpoint exists, or the folder cannot be made.
    """
    self.step = step
    self._layout = layout
    self.final = directory / f"checkpoint_{step}"
    self.partial = directory / f"partial_checkpoint_{step}"
    if self.final.exists():
      raise errors.UserError(
          f"{self.final} exists already; remove it, or give another --output "
          "or --step")
    streaming.make_folder(self._arrays_folder)
    self._arrays: dict[str, tuple[tuple[int, ...], np.dtype, list[int]]] = {}

  @property
  def _arrays_folder(self) -> pathlib.Path:
    return (self.partial / t5x_reader.STATE_ITEM if self._layout == "orbax"
            else self.partial)

  def journal(self, identity: Mapping[str, Any]) -> streaming.Journal:
    """Opens the journal of this checkpoint's conversion."""
    identity = {**identity, "step": self.step, "layout": self._layout}
    return streaming.Journal(
        self.partial / streaming.JOURNAL_FILE, identity)

  def declare(self, name: str, shape: Sequence[int], dtype: np.dtype,
              chunk: Sequence[int]) -> Callable[[], ts.TensorStore]:
    """Lists an array, and returns what creates it (anew) on the disk.

    Args:
      name: such as `target/encoder/encoder_norm/scale`.
      shape: the array's.
      dtype: the array's.
      chunk: the shape of what will be written at once.
    """
    shape, chunk = tuple(shape), [max(1, c) for c in chunk]
    self._arrays[name] = (shape, np.dtype(dtype), chunk)
    folder = self._arrays_folder / name.replace("/", ".")

    def create() -> ts.TensorStore:
      return ts.open({
          "driver": "zarr",
          "kvstore": legacy_checkpoints.kvstore_spec(folder),
          "metadata": {"compressor": _COMPRESSORS[self._layout],
                       "chunks": chunk},
      }, dtype=ts.dtype(dtype), shape=shape, create=True, delete_existing=True,
                     context=t5x_reader.CONTEXT).result()

    return create

  def finish(self) -> pathlib.Path:
    """Writes step and metadata, and gives the folder its final name."""
    if self._layout == "orbax":
      create = self.declare("state/step", (), np.dtype(np.int32), ())
      create().write(np.int32(self.step)).result()
      file = self._arrays_folder / t5x_reader.METADATA_FILE
      durable_files.write(file, json.dumps(self._orbax_metadata()).encode())
    else:
      file = self.partial / legacy_checkpoints.INDEX_FILE
      durable_files.write(file, self._legacy_index())
    (self.partial / streaming.JOURNAL_FILE).unlink(missing_ok=True)
    checkpoint_manifest.write(self.partial)
    os.replace(self.partial, self.final)
    durable_files.sync_folder(self.final.parent)
    return self.final

  def _orbax_metadata(self) -> dict[str, Any]:
    tree = {}
    for name, (shape, _, _) in sorted(self._arrays.items()):
      keys = tuple(name.split("/"))
      tree[str(keys)] = {
          "key_metadata": [{"key": k, "key_type": 2} for k in keys],
          "value_metadata": {"value_type": "jax.Array",
                             "skip_deserialize": False,
                             "write_shape": list(shape)}}
    return {"tree_metadata": tree, "use_ocdbt": False, "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None}

  def _legacy_index(self) -> bytes:
    tree: dict[str, Any] = {"version": _LEGACY_VERSION, "optimizer": {}}
    for name, (shape, dtype, chunk) in sorted(self._arrays.items()):
      *parents, leaf = name.split("/")
      node = tree["optimizer"]
      for key in parents:
        node = node.setdefault(key, {})
      node[leaf] = {
          "driver": "zarr", "dtype": dtype.name,
          "kvstore": {"driver": "file", "path": name.replace("/", ".") + "/"},
          "metadata": {"chunks": chunk, "shape": list(shape),
                       "compressor": _COMPRESSORS["legacy"]}}
    step = np.int32(self.step)
    # T5X's older layout keeps the step inline.
    tree["optimizer"].setdefault("state", {})["step"] = msgpack.ExtType(
        _NDARRAY_EXTENSION, msgpack.packb(((), step.dtype.name,
                                           step.tobytes())))
    return msgpack.packb(tree, strict_types=True)
