"""The shards of one split of records: written round robin, read in order.

Encoding, checksums and files are a third of an import's work and nearly half
of an audit's. Of a large split they are left to a second process
(`shard_process`), where there is a second core; the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import pathlib
from typing import Any, BinaryIO

from stepdistill_jax.records import tfrecord_files


def file_name(stem: str, shard: int, shards: int) -> str:
  """A shard's name, as TFDS has it.

  >>> file_name("stepdistill_svamp-train", 3, 16)
  'stepdistill_svamp-train.tfrecord-00003-of-00016'
  """
  return f"{stem}.tfrecord-{shard:05d}-of-{shards:05d}"


class ShardFiles:
  """Open shards; round robin, so that they are of like size.

  Errors are the file system's, `OSError`.
  """

  def __init__(self, folder: str, stem: str, shards: int,
               names: Sequence[str]):
    """Creates the files.

    Args:
      folder: where to.
      stem: how their names begin, `stepdistill_svamp-train`.
      shards: number of files.
      names: of the features, in the order in which values are given.
    """
    self._names = tuple(names)
    self._files: list[BinaryIO] = []
    self._lengths = [0] * shards
    self._next = 0
    self._bytes = 0
    for shard in range(shards):
      path = pathlib.Path(folder) / file_name(stem, shard, shards)
      self._files.append(path.open("wb"))

  def write(self, values: Sequence[str]) -> None:
    """Appends a record, given as the values of its features."""
    payload = tfrecord_files.encode_example(dict(zip(self._names, values)))
    self._bytes += tfrecord_files.write_record(
        self._files[self._next], payload)
    self._lengths[self._next] += 1
    self._next = (self._next + 1) % len(self._files)

  def finish(self) -> dict[str, Any]:
    """Closes the shards; returns the split's entry of dataset_info.json."""
    for file in self._files:
      file.close()
    return {"shard_lengths": self._lengths, "num_bytes": self._bytes}

  def abandon(self) -> None:
    """Closes the shards, whatever becomes of their contents."""
    for file in self._files:
      try:
        file.close()
      except OSError:  # The disk is full: what closing would still write.
        pass


def read(paths: Iterable[str | pathlib.Path],
         decode: Callable[[bytes], Any] = tfrecord_files.decode_example
         ) -> Iterator[Any]:
  """Yields the decoded examples of shards.

  Raises:
    tfrecord_files.CorruptFileError: a shard is damaged or cannot be read.
  """
  for path in paths:
    try:
      with open(path, "rb") as file:
        yield from tfrecord_files.read_examples(file, str(path), decode)
    except OSError as error:
      raise tfrecord_files.CorruptFileError(
          f"{path} cannot be read ({error.strerror})") from error
