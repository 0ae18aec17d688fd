"""Which records of the train split a task uses, as bound in gin:

    preprocessors.choose_train_share.share = 0.25   # nested and exact
    preprocessors.filter_train_records.only_correct = True

The choice is made by the records' ids, so it is the same for all tasks of a
data set, all hosts and all runs. Validation and test splits are always whole.
Nothing is read where neither is bound.
"""

from __future__ import annotations

import functools
import os

import gin
import numpy as np
import tensorflow as tf

from stepdistill_jax.data import hugging_face_vocabulary, sources, vocabularies
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import filters as filters_lib
from stepdistill_jax.teacher.audit import audit
from stepdistill_jax.util import errors, progress

# Ids are compared by 63 bits of their hash: of a million ids, two have the
# same with a chance of one in ten million.
_FINGERPRINTS = 2**63 - 1


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def choose_train_share(
    share: float = 1.0, seed: int = 0) -> tuple[float, int]:
  """The share of the train split's records that tasks use.

  Args:
    share: above 0 to 1, of all records, rounded up to whole ones: 0.25 of
      1,000 are 250. With one seed, a smaller share is part of a larger one.
    seed: another seed takes other records.
  """
  return filters_lib.check_share(share), int(seed)


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def filter_train_records(
    only_ok: bool = False, only_correct: bool = False,
    only_consistent: bool = False, max_pieces: int | None = None,
    min_overlap: float | None = None, dedupe: bool = False,
) -> filters_lib.Filters:
  """The filters of train records; see `teacher.filters.Filters`.

  They judge a teacher's outputs, so a task of human labels alone has only
  `dedupe` of them. A run's first lines tell what each dropped.
  """
  return filters_lib.Filters(
      only_ok=only_ok, only_correct=only_correct,
      only_consistent=only_consistent, max_pieces=max_pieces,
      min_overlap=min_overlap, dedupe=dedupe)


def keep_selected(
    dataset: tf.data.Dataset, source: sources.RecordsSource
) -> tf.data.Dataset:
  """A SeqIO preprocessor that leaves out the records that are not selected.

  Args:
    dataset: examples with `id`, of records of `source`.
    source: whose train split is chosen from, as a whole: `dataset` may be one
      host's part of it, or come from SeqIO's cache.
  """
  left_out = tf.constant(left_out_of(source))
  if not left_out.shape[0]:
    return dataset

  # Nothing branches on tensors; AutoGraph would rewrite it for seconds.
  @tf.autograph.experimental.do_not_convert
  def is_kept(example: dict[str, tf.Tensor]) -> tf.Tensor:
    fingerprint = fingerprints(example["id"])
    at = tf.searchsorted(left_out, fingerprint[None])[0]
    # One past the end where all are smaller.
    return left_out[tf.minimum(at, left_out.shape[0] - 1)] != fingerprint

  return dataset.filter(is_kept)


def fingerprints(ids: tf.Tensor) -> tf.Tensor:
  """Hashes of records' ids, int64, of any shape."""
  return tf.strings.to_hash_bucket_fast(ids, _FINGERPRINTS)


def left_out_of(source: sources.RecordsSource) -> np.ndarray:
  """Sorted hashes of the train records that are not used, int64 [n]."""
  share, seed = choose_train_share()
  filters = filter_train_records()
  if source.teacher is None:
    filters = filters_lib.Filters(dedupe=filters.dedupe)
  if share == 1 and not filters.any_on or "train" not in source.split_sizes():
    return np.zeros([0], np.int64)
  data_dir, teacher = source.resolve()
  info = records.version_dir(
      data_dir, source.dataset, teacher) / "dataset_info.json"
  vocabulary = None
  if filters.max_pieces is not None:
    own = vocabularies.task_vocabulary(source.dataset)
    vocabulary = (hugging_face_vocabulary.followed(own)
                  or own.sentencepiece_model_file)
  return _select(
      data_dir, source.dataset, teacher, share, seed, filters, vocabulary,
      os.stat(info).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _select(
    data_dir: str, dataset: str, teacher: str, share: float, seed: int,
    filters: filters_lib.Filters,
    vocabulary: str | hugging_face_vocabulary.HuggingFaceVocabulary | None,
    unused_version: int) -> np.ndarray:
  """Chooses among the train records, and tells what it dropped."""
  if filters.any_on:
    count_pieces = None
    if isinstance(vocabulary, str):
      count_pieces = audit.piece_counter(vocabulary)
    elif vocabulary is not None:
      encode = vocabulary.encode
      count_pieces = lambda texts: [len(encode(text)) for text in texts]
    train = records.read_records(data_dir, dataset, teacher, "train")
    selection = filters_lib.select(
        train, datasets.of_records(data_dir, dataset, teacher),
        filters=filters, share=share, seed=seed,
        count_pieces=count_pieces)
  else:
    selection = filters_lib.select_share(
        records.read_ids(data_dir, dataset, teacher, "train"), share, seed)
  progress.say(
      f"train records of {dataset} by {teacher}: {selection.summary()}")
  if not selection.kept:
    raise errors.UserError(
        f"no train record of {dataset!r} by {teacher!r} is left: "
        f"{selection.summary()}; bind fewer filters "
        "(filter_train_records) or a larger share (choose_train_share)")
  if not selection.left_out:
    return np.zeros([0], np.int64)
  return np.sort(fingerprints(tf.constant(selection.left_out)).numpy())
