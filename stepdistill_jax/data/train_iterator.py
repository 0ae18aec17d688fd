"""Training batches on the devices; can be peeked at, skipped and saved."""

from __future__ import annotations

from collections.abc import Callable
import concurrent.futures
import functools
import itertools
from typing import Any

import clu.data
import jax
import tensorflow as tf


class TrainIterator:
  """Training batches on the devices; can be peeked at, skipped and saved."""

  def __init__(
      self, iterator_at: Callable[[int], Any],
      shard_batch: Callable[[Any], Any], element_spec: Any):
    """Initializes.

    Args:
      iterator_at: gives the `clu.data.DatasetIterator` over numpy batches
        that begins with a batch of this number. It is called once: two
        iterators of one tf.data pipeline do not shuffle alike.
    """
    self._iterator_at = iterator_at
    self._first_batch = 0
    self._shard_batch = shard_batch
    self.element_spec = element_spec
    self._first: concurrent.futures.Future[Any] | None = None

  @functools.cached_property
  def _iterator(self) -> Any:
    return self._iterator_at(self._first_batch)

  def __iter__(self) -> TrainIterator:
    return self

  def __next__(self) -> Any:
    if self._first is None:
      return self._take()
    batch, self._first = self._first.result(), None
    return batch

  def _take(self) -> Any:
    return self._shard_batch(next(self._iterator))

  def peek(self) -> Any:
    """The next batch, which stays the next."""
    return self.peek_async().result()

  def peek_async(self) -> concurrent.futures.Future[Any]:
    """Starts to prepare the next batch in the background."""
    if self._first is None:
      # No `with`: its end would wait for the batch.
      pool = concurrent.futures.ThreadPoolExecutor(1)
      self._first = pool.submit(self._take)
      pool.shutdown(wait=False)
    return self._first

  def skip(self, num_batches: int) -> None:
    """Goes to a later batch; only before the first one is asked for."""
    if "_iterator" in self.__dict__:
      raise ValueError("Batches can be skipped at the start only")
    self._first_batch += num_batches

  def save(self, filename: str) -> None:
    """Saves the position; a batch that was peeked at is behind it, as in T5X.
    """
    if self._first is not None:
      self._first.result()  # It is being read.
    self._iterator.save(filename)

  def reset(self) -> None:
    self._first = None
    self._iterator.reset()

  def restore(self, filename: str) -> None:
    self._first = None
    self._iterator.restore(filename)

  load = restore


def prepare_train_iter(
    train_iter: Any, *, partitioner: Any, checkpoint_cfg: Any = None,
    data_layout: Any = None) -> TrainIterator:
  """Wraps what a `get_dataset_fn` returned for the train loop.

  A `tf.data.Dataset` with an attribute `starting_at(batch)`, which gives the
  dataset from that batch on, resumes without reading what lies before.
  """
  del data_layout  # T5X's interface has it.
  if not isinstance(train_iter, tf.data.Dataset):

    def skipped(batch: int) -> Any:
      for _ in itertools.islice(train_iter, batch):
        pass
      return train_iter

    return TrainIterator(
        skipped, partitioner.shard_batch, train_iter.element_spec)
  saved = checkpoint_cfg and checkpoint_cfg.save and (
      checkpoint_cfg.save.save_dataset)
  starting_at = getattr(train_iter, "starting_at", train_iter.skip)

  def iterator_at(batch: int) -> clu.data.DatasetIterator:
    dataset = starting_at(batch) if batch else train_iter
    if not saved:
      # A saved position is that of T5X's pipeline, which does not prefetch.
      dataset = dataset.prefetch(tf.data.AUTOTUNE)
    return clu.data.TfDatasetIterator(dataset, checkpoint=True)

  spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype.as_numpy_dtype)
          for name, x in train_iter.element_spec.items()}
  return TrainIterator(iterator_at, partitioner.shard_batch, spec)
