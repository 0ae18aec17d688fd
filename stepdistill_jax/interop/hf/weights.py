"""The weights in a Hugging Face folder, sharded or not, safetensors or torch.

Nothing is read but headers until `read_rows` asks for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import math
import pathlib
import zipfile

import numpy as np

from stepdistill_jax.interop import import_result
from stepdistill_jax.interop.hf import safetensors_files
from stepdistill_jax.util import errors, runtime

# In order of preference: (a file, the index of its shards).
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor that can be read.

  Attributes:
    shape: its shape.
    dtype: its dtype.
    file: that it is in.
    read_rows: (start, stop) -> `tensor[start:stop]`.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  file: pathlib.Path
  read_rows: Callable[[int, int], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def _shards(folder: pathlib.Path, index: str) -> dict[str, list[str]]:
  """Reads an index: file's name -> names of its tensors."""
  path = folder / index
  with errors.reported(
      (ValueError, KeyError, AttributeError, TypeError),
      lambda error: f"{path} is no index of shards: {error!r}"):
    weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    pairs = [(str(tensor), str(file)) for tensor, file in weight_map.items()]
  shards: dict[str, list[str]] = {}
  for tensor, file in pairs:
    if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
      raise errors.UserError(
          f"{path} lists the shard {file!r}, which is not in its folder")
    shards.setdefault(file, []).append(tensor)
  for file in shards:
    if not (folder / file).is_file():
      raise errors.UserError(
          f"{folder} lacks the shard {file}, which {index} lists for "
          f"{len(shards[file])} tensors, such as {shards[file][0]}; "
          "download it again")
  return shards


def _read_safetensors(file: pathlib.Path) -> dict[str, Tensor]:
  return {name: Tensor(slot.shape, slot.dtype, file, functools.partial(
      safetensors_files.read_rows, file, slot))
          for name, slot in safetensors_files.read_header(file).items()}


def _read_torch(file: pathlib.Path) -> dict[str, Tensor]:
  """Opens a torch file, with torch's loader that only makes tensors."""
  runtime.load_triton()
  with errors.reported(
      ImportError, f"{file} is in torch's format, for which torch is needed: "
      "pip install 'stepdistill_jax[hf]'; or take the checkpoint's safetensors "
      "files"):
    import torch
  with file.open("rb") as stream:
    if stream.read(1) in (b"", b"<", b"{", b"v"):  # HTML, JSON, git-lfs.
      raise errors.UserError(
          f"{file} is no torch file, is it damaged or cut off? Download it "
          "again")
  try:
    # Files from before torch 1.6 are not zip files and cannot be mapped.
    state = torch.load(file, map_location="cpu", weights_only=True,
                       mmap=zipfile.is_zipfile(file))
  except Exception as error:  # Torch lets many kinds through.
    if type(error).__name__ == "UnpicklingError":
      raise errors.UserError(
          f"{file} holds more than tensors, and loading that could run any "
          "program, so it is refused; take the checkpoint's safetensors "
          "files") from error
    raise errors.UserError(
        f"{file} cannot be loaded, is it damaged or cut off? "
        f"{str(error).splitlines()[0] if str(error) else error!r}") from error
  if not isinstance(state, dict) or not all(
      isinstance(value, torch.Tensor) for value in state.values()):
    raise errors.UserError(f"{file} is no mapping of names to tensors")

  def tensor(name: str, value) -> Tensor:
    dtype_name = str(value.dtype).removeprefix("torch.")
    try:
      dtype = np.dtype(dtype_name)  # ml_dtypes has registered bfloat16.
    except TypeError as error:
      raise errors.UserError(
          f"{file}: the tensor {name} is of dtype {dtype_name}, expected "
          "float32, bfloat16 or float16") from error

    def read_rows(start: int, stop: int) -> np.ndarray:
      rows = value[start:stop].contiguous()
      # numpy's bridge has no bfloat16: take the bits.
      return rows.view(torch.uint8).numpy().view(dtype).reshape(rows.shape)

    return Tensor(tuple(value.shape), dtype, file, read_rows)

  return {name: tensor(name, value) for name, value in state.items()}


def open_folder(folder: pathlib.Path) -> Mapping[str, Tensor]:
  """Lists the tensors of a folder.

  Raises:
    errors.UserError: there are no weights, or a file is missing or damaged.
  """
  for (single, index), read in ((_SAFETENSORS, _read_safetensors),
                                (_TORCH, _read_torch)):
    if (folder / index).is_file():
      shards = _shards(folder, index)
    elif (folder / single).is_file():
      shards = {single: []}
    else:
      continue
    tensors: dict[str, Tensor] = {}
    for file, names in shards.items():
      found = read(folder / file)
      for name in names:
        if name not in found:
          raise errors.UserError(
              f"the shard {folder / file} lacks the tensor {name}, which "
              f"{index} lists")
      tensors.update(found)
    return tensors
  present = sorted(p.name for p in folder.iterdir())
  others = [n for n in present if n.endswith((".h5", ".msgpack", ".onnx",
                                              ".gguf", ".ckpt"))]
  raise errors.UserError(
      f"{folder} has no weights: neither {_SAFETENSORS[0]} (or its index) nor "
      f"{_TORCH[0]}"
      + (f"; {', '.join(others)} is of a format that is not read" if others
         else ""))


def check_float(name: str, tensor: Tensor) -> None:
  """Raises UserError for a tensor of a quantized checkpoint."""
  if tensor.dtype.name not in import_result.DTYPES:
    raise errors.UserError(
        f"{tensor.file}: the tensor {name} is of dtype {tensor.dtype}, "
        "expected float32, bfloat16 or float16; is the checkpoint quantized?")
