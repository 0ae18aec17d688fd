"""Writes distillation records, as `records` says how they lie.

A data set is written beside its final place and renamed when it is whole, so
that a killed import leaves nothing that a later run would take for records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import json
import operator
import os
import pathlib
import shutil
from typing import Any, BinaryIO

import psutil

from stepdistill_jax.records import records, tfrecord_files
from stepdistill_jax.util import errors

# Shards of a split: few for a small one; enough for the hosts of a large one.
SMALL_SHARDS, LARGE_SHARDS = 16, 128
SMALL_ROWS = 16_384
_values_of = operator.attrgetter(*records.FIELDS)


class _Split:
  """The shards of one split, written round robin, so of like size.

  The first records are held, to see whether the split is small. Errors are
  the file system's, `OSError`.
  """

  def __init__(self, folder: pathlib.Path, stem: str):
    self._folder, self._stem = folder, stem
    self._held: list[bytes] = []
    self._files: list[BinaryIO] = []
    self._count = self._bytes = 0

  def write(self, payload: bytes) -> None:
    self._held.append(payload)
    if not self._files and len(self._held) <= SMALL_ROWS:
      return
    self._flush(LARGE_SHARDS)

  def _flush(self, shards: int) -> None:
    while len(self._files) < shards:
      self._files.append((self._folder / records.shard_name(
          self._stem, len(self._files), shards)).open("wb"))
    for payload in self._held:
      self._bytes += tfrecord_files.write_record(
          self._files[self._count % shards], payload)
      self._count += 1
    self._held.clear()

  def finish(self) -> dict[str, Any]:
    """Closes the shards; returns the split's entry of dataset_info.json."""
    if not self._files:
      self._flush(max(1, min(SMALL_SHARDS, len(self._held))))
    for file in self._files:
      file.close()
    shards = len(self._files)
    lengths = [len(range(i, self._count, shards)) for i in range(shards)]
    # Protocol buffers' JSON has 64-bit integers as strings.
    return {"shardLengths": list(map(str, lengths)),
            "numBytes": str(self._bytes)}

  def abandon(self) -> None:
    """Closes the shards, whatever becomes of their contents."""
    for file in self._files:
      try:
        file.close()
      except OSError:  # The disk is full: what closing would still write.
        pass


class RecordsWriter:
  """Writes one data set of records; a context manager.

  Leaving the block without an error puts the whole data set in its place,
  instead of an older one; an error, or the process's end, leaves the older
  one as it was.

  Memory is bounded: a split's first 16,384 records are held, to see whether
  it is small; from then on records go to the shards as they come.
  """

  def __init__(
      self, records_dir: records.StrPath, dataset: str, teacher: str):
    self._dataset = records.check_name("data set", dataset)
    self._teacher = records.check_name("teacher", teacher)
    self.folder = records.version_dir(records_dir, dataset, teacher)
    self._temporary = self.folder.with_name(
        f".incomplete-{records.VERSION}-{os.getpid()}")
    self._splits: dict[str, _Split] = {}
    self._encode = tfrecord_files.Encoder(records.FIELDS)
    self.import_info: Mapping[str, Any] = {}

  def __enter__(self) -> RecordsWriter:
    try:
      self.folder.parent.mkdir(parents=True, exist_ok=True)
      _remove_leftovers(self.folder.parent)
      self._temporary.mkdir()
    except OSError as error:
      raise self._cannot_write(error) from error
    return self

  def write(self, record: records.Record) -> None:
    """Appends one record to its split."""
    writer = self._splits.get(record.split)
    if writer is None:
      if record.split not in records.SPLITS:
        raise errors.UserError(errors.unknown_name_message(
            "split", record.split, records.SPLITS))
      writer = self._splits[record.split] = _Split(
          self._temporary,
          f"{records.TFDS_PREFIX}{self._dataset}-{record.split}")
    try:
      writer.write(self._encode(_values_of(record)))
    except OSError as error:
      raise self._cannot_write(error) from error

  def __exit__(self, exception_type: Any, *unused: Any) -> None:
    if exception_type is not None:
      self._abandon()
      return
    try:
      self._finish()
    except OSError as error:
      self._abandon()
      raise self._cannot_write(error) from error
    except BaseException:
      self._abandon()
      raise

  def _finish(self) -> None:
    info = _dataset_info(
        self._dataset, self._teacher,
        {split: self._splits[split].finish()
         for split in records.SPLITS if split in self._splits})
    _write_json(self._temporary / "features.json", _features_info())
    _write_json(self._temporary / records.IMPORT_FILE, self.import_info)
    _write_json(self._temporary / "dataset_info.json", info)
    _put_in_place(self._temporary, self.folder)

  def _abandon(self) -> None:
    for writer in self._splits.values():
      writer.abandon()
    shutil.rmtree(self._temporary, ignore_errors=True)

  def _cannot_write(self, error: OSError) -> errors.UserError:
    return errors.UserError(
        f"cannot write records to {self.folder.parent}: {error.strerror}; "
        "choose another folder with --output=DIR")


def write_records(
    records_dir: records.StrPath, dataset: str, teacher: str,
    splits: Mapping[str, Iterable[records.Record]],
    import_info: Mapping[str, Any] | None = None) -> pathlib.Path:
  """Writes a whole data set of records; returns its folder.

  Args:
    records_dir: the folder of all records, `locations.records_dir()`.
    dataset: name of the data set, such as `svamp`.
    teacher: name of the teacher, such as `palm540b`.
    splits: records of each split; `dataset`, `teacher` and `split` of the
      records are set to these names.
    import_info: JSON values to keep beside them.
  """
  with RecordsWriter(records_dir, dataset, teacher) as writer:
    writer.import_info = import_info or {}
    for split, split_records in splits.items():
      for record in split_records:
        writer.write(dataclasses.replace(
            record, dataset=dataset, teacher=teacher, split=split))
  return writer.folder


def _features_info() -> dict[str, Any]:
  """The contents of TFDS's features.json: a dictionary of texts."""
  features = "tensorflow_datasets.core.features."
  return {
      "pythonClassName": features + "features_dict.FeaturesDict",
      "featuresDict": {"features": {
          name: {"pythonClassName": features + "text_feature.Text", "text": {}}
          for name in records.FIELDS}},
  }


def _dataset_info(
    dataset: str, teacher: str, splits: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
  """The contents of TFDS's dataset_info.json."""
  return {
      "name": f"{records.TFDS_PREFIX}{dataset}",
      "configName": teacher,
      "version": records.VERSION,
      "fileFormat": "tfrecord",
      "description": f"Distillation records of {dataset} by {teacher}.",
      "splits": [
          {"name": name, "filepathTemplate":
           "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", **split}
          for name, split in splits.items()],
  }


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _put_in_place(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Renames `temporary` to `folder`, in whose place an older one may be."""
  if folder.exists():
    # Between the two renames readers see no records; never half of them.
    older = folder.with_name(f".replaced-{records.VERSION}-{os.getpid()}")
    os.rename(folder, older)
    os.rename(temporary, folder)
    shutil.rmtree(older, ignore_errors=True)
  else:
    os.rename(temporary, folder)


def _remove_leftovers(folder: pathlib.Path) -> None:
  """Removes what killed imports left; one that still runs keeps its own."""
  for pattern in (".incomplete-*", ".replaced-*"):
    for leftover in folder.glob(pattern):
      process = leftover.name.rpartition("-")[2]
      if not (process.isdigit() and int(process) != os.getpid()
              and psutil.pid_exists(int(process))):
        shutil.rmtree(leftover, ignore_errors=True)
