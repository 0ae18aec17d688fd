"""Distillation records as a SeqIO data source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import os

import seqio
import tensorflow as tf

from stepdistill_jax.data import vocabularies
from stepdistill_jax.records import records
from stepdistill_jax.util import errors, progress

# How TFDS interleaves the shards of a split.
_READ_BY_TFDS = {"cycle_length": 16, "block_length": 16}


class RecordsSource(seqio.DataSource):
  """The records of a data set by a teacher, read through TFDS.

  Nothing is looked for before the source is used, so that a task can be
  registered before its records are imported. The records' folder is that of
  `--records_dir`, else `locations.records_dir()`.
  """

  def __init__(self, dataset: str, teacher: str | None):
    """Constructor.

    Args:
      dataset: such as `svamp`.
      teacher: such as `palm540b`; None where only the rows and their human
        labels matter: then those of the first teacher of
        `records.teachers_of`. Where others have other rows, a line says so.
    """
    super().__init__(splits=records.SPLITS, caching_permitted=True)
    self.dataset = dataset
    self.teacher = teacher
    self._found: tuple[object, seqio.TfdsDataSource] | None = None

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  @property
  def splits(self) -> Sequence[str]:
    return tuple(self.split_sizes())

  def split_sizes(self) -> Mapping[str, int]:
    """Number of records of each split."""
    data_dir, teacher = self.resolve()
    return records.split_sizes(data_dir, self.dataset, teacher)

  def num_input_examples(self, split: str) -> int | None:
    return self.split_sizes().get(split)

  def list_shards(self, split: str) -> Sequence[str]:
    return list(self._tfds_source().list_shards(split))

  def get_dataset(
      self, split: str = "train", shuffle: bool = True,
      seed: int | None = None, shard_info: seqio.ShardInfo | None = None,
      **kwargs: object) -> tf.data.Dataset:
    sizes = self.split_sizes()
    if split not in sizes:
      raise errors.UserError(errors.missing_split_message(
          split, records.SPLITS, sizes, f"records of {self.dataset}"))
    if self.teacher is None:
      _say_other_rows(*self.resolve(), self.dataset, split)
    dataset = self._tfds_source().get_dataset(
        split=split, shuffle=shuffle, seed=seed, shard_info=shard_info)
    if shard_info is None or shard_info.num_shards == 1:
      # TFDS loses it.
      dataset = dataset.apply(
          tf.data.experimental.assert_cardinality(sizes[split]))
    return dataset

  def serialized(self, split: str) -> tf.data.Dataset:
    """A split's records as TFRecord files have them, in `get_dataset`'s order.

    To parse many at once takes a tenth of the time.
    """
    return tf.data.Dataset.from_tensor_slices(
        list(self.list_shards(split))).interleave(
            tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True, **_READ_BY_TFDS)

  def resolve(self) -> tuple[str, str]:
    """Returns (records folder, teacher) of the records that are read.

    Raises:
      errors.UserError: there are no such records.
    """
    data_dir = vocabularies.records_dir()
    if self.teacher is not None:
      records.require_records(data_dir, self.dataset, self.teacher)
      return data_dir, self.teacher
    teachers = records.teachers_of(data_dir, self.dataset)
    if not teachers:
      records.require_records(
          data_dir, self.dataset, records.PUBLISHED_TEACHER)
    return data_dir, teachers[0]

  def _tfds_source(self) -> seqio.TfdsDataSource:
    data_dir, teacher = self.resolve()
    folder = os.fspath(
        records.version_dir(data_dir, self.dataset, teacher))
    # Records that were imported anew in this process have other shards.
    key = folder, os.stat(f"{folder}/dataset_info.json").st_mtime_ns
    if self._found is None or self._found[0] != key:
      records.require_features(data_dir, self.dataset, teacher)
      loader = seqio.utils.LazyTfdsLoader
      loader._MEMOIZED_BUILDERS.pop((None, folder), None)
      # By its folder: for a name, TFDS imports all data sets that it knows.
      source = seqio.TfdsDataSource(read_only=True)
      source.tfds_dataset.override_data_dir(folder)
      self._found = key, source
    return self._found[1]


@functools.cache  # Said once.
def _say_other_rows(
    data_dir: str, teacher: str, dataset: str, split: str) -> None:
  if line := records.other_rows(data_dir, dataset, teacher, split):
    progress.say(f"note: {line}")
