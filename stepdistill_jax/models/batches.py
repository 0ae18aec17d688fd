"""Batches of a student: pairs made flat, and what a step adds to a batch.

A paired batch has the shape `[records, K, length]`: the K targets of a record
lie side by side, so that a microbatch keeps a record's targets together and
`batch_size` counts records. The network sees `[records * K, length]`.

What belongs to the whole step, not to a microbatch, travels as batch features
with equal rows, because a step slices its microbatches off every feature:

* `step_task_denominators` `[rows, tasks]` float32: D_k, each task's sum of
  token weights in the global batch;
* `step_task_weights` `[rows, tasks]` float32: w_k at this step;
* `step_records` and `step_mutual_information`, `[rows, 1]` float32: records
  of the global batch with both targets, and β at this step.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from stepdistill_jax.models import losses

_STEP = "step_"
DENOMINATORS = _STEP + "task_denominators"
WEIGHTS = _STEP + "task_weights"
RECORDS = _STEP + "records"
MUTUAL_INFORMATION = _STEP + "mutual_information"

Batch = Mapping[str, jnp.ndarray]


def is_paired(batch: Batch) -> bool:
  """True for a batch of `[records, K, length]` features."""
  return batch["decoder_target_tokens"].ndim == 3


def num_targets(batch: Batch) -> int | None:
  """K of a paired batch, else None."""
  return batch["decoder_target_tokens"].shape[1] if is_paired(batch) else None


def flatten_pairs(batch: Batch) -> Batch:
  """`[records, K, length]` -> `[records * K, length]`; flat ones stay."""
  if not is_paired(batch):
    return batch
  return {
      name: value if name.startswith(_STEP)
      else value.reshape((-1, *value.shape[2:]))
      for name, value in batch.items()}


def first_targets(batch: Batch) -> Batch:
  """The batch of the records' first targets alone, plain: the labels.

  Of a row with segments, the first one is left and the others are padding.
  """
  if is_paired(batch):
    return {name: value if name.startswith(_STEP) else value[:, 0]
            for name, value in batch.items()}
  if "decoder_segment_ids" not in batch:
    return batch
  first = {side: batch[f"{side}_segment_ids"] == 1
           for side in ("encoder", "decoder")}
  return {
      name: value if name.startswith(_STEP)
      else value * first[name.split("_", 1)[0]].astype(value.dtype)
      for name, value in batch.items()
      if not name.endswith(("_segment_ids", "_positions"))}


def by_record(batch: Batch, flat: jnp.ndarray) -> jnp.ndarray:
  """`[records * K, length, ...]` of a paired batch, all of a record in a row.

  Args:
    batch: the batch before it was made flat.
    flat: values for its flat targets.

  Returns:
    `[records, K * length, ...]`; values of a batch that is not paired stay.
  """
  if not is_paired(batch):
    return flat
  records, targets = batch["decoder_target_tokens"].shape[:2]
  return flat.reshape((records, targets * flat.shape[1], *flat.shape[2:]))


def task_ids(batch: Batch) -> jnp.ndarray:
  """`decoder_task_ids`, or 1 on every target of a batch without them."""
  ids = batch.get("decoder_task_ids")
  if ids is None:
    ids = (batch["decoder_target_tokens"] > 0).astype(jnp.int32)
  return ids


def loss_weights(batch: Batch) -> jnp.ndarray:
  """The weight of each target token, float32; 0 on padding."""
  weights = batch.get("decoder_loss_weights")
  if weights is None:
    weights = batch["decoder_target_tokens"] > 0
  return weights.astype(jnp.float32)


def denominators(batch: Batch, num_tasks: int) -> jnp.ndarray:
  """D_k of a batch, paired or flat: `[tasks]` float32."""
  batch = flatten_pairs(batch)
  return losses.task_sums(loss_weights(batch), task_ids(batch), num_tasks)


def with_step_features(
    batch: Batch, features: Mapping[str, jnp.ndarray]) -> Batch:
  """Adds values of the whole step to a global batch.

  Args:
    batch: the global batch, before it is cut into microbatches.
    features: `[any]` float32 by name, one of this module's constants.

  Returns:
    The batch with them, repeated for every row.
  """
  rows = batch["decoder_target_tokens"].shape[0]
  return {**batch, **{
      name: jnp.broadcast_to(value, (rows, *value.shape))
      for name, value in features.items()}}


def of_step(batch: Batch, name: str) -> jnp.ndarray:
  """A value of the whole step: all rows have the same one."""
  return batch[name][0]
