"""Packs whole records into rows of a fixed length, with tf ops alone.

A *record* has K sequences (its label and its rationale: K = 2), each an input
and a target. A row takes records in their order until the next one does not
fit; a record is never split over two rows. With K = 1 the rows are those that
`seqio.trim_and_pack_dataset` makes.

Only the assignment of records to rows is sequential, a scan over a few
integers a record. Tokens are then written with one scatter a feature, so that
packing costs little beside a training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

Tensors = Mapping[str, tf.Tensor]


class Placement(NamedTuple):
  """Where each record of a block goes; all `[records]` int32."""

  row: tf.Tensor
  input_start: tf.Tensor  # First free position of the row, in tokens.
  target_start: tf.Tensor
  index_in_row: tf.Tensor  # 0 for the first record of a row.


def place_records(
    input_sizes: tf.Tensor, target_sizes: tf.Tensor, *, input_length: int,
    target_length: int, max_records_per_row: int | None = None) -> Placement:
  """Assigns records to rows, in order, each row as full as it gets.

  Args:
    input_sizes: `[records]` int32, input tokens of all of a record's sequences.
    target_sizes: `[records]` int32, likewise for the targets.
    input_length: tokens that a row's inputs hold.
    target_length: tokens that a row's targets hold.
    max_records_per_row: a row is also full with so many records.

  Returns:
    The placement of each record.
  """
  if max_records_per_row == 1:
    zeros = tf.zeros_like(input_sizes)
    return Placement(tf.range(tf.size(zeros)), zeros, zeros, zeros)
  limit = max_records_per_row or tf.int32.max

  def place(last: Any, sizes: Any) -> tuple[tf.Tensor, ...]:
    row, used_inputs, used_targets, index, _, _ = last
    inputs, targets = sizes
    fits = ((used_inputs + inputs <= input_length)
            & (used_targets + targets <= target_length)
            & (index + 1 < limit))
    keep = tf.cast(fits, tf.int32)
    start_inputs, start_targets = used_inputs * keep, used_targets * keep
    return (row + 1 - keep, start_inputs + inputs, start_targets + targets,
            (index + 1) * keep, start_inputs, start_targets)

  zero = tf.constant(0)
  # Index -1: the first record opens row 0 as its record 0.
  first = (zero, zero, zero, tf.constant(-1), zero, zero)
  row, _, _, index, input_start, target_start = tf.scan(
      place, (input_sizes, target_sizes), first)
  return Placement(row, input_start, target_start, index)


def pack_block(
    block: Tensors, *, input_length: int, target_length: int,
    max_records_per_row: int | None = None,
    placement: Placement | None = None, num_rows: int | None = None) -> Tensors:
  """Packs a block of records into rows.

  Args:
    block: `inputs` `[records, K, any]`, `targets` `[records, K, any]` int32,
      `input_sizes`, `target_sizes` and `task_ids` `[records, K]` int32 and
      `weights` `[records, K]` float32, the weight of each target's tokens.
    input_length: tokens of a row's inputs.
    target_length: tokens of a row's targets.
    max_records_per_row: 1 gives each record a row of its own; None fills rows.
    placement: where the records go; None for `place_records`.
    num_rows: of that placement; rows that nothing is in are padding.

  Returns:
    `encoder_{input_tokens,segment_ids,positions}` `[rows, input_length]`
    int32, `decoder_{target_tokens,segment_ids,positions,task_ids}` `[rows,
    target_length]` int32, `decoder_loss_weights` float32.

  Raises:
    tf.errors.InvalidArgumentError: when a record that fits in no row is read.
  """
  input_sizes, target_sizes = block["input_sizes"], block["target_sizes"]
  input_totals = tf.reduce_sum(input_sizes, axis=1)  # [records]
  target_totals = tf.reduce_sum(target_sizes, axis=1)
  for name, totals, length in (("inputs", input_totals, input_length),
                               ("targets", target_totals, target_length)):
    tf.debugging.assert_less_equal(
        totals, length, summarize=1, message=(
            f"the {name} of a record do not fit in a packed row of {length} "
            "tokens; raise it in TASK_FEATURE_LENGTHS, or train with "
            "PACK = False"))
  if placement is None:
    placement = place_records(
        input_totals, target_totals, input_length=input_length,
        target_length=target_length, max_records_per_row=max_records_per_row)

  total = placement.row[-1] + 1 if num_rows is None else num_rows
  num_targets = tf.shape(input_sizes)[1]  # K
  # Segments count from 1 in a row: label 1, rationale 1, label 2, ...
  segments = (placement.index_in_row[:, None] * num_targets
              + tf.range(num_targets)[None, :] + 1)

  def stream(tokens: tf.Tensor, sizes: tf.Tensor, record_starts: tf.Tensor,
             length: int, **of_targets: tf.Tensor) -> Tensors:
    """Writes sequences into rows, 0 where there is none."""
    # Record, target and position of each token that is not padding.
    real = tf.where(tf.sequence_mask(sizes, tf.shape(tokens)[2]))
    record, target = real[:, 0], real[:, :2]
    positions = tf.cast(real[:, 2], tf.int32)
    starts = record_starts[:, None] + tf.cumsum(sizes, axis=1, exclusive=True)
    at = tf.stack([tf.gather(placement.row, record),
                   tf.gather_nd(starts, target) + positions], axis=-1)
    values = {
        "tokens": tf.gather_nd(tokens, real), "positions": positions,
        **{name: tf.gather_nd(x, target) for name, x in of_targets.items()}}
    return {name: tf.ensure_shape(
        tf.scatter_nd(at, value, tf.stack([total, length])),
        [num_rows, length]) for name, value in values.items()}

  encoder = stream(block["inputs"], input_sizes, placement.input_start,
                   input_length, segment_ids=segments)
  decoder = stream(
      block["targets"], target_sizes, placement.target_start, target_length,
      segment_ids=segments, weights=block["weights"],
      task_ids=block["task_ids"])
  return {
      "encoder_input_tokens": encoder["tokens"],
      "encoder_segment_ids": encoder["segment_ids"],
      "encoder_positions": encoder["positions"],
      "decoder_target_tokens": decoder["tokens"],
      "decoder_segment_ids": decoder["segment_ids"],
      "decoder_positions": decoder["positions"],
      "decoder_loss_weights": decoder["weights"],
      "decoder_task_ids": decoder["task_ids"],
  }
