"""Writes distillation records, as `records` says how they lie.

A data set is written beside its final place and renamed when it is whole, so
that a killed import leaves nothing that a later run would take for records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import json
import pathlib
from typing import Any, BinaryIO

from stepdistill_jax.records import records, tfrecord_files
from stepdistill_jax.util import errors, whole_folders

# Shards of a split: few for a small one; enough for the hosts of a large one.
SMALL_SHARDS, LARGE_SHARDS = 16, 128
SMALL_ROWS = 16_384


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
      with contextlib.suppress(OSError):  # The disk is full.
        file.close()


class RecordsWriter:
  """Writes one data set of records; a context manager.

  Leaving the block without an error puts the whole data set in its place,
  instead of an older one; an error, or the process's end, leaves the older
  one as it was.

  Memory is bounded: a split's first 16,384 records are held, to see whether
  it is small; from then on records go to the shards as they come.
  """

  def __init__(self, records_dir: records.StrPath, dataset: str, teacher: str):
    self._dataset = records.check_name("data set", dataset)
    self._teacher = records.check_name("teacher", teacher)
    self.folder = records.version_dir(records_dir, dataset, teacher)
    self._whole = contextlib.ExitStack()
    self._splits: dict[str, _Split] = {}
    self.import_info: Mapping[str, Any] = {}

  def __enter__(self) -> RecordsWriter:
    with errors.reported(OSError, self._cannot_write):
      self._temporary = self._whole.enter_context(
          whole_folders.written(self.folder))
    return self

  def write(self, record: records.Record) -> None:
    """Appends one record to its split."""
    writer = self._splits.get(record.split)
    if writer is None:
      errors.require_known("split", record.split, records.SPLITS)
      writer = self._splits[record.split] = _Split(
          self._temporary,
          f"{records.TFDS_PREFIX}{self._dataset}-{record.split}")
    with errors.reported(OSError, self._cannot_write):
      writer.write(tfrecord_files.encode_example(
          {name: getattr(record, name) for name in records.FIELDS}))

  def __exit__(self, unused_type: Any, exception: Any, *unused: Any) -> None:
    try:
      with self._whole:
        if exception is not None:
          raise exception
        self._finish()
    except OSError as error:
      if error is exception:
        raise
      raise errors.UserError(self._cannot_write(error)) from error
    finally:
      for writer in self._splits.values():
        writer.abandon()

  def _finish(self) -> None:
    info = _dataset_info(
        self._dataset, self._teacher,
        {split: self._splits[split].finish()
         for split in records.SPLITS if split in self._splits})
    for name, value in (("features.json", _features_info()),
                        (records.IMPORT_FILE, self.import_info),
                        ("dataset_info.json", info)):
      (self._temporary / name).write_text(
          json.dumps(value, indent=2) + "\n", encoding="utf-8")

  def _cannot_write(self, error: OSError) -> str:
    return (f"cannot write records to {self.folder.parent}: {error.strerror}; "
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
