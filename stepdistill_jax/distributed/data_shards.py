"""The same global batches whatever the number of hosts.

A run's records are cut into a fixed number of shards, by default one for each
share that hosts load (as T5X does). Batch k of the run is made of batch k of
every shard, each in its own order. The number is in `run.json`: a run that
goes on with more or fewer hosts keeps it, and each host reads the shards that
its rows are in. So going on elsewhere changes no batch.

This is for SeqIO's order. `data.exact_order` is the same on any hosts by
itself, and needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.data import dataset_providers
from stepdistill_jax.distributed import processes
from stepdistill_jax.util import errors


def _num_records(cfg) -> int | None:
  """Of the smallest task that has the split; None if one does not know."""
  counts = []
  for task in seqio.get_subtasks(dataset_providers.find_task(cfg)):
    if cfg.split in (task.splits or ()):
      try:
        counts.append(task.num_input_examples(cfg.split))
      except (ValueError, KeyError, AttributeError):
        return None
  return None if not counts or None in counts else min(counts)


def choose(cfg, layout, recorded: int | None = None) -> int:
  """The number of shards of a run.

  Args:
    cfg: the training data.
    layout: of this process.
    recorded: the number that the run began with; None for a new run.

  Raises:
    errors.UserError: the number cannot be kept on these hosts.
  """
  if recorded is None:
    records = _num_records(cfg)
    # A shard needs a record, or its host would have nothing to give.
    few = records is not None and records < layout.num_shards
    return 1 if few else layout.num_shards
  if cfg.batch_size % recorded:
    raise errors.InvalidValue(
        f"the run began with its records in {recorded} shards, which do not "
        f"divide the batch size {cfg.batch_size}; take a multiple of "
        f"{recorded} for BATCH_SIZE")
  return recorded


@dataclasses.dataclass(frozen=True)
class _Part:
  """Rows of a shard's batches that a host loads."""

  shard: int
  begin: int
  end: int


def parts_of_host(
    batch_size: int, num_shards: int, host: int, num_hosts: int
) -> Sequence[_Part]:
  """Which rows of which shards make a host's share of a batch, in order.

  >>> parts_of_host(8, num_shards=2, host=1, num_hosts=4)
  [_Part(shard=0, begin=2, end=4)]
  >>> parts_of_host(8, num_shards=2, host=0, num_hosts=1)
  [_Part(shard=0, begin=0, end=4), _Part(shard=1, begin=0, end=4)]
  """
  rows = batch_size // num_shards
  first = host * batch_size // num_hosts
  last = (host + 1) * batch_size // num_hosts
  return [
      _Part(shard, max(first - shard * rows, 0), min(last - shard * rows, rows))
      for shard in range(num_shards)
      if shard * rows < last and (shard + 1) * rows > first]


def get_dataset(
    get_dataset_fn: Callable[..., Any], cfg, layout, recorded: int | None,
    feature_converter_cls: Callable[..., Any]) -> tuple[Any, int]:
  """This host's share of every global batch.

  Args:
    get_dataset_fn: as T5X's `utils.get_dataset`. What it returns may have a
      true attribute `same_on_any_hosts`: its global batches do not depend on
      the number of shares, and nothing is left to do here.
    cfg: the data.
    layout: of this process.
    recorded: the number of shards that the run began with; None for a new run.
    feature_converter_cls: makes model features of task features.

  Returns:
    (what `get_dataset_fn` returns; a dataset of feature ->
    [batch / layout.num_shards, ...], the number of shards to record).
  """
  read = lambda shard, num_shards: get_dataset_fn(
      cfg, shard, num_shards, feature_converter_cls)
  own = read(layout.shard_id, layout.num_shards)
  if getattr(own, "same_on_any_hosts", False):
    return own, layout.num_shards
  num_shards = choose(cfg, layout, recorded)
  if num_shards == layout.num_shards:
    return own, num_shards
  parts = parts_of_host(
      cfg.batch_size, num_shards, layout.shard_id, layout.num_shards)
  shards = [read(part.shard, num_shards) for part in parts]
  if not all(isinstance(shard, tf.data.Dataset) for shard in shards):
    raise errors.InvalidValue(
        f"the run has its records in {num_shards} shards, for "
        f"{layout.num_shards} hosts now; a get_dataset_fn that gives no "
        "tf.data.Dataset needs as many hosts as the run began with")

  def join(*batches):
    return {
        name: tf.concat(
            [batch[name][part.begin:part.end]
             for part, batch in zip(parts, batches)], axis=0)
        for name in batches[0]}

  # Threads within a pipeline keep its order; one is enough to join.
  return tf.data.Dataset.zip(tuple(shards)).map(join), num_shards


def check_first_batch(train_iter, layout) -> None:
  """Raises UserError, on all hosts, if one of them has no batch.

  Else its peers would wait for it in the first step.
  """
  error = train_iter.peek_async().exception()
  if isinstance(error, StopIteration):
    problem = (f"share {layout.shard_id} of {layout.num_shards} of the "
               "training data has no example: fewer examples (after filters) "
               "than hosts; take fewer hosts, or more data")
  else:
    problem = (f"the training data cannot be read ({type(error).__name__}: "
               f"{errors.first_line(error)})") if error else ""
  problems = [p for p in processes.exchange("first batch", problem) if p]
  if problems:
    raise errors.InvalidValue(problems[0]) from error


def on_all_hosts(values: np.ndarray, partitioner: Any) -> np.ndarray:
  """The values of a global batch, of which each host has its own rows."""
  if jax.process_count() == 1:
    return values
  return np.asarray(multihost_utils.process_allgather(
      partitioner.shard_batch(values), tiled=True))
