"""Safetensors files, read and written a few rows at a time.

A file is: the header's length (8 bytes, little endian), the header (JSON:
name -> dtype, shape, [begin, end) in what follows), the tensors' bytes. The
library of that name reads and writes whole tensors, through torch for
bfloat16; conversion needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import math
import os
import pathlib
import struct

import ml_dtypes
import numpy as np

from stepdistill_jax.util import errors

MAX_HEADER_BYTES = 100_000_000  # The format's own limit.
DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Slot:
  """Where a tensor is in a file.

  Attributes:
    shape: the tensor's.
    dtype: the tensor's.
    offset: of its first byte in the file.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  offset: int

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  @property
  def row_bytes(self) -> int:
    """Bytes of one index of the first axis."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize


def _parse_header(header: bytes, size: int) -> dict[str, Slot]:
  """The slots of a file of `size` bytes; raises ValueError if it is cut off."""
  start = 8 + len(header)
  slots = {}
  for name, entry in json.loads(header).items():
    if name == "__metadata__":
      continue
    if entry["dtype"] not in DTYPES:
      raise ValueError(
          f"the tensor {name} is of dtype {entry['dtype']}, expected one of "
          f"{', '.join(DTYPES)}")
    begin, end = entry["data_offsets"]
    slot = Slot(tuple(entry["shape"]), DTYPES[entry["dtype"]], start + begin)
    if begin < 0 or end - begin != slot.nbytes:
      raise ValueError(
          f"the tensor {name} has {end - begin} bytes, expected {slot.nbytes} "
          f"for shape {slot.shape} of {entry['dtype']}")
    if start + end > size:
      raise ValueError(
          f"the file is cut off: the tensor {name} ends at byte "
          f"{start + end:,}, the file at {size:,}")
    slots[name] = slot
  return slots


def read_header(file: pathlib.Path) -> Mapping[str, Slot]:
  """Returns the tensors' names and places; reads no weights.

  Raises:
    errors.UserError: it is damaged, cut off, or no safetensors file.
  """
  size = file.stat().st_size
  with file.open("rb") as stream:
    first = stream.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
    if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
      pointer = first.startswith(b"version ")
      raise errors.UserError(
          f"{file} is no safetensors file"
          + ("; it is a git-lfs pointer: run `git lfs pull` in its folder"
             if pointer else f" ({size:,} bytes): is it damaged or cut off?"))
    header = stream.read(length)
  with errors.reported((ValueError, KeyError, TypeError, AttributeError),
                       lambda error: f"{file}: {error}"):
    return _parse_header(header, size)


def read_rows(
    file: pathlib.Path, slot: Slot, start: int, stop: int) -> np.ndarray:
  """Reads `tensor[start:stop]`, shape [stop - start, ...]."""
  rows = np.empty((stop - start, *slot.shape[1:]), slot.dtype)
  buffer = memoryview(rows.view(np.uint8).reshape(-1))
  with file.open("rb", buffering=0) as stream:
    stream.seek(slot.offset + start * slot.row_bytes)
    while buffer:  # One read gives 2 GiB at most.
      count = stream.readinto(buffer)
      if not count:
        raise errors.UserError(f"{file} ended early: did it change meanwhile?")
      buffer = buffer[count:]
    # Each byte is read once; kept pages would only push out others.
    if hasattr(os, "posix_fadvise"):
      os.posix_fadvise(stream.fileno(), slot.offset + start * slot.row_bytes,
                       (stop - start) * slot.row_bytes,
                       os.POSIX_FADV_DONTNEED)
  return rows


class Writer:
  """Writes a file whose tensors are known beforehand, in any order."""

  def __init__(
      self, file: pathlib.Path,
      tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
    """Lays the file out; keeps what an existing one of this layout holds.

    Args:
      file: to write.
      tensors: name -> (shape, dtype), in the order of the file.
    """
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, dtype) in tensors.items():
      end = position + math.prod(shape) * np.dtype(dtype).itemsize
      header[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape),
                      "data_offsets": [position, end]}
      position = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # Tensors start at multiples of 8.
    size = 8 + len(encoded) + position
    self.slots = _parse_header(encoded, size)
    prefix = struct.pack("<Q", len(encoded)) + encoded
    file.touch()
    self._stream = file.open("r+b", buffering=0)
    if self._stream.read(len(prefix)) != prefix:
      file.write_bytes(prefix)
    self._stream.truncate(size)

  def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
    """Writes `rows` as `tensor[start:start + len(rows)]`."""
    slot = self.slots[name]
    assert rows.dtype == slot.dtype and rows.shape[1:] == slot.shape[1:]
    data = memoryview(np.ascontiguousarray(rows).view(np.uint8).reshape(-1))
    self._stream.seek(slot.offset + start * slot.row_bytes)
    while data:
      data = data[self._stream.write(data):]

  def close(self) -> None:
    self._stream.close()
