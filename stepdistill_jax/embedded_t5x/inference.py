"""Running a model's inference step over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import inspect
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import tensorflow as tf

from stepdistill_jax.data import batching
from stepdistill_jax.distributed import data_shards

InferFnCallable = Callable[..., Any]


def _as_uniform_step(infer_step):
  """Makes `(params, batch, rng, flax_mutables)` of a step that takes fewer."""
  accepted = inspect.signature(infer_step).parameters

  def step(params, batch, rng, flax_mutables):
    optional = {"rng": rng, "flax_mutables": flax_mutables}
    return infer_step(params, batch, **{
        k: v for k, v in optional.items() if k in accepted})

  return step


def _pad_batch(tree, size: int):
  """Repeats the first row until there are `size`."""
  return jax.tree.map(
      lambda x: np.concatenate([x, np.repeat(x[:1], size - len(x), axis=0)])
      if len(x) < size else x, tree)


def _by_host(ds: tf.data.Dataset, layout, size: int, cut: bool):
  """Batches of this host: example i goes to shard i mod num_shards.

  All hosts have as many batches, of as many rows and, with `cut`, of one
  length: they run one program.
  """
  shard = ds.shard(layout.num_shards, layout.shard_id).batch(size)
  batches = iter(shard.as_numpy_iterator())
  # For a host without examples while others still have some.
  blank = np.zeros([0], np.int64), jax.tree.map(
      lambda spec: np.zeros([1, *spec.shape], spec.dtype.as_numpy_dtype),
      ds.element_spec[1])
  for _ in range(-(-len(ds) // (size * layout.num_shards))):
    indices, features = next(batches, blank)
    if cut:
      inputs = features[batching.INPUTS]
      used = np.max(multihost_utils.process_allgather(
          np.array(batching.used_length(inputs))))
      features = batching.cut(features, batching.bucket_length(
          int(used), batching.eighths(inputs.shape[-1])))
    yield indices, features, size


def _rows(tree, num_rows: int):
  """[rows, ...] leaves to a list of trees of plain Python values."""
  leaves, structure = jax.tree.flatten(tree)
  columns = [leaf.tolist() for leaf in leaves]
  return [jax.tree.unflatten(structure, [column[i] for column in columns])
          for i in range(num_rows)]


def _is_cut(result, step, arguments, spec: Mapping[str, Any]) -> bool:
  """Whether a result is shorter as the inputs were cut.

  Args:
    step: gave the result; not called, where no axis has the inputs' length.
    arguments: of the step, its batch the second.
    spec: of whole examples.
  """
  params, batch, *others = arguments
  length = batch[batching.INPUTS].shape[-1]
  shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
  if length == spec[batching.INPUTS].shape[-1] or not any(
      length in shape[1:] for shape in shapes(result)):
    return False
  whole = {name: jax.ShapeDtypeStruct((len(x), *spec[name].shape), x.dtype)
           for name, x in batch.items()}
  return shapes(step.trace(params, whole, *others).out_info) != shapes(result)


def get_infer_fn(
    infer_step: Callable[..., Any], batch_size: int, train_state_axes,
    partitioner, keep_aux_as_numpy: bool = False, trim_inputs: bool = True
) -> InferFnCallable:
  """Makes what `seqio.Evaluator` calls to predict or score.

  Args:
    infer_step: `model.predict_batch`, `score_batch` or the like; takes
      parameters and a batch, and `rng` and `flax_mutables` if it names them.
    batch_size: of the global batch. The last batch is padded to it (by length:
      to a power of two), so that few compilations serve all.
    keep_aux_as_numpy: keep auxiliary values as arrays, not lists.
    trim_inputs: cut encoder padding that all rows of a batch have, with a
      compilation for each eighth of the inputs' length; in one process rows
      of like length go together, so that sampling, unlike greedy decoding and
      beam search, draws other numbers than in T5X. Results that have the
      inputs' length are of whole inputs all the same. False is for networks
      that see padding.

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
  devices = partitioner.data_mesh_size

  def infer_fn(ds: tf.data.Dataset, train_state, rng: jax.Array | None = None):
    nonlocal trim_inputs
    first_rng = rng
    tokens = ds.element_spec[1].get(batching.INPUTS)
    cut = bool(trim_inputs and tokens is not None and tokens.shape.rank
               and tokens.dtype.is_integer)
    batches = (
        batching.by_length(
            list(ds.as_numpy_iterator()), local_size, devices)
        if cut and jax.process_count() == 1
        else _by_host(ds, layout, local_size, cut))
    indices, results = [], []
    for index, batch, rows in batches:
      step_rng = None
      if rng is not None:
        step_rng, rng = jax.random.split(rng)
      arguments = (
          train_state.params,
          partitioner.shard_batch(_pad_batch(batch, rows)), step_rng,
          train_state.flax_mutables)
      results.append(partitioned_step(*arguments))
      if cut and _is_cut(
          results[-1], partitioned_step, arguments, ds.element_spec[1]):
        trim_inputs = False
        return infer_fn(ds, train_state, first_rng)
      indices.append(data_shards.on_all_hosts(np.concatenate(
          [index, np.full(rows - len(index), -1, np.int64)]), partitioner))
    return _collect(results, indices, keep_aux_as_numpy) if results else []

  return infer_fn


def _collect(results, indices, keep_aux_as_numpy: bool):
  """Joins batches, drops the padding, restores the order of the data."""
  index = np.concatenate(indices)
  rows = np.flatnonzero(index >= 0)
  rows = rows[np.argsort(index[rows], kind="stable")]
  index = index[rows].tolist()
  joined = jax.tree.map(
      lambda *xs: np.concatenate(xs)[rows], *jax.device_get(results))
  if not (isinstance(joined, tuple) and len(joined) == 2
          and isinstance(joined[1], Mapping)):
    return list(zip(index, _rows(joined, len(index))))
  joined, aux = joined
  to_list = list if keep_aux_as_numpy else (lambda x: x.tolist())
  return (list(zip(index, _rows(joined, len(index)))),
          jax.tree.map(to_list, aux))
