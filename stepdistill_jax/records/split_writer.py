"""Writes the records of one split into its shards."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from stepdistill_jax.records import shard_process
from stepdistill_jax.records.shards import ShardFiles

# Shards of a split: few for a small one; enough for the hosts of a large one.
SMALL_SHARDS, LARGE_SHARDS = 16, 128
# Also from where on a second process pays.
SMALL_ROWS = 16_384
_Shards = shard_process.Writer | ShardFiles


class SplitWriter:
  """Holds a split's first records, to see whether it is small."""

  def __init__(self, folder: pathlib.Path, stem: str, names: Sequence[str]):
    self._arguments = str(folder), stem
    self._names = tuple(names)
    self._held: list[Sequence[str]] = []
    self._shards: _Shards | None = None

  def write(self, values: Sequence[str]) -> None:
    if self._shards is not None:
      self._shards.write(values)
      return
    self._held.append(values)
    if len(self._held) > SMALL_ROWS:
      arguments = (*self._arguments, LARGE_SHARDS, self._names)
      self._open(shard_process.writer(*arguments) or ShardFiles(*arguments))

  def finish(self) -> dict[str, Any]:
    """Closes the shards; returns the split's entry of dataset_info.json."""
    count = max(1, min(SMALL_SHARDS, len(self._held)))
    return (self._shards or self._open(ShardFiles(
        *self._arguments, count, self._names))).finish()

  def abandon(self) -> None:
    if self._shards is not None:
      self._shards.abandon()

  def _open(self, shards: _Shards) -> _Shards:
    self._shards = shards
    for values in self._held:
      shards.write(values)
    self._held = []
    return shards
