"""From task features to batches: one feature converter for all methods.

SeqIO's tasks yield one example a record. A plain task has `inputs` and
`targets`; a *paired* task also has `rationale_inputs` and
`rationale_targets`, so that both targets of a record stay in one step. Pairs
are formed after the shuffle: they are never separated before they get here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.data import packing, pair_rows

_TOKENS = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
# Optional features that tasks may give beside the tokens.
TASK_IDS = "task_ids"  # int32 [1]: the task of a mixture's component.
RECORD_WEIGHTS = "record_weights"  # float32 [1] or [K]: weight in the loss.
# Of many examples: a `packing.Placement`, stacked.
PLACEMENT = "placement"
_AT_ONCE = 64  # Examples.


@inherited_bindings.followed_by_class
class StepDistillFeatureConverter(seqio.FeatureConverter):
  """Encoder-decoder features with the loss weight and task of each token.

  `decoder_task_ids` says which task a target token belongs to (1 label,
  2 rationale, further ones as they come; 0 on padding), and
  `decoder_loss_weights` what it weighs within its task: 1, or the record's own
  weight where the task gives `record_weights`.

  Two records of a paired task:

  ds = [{"inputs": [7, 8, 5, 1], "targets": [3, 1],
         "rationale_inputs": [9, 8, 5, 1], "rationale_targets": [4, 6, 3, 1]},
        {"inputs": [7, 4, 1], "targets": [5, 1],
         "rationale_inputs": [9, 4, 1], "rationale_targets": [2, 5, 1]}]

  packed with the lengths {"inputs": 15, "targets": 12} fill one row:

  converted_ds = [{
      "encoder_input_tokens": [7, 8, 5, 1, 9, 8, 5, 1, 7, 4, 1, 9, 4, 1, 0],
       "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0],
         "encoder_positions": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0],
     "decoder_target_tokens": [3, 1, 4, 6, 3, 1, 5, 1, 2, 5, 1, 0],
      "decoder_input_tokens": [0, 3, 0, 4, 6, 3, 0, 5, 0, 2, 5, 0],
      "decoder_loss_weights": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
          "decoder_task_ids": [1, 1, 2, 2, 2, 2, 1, 1, 2, 2, 2, 0],
       "decoder_segment_ids": [1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 0],
         "decoder_positions": [0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2, 0],
  }]

  If the first record weighs 0.5, its tokens of both tasks do:
  `"decoder_loss_weights": [.5, .5, .5, .5, .5, .5, 1, 1, 1, 1, 1, 0]`.

  Not packed, with the lengths {"inputs": 5, "targets": 4}, each element is one
  record with a leading axis over its K = 2 targets, so a batch is
  `[records, K, length]`; the first one is:

  converted_ds[0] = {
      "encoder_input_tokens": [[7, 8, 5, 1, 0], [9, 8, 5, 1, 0]],
     "decoder_target_tokens": [[3, 1, 0, 0], [4, 6, 3, 1]],
      "decoder_input_tokens": [[0, 3, 1, 0], [0, 4, 6, 3]],
      "decoder_loss_weights": [[1, 1, 0, 0], [1, 1, 1, 1]],
          "decoder_task_ids": [[1, 1, 0, 0], [2, 2, 2, 2]],
  }

  With `join_pairs` a record's targets lie one after the other in a row of
  their own instead, as in a packed row of one record: less padding, as a label
  need not be as long as a rationale. A row is then as long as the lengths of
  all targets together:

  {"inputs": 4, "targets": 2, "rationale_targets": 4} gives

  joined_ds[0] = {
      "encoder_input_tokens": [7, 8, 5, 1, 9, 8, 5, 1],
       "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 2],
         "encoder_positions": [0, 1, 2, 3, 0, 1, 2, 3],
     "decoder_target_tokens": [3, 1, 4, 6, 3, 1],
      "decoder_input_tokens": [0, 3, 0, 4, 6, 3],
      "decoder_loss_weights": [1, 1, 1, 1, 1, 1],
          "decoder_task_ids": [1, 1, 2, 2, 2, 2],
       "decoder_segment_ids": [1, 1, 2, 2, 2, 2],
         "decoder_positions": [0, 1, 0, 1, 2, 3],
  }

  A plain task gives the features of `seqio.EncDecFeatureConverter`, here with
  float32 loss weights, and `decoder_task_ids`: its `task_ids` if it has them
  (components of a mixture do), else 1.

  The lengths may name `rationale_inputs` and `rationale_targets`; otherwise
  they are those of `inputs` and `targets`. Longer sequences are cut there, as
  SeqIO does. In a packed row the lengths are the row's, for all its sequences
  together.
  """

  TASK_FEATURES = {"inputs": _TOKENS, "targets": _TOKENS}
  MODEL_FEATURES = {
      "encoder_input_tokens": _TOKENS,
      "decoder_target_tokens": _TOKENS,
      "decoder_input_tokens": _TOKENS,
      "decoder_loss_weights": seqio.FeatureConverter.FeatureSpec(
          dtype=tf.float32),
      "decoder_task_ids": _TOKENS,
  }
  PACKING_FEATURE_DTYPES = {
      "encoder_segment_ids": tf.int32,
      "decoder_segment_ids": tf.int32,
      "encoder_positions": tf.int32,
      "decoder_positions": tf.int32,
  }

  def __init__(
      self, pack: bool = True, use_custom_packing_ops: bool = False,
      apply_length_check: bool = True, bos_id: int = 0,
      passthrough_features: Mapping[str, Any] | None = None,
      target_prefixes: Sequence[str] = ("", "rationale_"),
      join_pairs: bool = False):
    """Configures the converter.

    Args:
      pack: whether to pack several records into a row.
      use_custom_packing_ops: T5X's option, without effect here.
      apply_length_check: SeqIO's option, without effect here: sequences are
        cut to their lengths.
      bos_id: what the decoder reads first.
      passthrough_features: SeqIO's option; not supported.
      target_prefixes: prefixes of the features of a record's targets, in the
        order of the task ids. A data set is paired when it has the second's.
      join_pairs: without `pack`, whether the targets of a record share a row,
        one after the other, instead of lying side by side.
    """
    super().__init__(
        pack=pack, use_custom_packing_ops=False,
        apply_length_check=apply_length_check, bos_id=bos_id,
        passthrough_features=passthrough_features)
    if passthrough_features:
      raise ValueError(
          "StepDistillFeatureConverter passes no features through, got "
          f"{sorted(passthrough_features)}")
    self._target_prefixes = tuple(target_prefixes)
    self._join_pairs = join_pairs

  def __call__(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int],
  ) -> tf.data.Dataset:
    """Converts a data set of task features to one of model features.

    Args:
      ds: elements as in the class's docstring; other features are dropped.
      task_feature_lengths: at least `inputs` and `targets`, in tokens.

    Returns:
      The data set of model features, not batched.

    Raises:
      ValueError: a feature or length is missing or of the wrong type.
    """
    convert = self.of_many(ds.element_spec, task_feature_lengths)
    # Packs as large blocks as SeqIO's: their last row may stay half empty.
    at_once = max(task_feature_lengths["inputs"],
                  task_feature_lengths["targets"]) if self.pack else _AT_ONCE
    names = [name for name, spec in ds.element_spec.items()
             if spec.dtype != tf.string and spec.shape.rank == 1]
    rows = ds.map(lambda example: {
        name: example[name] for name in names}).ragged_batch(at_once).map(
            convert, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    size = ds.cardinality()
    if self.pack or size == tf.data.UNKNOWN_CARDINALITY:
      return rows
    # A row an example: evaluation on several hosts asks how many there are.
    return rows.apply(tf.data.experimental.assert_cardinality(size))

  def of_many(
      self, element_spec: Mapping[str, tf.TensorSpec],
      task_feature_lengths: Mapping[str, int],
      placed: pair_rows.Shape | None = None
  ) -> Callable[[Mapping[str, Any]], packing.Tensors]:
    """What converts many examples at once.

    Args:
      element_spec: of one example.
      task_feature_lengths: as in `__call__`.
      placed: rows that the examples go to as their `PLACEMENT` says, int32
        `[4, examples]`; None without one.

    Returns:
      A function of name -> `[examples, (length)]`, to name -> `[rows, ...]`;
      each example has a row of its own, unless the converter packs, or they
      are placed.

    Raises:
      ValueError: as `__call__` does.
    """
    prefixes = self._prefixes_of(element_spec)
    lengths = _lengths_of(prefixes, task_feature_lengths)
    if self.pack:  # The lengths of `inputs` and `targets` are the row's.
      place = functools.partial(
          packing.pack_block, input_length=task_feature_lengths["inputs"],
          target_length=task_feature_lengths["targets"])
    elif self._join_pairs and len(prefixes) > 1:
      place = functools.partial(
          packing.pack_block, input_length=sum(i for i, _ in lengths),
          target_length=sum(t for _, t in lengths), max_records_per_row=1)
    else:
      place = functools.partial(
          _pad_records, input_length=max(i for i, _ in lengths),
          target_length=max(t for _, t in lengths),
          squeeze=len(prefixes) == 1)
    # Nothing branches on tensors; AutoGraph would rewrite it for seconds.
    @tf.autograph.experimental.do_not_convert
    def convert(examples: Mapping[str, Any]) -> packing.Tensors:
      records = _as_records(examples, prefixes, lengths)
      if placed is not None:
        return self._add_decoder_inputs(packing.pack_block(
            records, input_length=placed.inputs, target_length=placed.targets,
            placement=packing.Placement(*tf.unstack(examples[PLACEMENT])),
            num_rows=placed.rows))
      return self._add_decoder_inputs(place(records))

    return convert  # type: ignore[no-any-return]

  _convert_features = __call__  # SeqIO's name, for what its own call checks.

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
    """The length of each model feature of a plain task, or a packed row."""
    names = dict(self.MODEL_FEATURES)
    if self.pack:
      names |= self.PACKING_FEATURE_DTYPES
    return {
        name: task_feature_lengths[
            "inputs" if name.startswith("encoder_") else "targets"]
        for name in names}

  def row_sizes(
      self, element_spec: Mapping[str, tf.TensorSpec],
      sizes: Callable[[Sequence[str]], np.ndarray],
      task_feature_lengths: Mapping[str, int]) -> tuple[Any, Any, int, int]:
    """What records take of a packed row.

    Args:
      element_spec: of the task's examples.
      sizes: names of features -> their lengths in each example, int
        `[names, examples]`.
      task_feature_lengths: of a row.

    Returns:
      (input tokens `[examples]`, target tokens `[examples]`, input length of a
      row, target length of a row).
    """
    prefixes = self._prefixes_of(element_spec)
    lengths = _lengths_of(prefixes, task_feature_lengths)
    names = [prefix + name for name in ("inputs", "targets")
             for prefix in prefixes]
    most = [pair[i] for i in range(2) for pair in lengths]
    inputs, targets = np.minimum(
        sizes(names), np.array(most, np.int32)[:, None]).reshape(
            2, len(prefixes), -1).sum(axis=1, dtype=np.int32)
    return (inputs, targets, task_feature_lengths["inputs"],
            task_feature_lengths["targets"])

  def _prefixes_of(
      self, element_spec: Mapping[str, tf.TensorSpec]) -> tuple[str, ...]:
    """The target prefixes that the data set has, its features checked."""
    present = tuple(
        prefix for prefix in self._target_prefixes
        if prefix + "inputs" in element_spec
        or prefix + "targets" in element_spec) or ("",)
    for prefix in present:
      for name in (prefix + "inputs", prefix + "targets"):
        spec = element_spec.get(name)
        if spec is None:
          raise ValueError(
              f"the task lacks the feature {name!r}; it has "
              f"{sorted(element_spec)}")
        if spec.dtype != tf.int32 or len(spec.shape) != 1:
          raise ValueError(
              f"the task's feature {name!r} must be int32 of rank 1, got "
              f"{spec.dtype.name} of rank {len(spec.shape)}")
    return present

  def _add_decoder_inputs(self, features: packing.Tensors) -> packing.Tensors:
    """Shifts the targets right by one within each sequence."""
    targets = features["decoder_target_tokens"]
    bos = tf.fill(tf.shape(targets[..., :1]), self.bos_id)
    inputs = tf.concat([bos, targets[..., :-1]], axis=-1)
    if "decoder_positions" in features:
      # Position 0 starts a sequence, or is padding, which reads nothing.
      inputs = tf.where(
          features["decoder_positions"] == 0, self.bos_id, inputs)
    return {**features, "decoder_input_tokens": inputs}


def _lengths_of(
    prefixes: Sequence[str], given: Mapping[str, int]) -> list[tuple[int, int]]:
  """(input length, target length) of each target, in tokens."""
  missing = [name for name in ("inputs", "targets") if name not in given]
  if missing:
    raise ValueError(
        f"TASK_FEATURE_LENGTHS must give {missing}, got {dict(given)}")
  return [
      (given.get(prefix + "inputs", given["inputs"]),
       given.get(prefix + "targets", given["targets"]))
      for prefix in prefixes]


def _stack(sequences: Sequence[Any]) -> tuple[tf.Tensor, tf.Tensor]:
  """Stacks K features, padded with 0: `[examples, K, any]`, and their sizes."""
  sizes = tf.stack([tf.cast(s.row_lengths(), tf.int32) for s in sequences], 1)
  shape = tf.stack([-1, tf.reduce_max(sizes)])
  return tf.stack([s.to_tensor(shape=shape) for s in sequences], 1), sizes


def _as_records(
    examples: Mapping[str, Any], prefixes: Sequence[str],
    lengths: Sequence[tuple[int, int]]) -> packing.Tensors:
  """Examples of a task as `packing.pack_block` wants them: targets stacked."""
  def tokens(name: str, length: int) -> Any:
    value = examples[name]  # All examples of a feature may be of one length.
    if not isinstance(value, tf.RaggedTensor):
      value = tf.RaggedTensor.from_tensor(value)
    return value[:, :length]

  inputs, input_sizes = _stack([
      tokens(prefix + "inputs", length)
      for prefix, (length, _) in zip(prefixes, lengths)])
  targets, target_sizes = _stack([
      tokens(prefix + "targets", length)
      for prefix, (_, length) in zip(prefixes, lengths)])
  shape = tf.shape(input_sizes)

  def numbers(name: str) -> tf.Tensor:
    value = examples[name]  # As many of each example.
    return tf.reshape(getattr(value, "flat_values", value), [shape[0], -1])

  if len(prefixes) == 1 and TASK_IDS in examples:
    task_ids = numbers(TASK_IDS)
  else:
    task_ids = tf.broadcast_to(tf.range(1, len(prefixes) + 1), shape)
  weights = tf.ones(shape)
  if RECORD_WEIGHTS in examples:
    weights *= tf.cast(numbers(RECORD_WEIGHTS), tf.float32)
  return {
      "inputs": inputs, "input_sizes": input_sizes,
      "targets": targets, "target_sizes": target_sizes,
      "task_ids": tf.ensure_shape(task_ids, [None, len(prefixes)]),
      "weights": tf.ensure_shape(weights, [None, len(prefixes)])}


def _pad_records(
    records: packing.Tensors, input_length: int, target_length: int,
    squeeze: bool) -> packing.Tensors:
  """Pads records to `[examples, K, length]`, without K if squeezed."""
  num_targets = records["task_ids"].shape[1]

  def pad(tokens: tf.Tensor, length: int) -> tf.Tensor:
    tokens = tf.pad(
        tokens, [[0, 0], [0, 0], [0, length - tf.shape(tokens)[2]]])
    return tf.ensure_shape(tokens, [None, num_targets, length])

  real = tf.sequence_mask(records["target_sizes"], target_length)
  features = {
      "encoder_input_tokens": pad(records["inputs"], input_length),
      "decoder_target_tokens": pad(records["targets"], target_length),
      "decoder_loss_weights": (
          tf.cast(real, tf.float32) * records["weights"][..., None]),
      "decoder_task_ids": (
          tf.cast(real, tf.int32) * records["task_ids"][..., None]),
  }
  if squeeze:
    features = {name: value[:, 0] for name, value in features.items()}
  return features
