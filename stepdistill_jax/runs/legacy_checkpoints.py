"""Reading T5X's older checkpoints: a msgpack index beside zarr arrays.

```
checkpoint_1000000/
  checkpoint                                    msgpack: the nested state
  target.encoder.layers_0.mlp.wi_0.kernel/      a zarr array
    .zarray  0.0  0.1 ...
```

The index holds small values inline and describes each array by a TensorStore
spec with its folder's name. All public T5 checkpoints of T5X have this layout.
The index is data from somewhere: sizes are checked before anything is
allocated, nothing is unpickled, and no path in it leaves the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any

from etils import epath
import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from stepdistill_jax.util import errors

INDEX_FILE = "checkpoint"
# An index is a few MB: arrays are beside it. Some tiny models are all inline.
MAX_INDEX_BYTES = 2 * 2**30
MAX_DEPTH = 64

_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # flax's msgpack extension types.
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {name: np.dtype(name) for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "float16", "float32", "float64")}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class ZarrArray:
  """An array that is beside the index.

  Attributes:
    folder: its folder's name within the checkpoint's.
    shape: its shape.
    dtype: its dtype as stored, or bfloat16 where that was stored as uint16.
  """

  folder: str
  shape: tuple[int, ...]
  dtype: np.dtype


def kvstore_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
  """TensorStore's spec of a local or `gs://` folder."""
  path = os.fspath(path)
  if path.startswith("gs://"):
    bucket, _, inner = path.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket,
            "path": inner.rstrip("/") + "/"}
  return {"driver": "file", "path": os.path.abspath(path) + "/"}


def _array_of(data: bytes) -> np.ndarray:
  """Decodes (shape, dtype's name, bytes); raises ValueError if they differ."""
  shape, dtype_name, buffer = msgpack.unpackb(data, raw=True)
  dtype_name = dtype_name.decode("ascii")
  if dtype_name not in _DTYPES:
    raise ValueError(f"an array of unknown dtype {dtype_name!r}")
  dtype = _DTYPES[dtype_name]
  if any(not isinstance(n, int) or n < 0 for n in shape):
    raise ValueError(f"an array of shape {shape}")
  if math.prod(shape) * dtype.itemsize != len(buffer):
    raise ValueError(
        f"an array of shape {tuple(shape)} and dtype {dtype_name} with "
        f"{len(buffer)} bytes")
  return np.frombuffer(buffer, dtype).reshape(shape)


def _decode_extension(code: int, data: bytes):
  if code == _NDARRAY:
    return _array_of(data)
  if code == _SCALAR:
    return _array_of(data)[()]
  if code == _COMPLEX:
    return complex(*msgpack.unpackb(data))
  raise ValueError(f"an unknown msgpack extension type {code}")


def _from_spec(spec: Mapping[str, Any]) -> ZarrArray:
  """Reads what matters of a TensorStore spec, and only that."""
  while spec.get("driver") == "cast":
    spec = spec["base"]
  if spec.get("driver") != "zarr":
    raise ValueError(f"an array of TensorStore driver {spec.get('driver')!r}")
  metadata = spec["metadata"]
  # Only the last component counts: the rest says where it once was written.
  folder = pathlib.PurePosixPath(spec["kvstore"]["path"]).name
  if folder in ("", ".", ".."):
    raise ValueError(f"an array in {spec['kvstore']['path']!r}")
  name = spec.get("dtype")
  if name is None:
    stored = metadata["dtype"]
    name = stored if stored == "bfloat16" else np.dtype(stored).name
  # Checkpoints of T5X's second version kept bfloat16's bits as uint16.
  name = "bfloat16" if name == "uint16" else name
  return ZarrArray(folder, tuple(metadata["shape"]), _DTYPES[name])


def _flatten(tree: Any, prefix: str, flat: dict[str, Any], depth: int = 0):
  """Fills `flat` with name -> ZarrArray, array or scalar."""
  if depth > MAX_DEPTH:
    raise ValueError(f"a tree deeper than {MAX_DEPTH}")
  if not isinstance(tree, dict):
    if tree is not None:
      flat[prefix] = tree
    return
  if {"driver", "kvstore"} <= set(tree) or tree.get("driver") == "cast":
    flat[prefix] = _from_spec(tree)
  elif _CHUNKED in tree:
    # Flax splits arrays, as msgpack's items end at 4 GiB.
    shape, chunks = ([tree[name][str(i)] for i in range(len(tree[name]))]
                     for name in ("shape", "chunks"))
    flat[prefix] = np.concatenate(chunks).reshape(shape)
  else:
    for key, value in tree.items():
      _flatten(value, f"{prefix}/{key}" if prefix else str(key), flat,
               depth + 1)


def read_index(path) -> Mapping[str, Any]:
  """Reads a checkpoint's index, and no array that is beside it.

  Args:
    path: of the checkpoint's folder, or of its index.

  Returns:
    `target/…` and `state/…` names -> ZarrArray, or the value itself.

  Raises:
    errors.UserError: it is not such an index.
  """
  file = epath.Path(path)
  file = file / INDEX_FILE if file.is_dir() else file
  if not file.exists():
    raise errors.UserError(
        f"{path} is no checkpoint of T5X's older layout: there is no {file}")
  size = file.stat().length
  if size > MAX_INDEX_BYTES:
    raise errors.UserError(
        f"the checkpoint's index {file} has {size:,} bytes, more than the "
        f"{MAX_INDEX_BYTES:,} that are read; an index is a few MB")
  data = file.read_bytes()
  if data.startswith(b"model_checkpoint_path"):
    raise errors.UserError(
        f"{file} is of a TensorFlow checkpoint, not of T5X's; Hugging Face "
        "has the same weights: see `stepdistill checkpoint import-hf`")
  flat: dict[str, Any] = {}
  with errors.reported(
      (ValueError, KeyError, TypeError, AttributeError,
       msgpack.UnpackException), lambda error: (
           f"{file} is not an index of T5X's older layout: {error}; is it "
           "damaged or cut off?")):
    tree = msgpack.unpackb(
        data, ext_hook=_decode_extension, strict_map_key=False)
    if not isinstance(tree, dict):
      raise ValueError(f"a {type(tree).__name__} at its top")
    # Version 0 was the bare state; later ones wrap it with a version.
    _flatten(tree.get("optimizer", tree), "", flat)
  flat.pop("version", None)
  return flat


def open_array(path, array: ZarrArray, context=None,
               fill_missing: bool = True) -> ts.TensorStore:
  """Opens an array of the checkpoint whose folder is `path`.

  Args:
    path: the checkpoint's folder.
    array: which.
    context: TensorStore's.
    fill_missing: whether a chunk without a file is zeros, not an error.

  Raises:
    errors.UserError: it is missing, or not of the shape in the index.
  """
  base = kvstore_spec(path)
  with errors.reported(ValueError, lambda error: (
      f"the checkpoint {path} lacks the array {array.folder}, which its index "
      f"lists: {str(error).split(' [')[0]}")):
    opened = ts.open({
        "driver": "zarr",
        "kvstore": {**base, "path": base["path"] + array.folder + "/"},
        "fill_missing_data_reads": fill_missing},
        read=True, open=True, context=context).result()
  if tuple(opened.shape) != array.shape:
    raise errors.UserError(
        f"the array {array.folder} of {path} is of shape "
        f"{tuple(opened.shape)}; its index says {array.shape}")
  return opened


def as_stored_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Reinterprets uint16 as bfloat16 where the index says so."""
  if values.dtype == np.uint16 and dtype == _DTYPES["bfloat16"]:
    return values.view(dtype)
  return values
