"""The tokenized examples of a task, in memory, each found by its number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import functools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.data import truncation
from stepdistill_jax.util import errors

# Tokens of so many examples take a few gigabytes.
MOST_EXAMPLES = 4_000_000
_READ_AT_ONCE = 512


class _Column:
  """One feature of all examples: their values one after the other."""

  def __init__(self, values: np.ndarray, sizes: np.ndarray):
    self._values = values
    self.sizes = sizes
    self._starts = np.concatenate([[0], np.cumsum(sizes)])

  def take(self, examples: np.ndarray) -> tf.RaggedTensor:
    """`[examples, (length)]`."""
    parts = [self._values[self._starts[i]:self._starts[i + 1]]
             for i in examples]
    return tf.RaggedTensor.from_row_lengths(
        np.concatenate(parts), self.sizes[examples], validate=False)


class ExampleStore:
  """Examples of one or several tasks, read when first asked for.

  Attributes:
    element_spec: name -> `tf.TensorSpec` of rank 1, of the numeric features
      that all the tasks have.
  """

  def __init__(
      self, datasets: Sequence[tf.data.Dataset], name: str,
      judges: Sequence[truncation.Judge | None] | None = None):
    """Initializes.

    Args:
      datasets: finite ones, of examples with features of rank 1.
      name: of the task, for messages.
      judges: of each data set, say what its examples have lost, and which of
        them are left out.
    """
    shared = set.intersection(*(set(ds.element_spec) for ds in datasets))
    self.element_spec = {
        key: spec for key, spec in datasets[0].element_spec.items()
        if key in shared and spec.dtype != tf.string
        and spec.shape.rank == 1}
    self.element_spec.pop(truncation.TOKENS_CUT, None)
    self._datasets = datasets
    self._judges = judges or [None] * len(datasets)
    self._name = name

  @functools.cached_property
  def _read(self) -> tuple[Mapping[str, _Column], list[int], list[Any]]:
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        key: [] for key in self.element_spec}
    counts, found = [], []
    for dataset, judge in zip(self._datasets, self._judges):
      columns = _read_columns(dataset, [
          *self.element_spec, *([truncation.TOKENS_CUT] if judge else [])])
      if not columns:
        raise errors.UserError(f"task {self._name}: no example is left of its "
                               "records; `stepdistill teacher audit` says why")
      count = len(columns[next(iter(columns))][1])
      keep, record = np.ones(count, bool), None
      if judge is not None:
        lost, _ = columns.pop(truncation.TOKENS_CUT)
        keep, record = judge(lost.reshape(count, -1))
      for key, (values, sizes) in columns.items():
        parts[key].append((values[np.repeat(keep, sizes)], sizes[keep]))
      counts.append(int(keep.sum()))
      found.append(record)
    self._datasets = ()  # Nothing of theirs is kept.
    return {
        key: _Column(*(np.concatenate(x) for x in zip(*values)))
        for key, values in parts.items()}, counts, found

  @property
  def cut(self) -> list[Mapping[str, Any] | None]:
    """What the examples of each data set have lost, see `truncation.Judge`."""
    return self._read[2]

  @property
  def counts(self) -> list[int]:
    """Number of examples of each data set."""
    return self._read[1]

  def sizes(self, key: str) -> np.ndarray:
    """The length of a feature in each example, int64 `[examples]`."""
    return self._read[0][key].sizes

  def take(self, examples: np.ndarray) -> Mapping[str, tf.RaggedTensor]:
    """Examples by their numbers: name -> `[examples, (length)]`."""
    return {key: column.take(examples)
            for key, column in self._read[0].items()}

  def batches_spec(self) -> Mapping[str, tf.RaggedTensorSpec]:
    """The spec of what `take` returns."""
    return {key: tf.RaggedTensorSpec([None, None], spec.dtype, ragged_rank=1)
            for key, spec in self.element_spec.items()}


def _read_columns(
    dataset: tf.data.Dataset, keys: Sequence[str]) -> dict[str, Any]:
  """Feature -> (all values, the length of each example's); {} if empty."""
  batches = dataset.map(
      lambda example: {key: example[key] for key in keys},
      num_parallel_calls=tf.data.AUTOTUNE).ragged_batch(_READ_AT_ONCE)
  parts = [{key: _values_and_sizes(value) for key, value in batch.items()}
           for batch in batches.prefetch(tf.data.AUTOTUNE)]
  return {key: tuple(map(np.concatenate, zip(*(part[key] for part in parts))))
          for key in keys} if parts else {}


def _values_and_sizes(value: Any) -> tuple[np.ndarray, np.ndarray]:
  """The values of a batch, flat, and the length of each row."""
  if isinstance(value, tf.RaggedTensor):
    return value.flat_values.numpy(), value.row_lengths().numpy()
  value = value.numpy()
  return value.reshape(-1), np.full(len(value), value.shape[1], np.int64)


def check_size(tasks: Iterable[seqio.Task], split: str, advice: str) -> None:
  """Raises UserError if the tasks have more examples than memory should."""
  total = sum(task.source.num_input_examples(split) or 0 for task in tasks)
  if total > MOST_EXAMPLES:
    raise errors.UserError(
        f"{total:,} examples are too many to hold in memory; {advice}")
