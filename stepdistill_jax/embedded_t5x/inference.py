"""Running a model's inference step over a whole data set."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Mapping, Optional

import jax
from jax.experimental import multihost_utils
import numpy as np
import tensorflow as tf

InferFnCallable = Callable[..., Any]


def _as_uniform_step(infer_step):
  """Makes `(params, batch, rng, flax_mutables)` of a step that takes fewer."""
  accepted = inspect.signature(infer_step).parameters

  def step(params, batch, rng, flax_mutables):
    kwargs = {}
    if "rng" in accepted:
      kwargs["rng"] = rng
    if "flax_mutables" in accepted:
      kwargs["flax_mutables"] = flax_mutables
    return infer_step(params, batch, **kwargs)

  return step


def _pad_batch(tree, size: int):
  """Repeats the first row until there are `size`."""
  return jax.tree.map(
      lambda x: np.concatenate([x, np.repeat(x[:1], size - len(x), axis=0)])
      if len(x) < size else x, tree)


def _rows(tree, num_rows: int):
  """[rows, ...] leaves to a list of trees of plain Python values."""
  leaves, structure = jax.tree.flatten(tree)
  columns = [leaf.tolist() for leaf in leaves]
  return [jax.tree.unflatten(structure, [column[i] for column in columns])
          for i in range(num_rows)]


def get_infer_fn(
    infer_step: Callable[..., Any],
    batch_size: int,
    train_state_axes,
    partitioner,
    keep_aux_as_numpy: bool = False) -> InferFnCallable:
  """Makes what `seqio.Evaluator` calls to predict or score.

  Args:
    infer_step: `model.predict_batch`, `score_batch` or the like; takes
      parameters and a batch, and `rng` and `flax_mutables` if it names them.
    batch_size: of the global batch. The last batch is padded to it, so that
      one compilation serves all.
    train_state_axes: the train state's PartitionSpecs.
    partitioner: compiles and shards.
    keep_aux_as_numpy: keep auxiliary values as arrays, not lists.

  Returns:
    A function of an enumerated dataset, a train state and optionally a PRNG
    key. It returns (index, result) pairs in the order of the data; with
    auxiliary values (a step that returns a pair whose second is a dict), the
    pair of these and of the dict of lists.
  """
  partitioned_step = partitioner.partition(
      _as_uniform_step(infer_step),
      in_axis_resources=(
          train_state_axes.params, partitioner.data_partition_spec, None,
          train_state_axes.flax_mutables),
      out_axis_resources=None)
  layout = partitioner.get_data_layout(batch_size)
  local_size = batch_size // layout.num_shards

  def infer_fn(
      ds: tf.data.Dataset, train_state, rng: Optional[jax.Array] = None):
    # Hosts take turns: example i goes to shard i mod num_shards.
    shard = ds.shard(layout.num_shards, layout.shard_id).batch(local_size)
    num_batches = -(-len(ds) // batch_size)
    indices, results = [], []
    batches = iter(shard.as_numpy_iterator())
    # For a host without examples while others still have some.
    blank = jax.tree.map(
        lambda spec: np.zeros([1, *spec.shape], spec.dtype.as_numpy_dtype),
        ds.element_spec[1])
    for _ in range(num_batches):
      index, batch = next(batches, (np.zeros([0], np.int64), blank))
      batch = _pad_batch(batch, local_size)
      step_rng = None
      if rng is not None:
        step_rng, rng = jax.random.split(rng)
      results.append(partitioned_step(
          train_state.params, partitioner.shard_batch(batch), step_rng,
          train_state.flax_mutables))
      index = np.concatenate(
          [index, np.full(local_size - len(index), -1, np.int64)])
      indices.append(_all_hosts(index, partitioner))
    if not results:
      return []
    return _collect(results, indices, keep_aux_as_numpy)

  return infer_fn


def _all_hosts(index: np.ndarray, partitioner) -> np.ndarray:
  """The row's indices of the global batch, on every host."""
  if jax.process_count() == 1:
    return index
  return np.asarray(multihost_utils.process_allgather(
      partitioner.shard_batch(index), tiled=True))


def _collect(results, indices, keep_aux_as_numpy: bool):
  """Joins batches, drops the padding, restores the order of the data."""
  results = jax.device_get(results)
  joined = jax.tree.map(lambda *xs: np.concatenate(xs), *results)
  index = np.concatenate(indices)
  rows = np.flatnonzero(index >= 0)
  rows = rows[np.argsort(index[rows], kind="stable")]
  joined = jax.tree.map(lambda x: x[rows], joined)
  index = index[rows].tolist()
  aux = None
  if (isinstance(joined, tuple) and len(joined) == 2
      and isinstance(joined[1], Mapping)):
    joined, aux = joined
  pairs = list(zip(index, _rows(joined, len(index))))
  if aux is None:
    return pairs
  to_list = list if keep_aux_as_numpy else (lambda x: x.tolist())
  return pairs, jax.tree.map(to_list, aux)
