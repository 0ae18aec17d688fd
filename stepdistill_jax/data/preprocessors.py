"""From distillation records to the token ids of tasks.

A task's preprocessors, in order: texts of the task's targets, token ids, (the
place where SeqIO's cache may stand,) the choice of records, the EOS ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import gin
import seqio
import tensorflow as tf

from stepdistill_jax.data import (
  hugging_face_vocabulary,
  selection,
  sources,
  task_metrics,
  truncation,
)
from stepdistill_jax.records import records

GOLD = "gold"
PREDICT_PREFIX = "predict: "
EXPLAIN_PREFIX = "explain: "
# Task ids of target tokens; further targets of a record get 3, 4, …
LABEL_TASK_ID = 1
RATIONALE_TASK_ID = 2
# float32 [targets of the example]; see the feature converter.
RECORD_WEIGHTS = "record_weights"

# What gin binds of this module and stands elsewhere.
choose_train_share = selection.choose_train_share
filter_train_records = selection.filter_train_records
long_prompts = truncation.long_prompts
long_rationales = truncation.long_rationales

FirstStep = Callable[..., tf.data.Dataset]
_Example = Mapping[str, tf.Tensor]
# Nothing here branches on tensors; AutoGraph would rewrite it for seconds.
_plain = tf.autograph.experimental.do_not_convert


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def single_target_separator(text: str = " The answer is ") -> str:
  """What stands between rationale and label in a single-task target.

  The evaluation takes the text after the last one for the answer.
  """
  return text


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def mixing_weights(
    weights: Mapping[str, float] | None = None) -> Mapping[str, float]:
  """What each data set of a union weighs in its mixture, relative numbers.

  Args:
    weights: of all its data sets; None: as many as each has train records.
  """
  return weights or {}


def _map(dataset: tf.data.Dataset, function: Callable[..., Any]
         ) -> tf.data.Dataset:
  return dataset.map(
      _plain(function), num_parallel_calls=tf.data.AUTOTUNE)


def label_text(example: _Example, label_source: str) -> tf.Tensor:
  """The label that a task trains on or is scored against.

  Args:
    example: a record.
    label_source: `gold`, or the teacher's name for its labels.

  Returns:
    A text, empty where the record has no such label. In the validation and
    test splits it is the human label wherever there is one, whatever the
    students learned from: accuracies mean the same for all methods.
  """
  gold, teacher = example["label"], example["teacher_label"]
  return tf.where(_is_human(example, label_source), gold, teacher)


def _is_human(example: _Example, label_source: str) -> tf.Tensor:
  """Whether a task's label is a human one, bool scalar."""
  if label_source == GOLD:
    return tf.constant(True)
  return (example["split"] != "train") & (example["label"] != "")


def _labeled_by(example: _Example, label_source: str) -> dict[str, tf.Tensor]:
  """Whose label the target is: metrics are not one number for both."""
  return {task_metrics.LABELED_BY: tf.where(
      _is_human(example, label_source), task_metrics.HUMAN,
      task_metrics.TEACHER)}


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def record_weight(example: _Example, use: bool = True) -> tf.Tensor:
  """What a record's teacher outputs weigh in the loss, float32 scalar.

  Args:
    example: a record; its `weight` is a number as text, or empty for 1. For
      several samples of a teacher it is the share of them that agree.
    use: False for 1 in any case. It is 1 in the validation and test splits.
  """
  text = example.get("weight", tf.constant(""))
  if not use:
    text = tf.constant("")
  unweighted = (text == "") | (example["split"] != "train")
  return tf.strings.to_number(tf.where(unweighted, "1", text))


def _label_weight(example: _Example, label_source: str) -> tf.Tensor:
  """The weight of a label: a human one is as good as any other."""
  if label_source == GOLD:
    return tf.constant(1.0)
  return record_weight(example)


def _first_step(texts: Callable[..., dict[str, tf.Tensor]]) -> FirstStep:
  """Makes a SeqIO preprocessor of what gives the texts of records.

  Args:
    texts: takes records, their texts of any shape, and options. It leaves
      `targets` empty of those that have nothing for the task. It is kept as
      the preprocessor's `texts`, which takes many records at once.
  """
  @functools.wraps(texts)
  def first_step(dataset: tf.data.Dataset, **options: Any) -> tf.data.Dataset:
    return _map(dataset, lambda example: texts(example, **options)).filter(
        _plain(lambda example: example["targets"] != ""))

  first_step.texts = texts  # type: ignore[attr-defined]
  return first_step


def _as_features(example: _Example, *values: Any) -> tf.Tensor:
  """Values of records, scalars or as many as there are, as `[..., values]`."""
  shape = tf.shape(example["id"])
  return tf.stack([tf.broadcast_to(x, shape) for x in values], axis=-1)


def _label_texts(
    example: _Example, label_source: str, inputs: tf.Tensor
) -> dict[str, tf.Tensor]:
  """Texts whose target is the label."""
  return {
      "id": example["id"],
      "inputs": inputs,
      "targets": label_text(example, label_source),
      **_labeled_by(example, label_source),
      "task_ids": _as_features(example, LABEL_TASK_ID),
      RECORD_WEIGHTS: _as_features(
          example, _label_weight(example, label_source)),
  }


@_first_step
def label_example(
    example: _Example, *, label_source: str, prefix: str
) -> dict[str, tf.Tensor]:
  """Records -> texts of the label task; records without label are left out."""
  return _label_texts(example, label_source, prefix + example["inputs"])


@_first_step
def rationale_example(
    example: _Example, *, prefix: str = EXPLAIN_PREFIX
) -> dict[str, tf.Tensor]:
  """Records -> texts of the rationale task, where there is a rationale."""
  return {
      "id": example["id"],
      "inputs": prefix + example["inputs"],
      "targets": example["rationale"],
      "task_ids": _as_features(example, RATIONALE_TASK_ID),
      RECORD_WEIGHTS: _as_features(example, record_weight(example)),
  }


@_first_step
def single_example(
    example: _Example, *, label_source: str) -> dict[str, tf.Tensor]:
  """Records -> rationale and label in one target, where there are both.

  In the validation and test splits a record without rationale stays, with its
  label alone: all methods are scored on the same rows.
  """
  label, rationale = label_text(example, label_source), example["rationale"]
  target = tf.strings.strip(rationale + single_target_separator() + label)
  missing = (label == "") | (
      (rationale == "") & (example["split"] == "train"))
  return {
      **_label_texts(example, label_source, example["inputs"]),
      "targets": tf.where(missing, "", target),
      RECORD_WEIGHTS: _as_features(example, record_weight(example)),
  }


@_first_step
def pinto_example(
    example: _Example, *, label_source: str) -> dict[str, tf.Tensor]:
  """Records -> the label of question and rationale; see `with_rationale`."""
  rationale = example["rationale"]
  return _label_texts(example, label_source, example["inputs"] + tf.where(
      rationale == "", "", records.RATIONALE_TEXT + rationale))


@_first_step
def paired_example(
    example: _Example, *, label_source: str) -> dict[str, tf.Tensor]:
  """Records -> texts of the label task and of the rationale task together.

  A record without rationale keeps its label; its `rationale_targets` are
  empty and weigh nothing. So step-by-step sees the labels that fine-tuning
  sees, and differs in the rationales alone.
  """
  return {
      "id": example["id"],
      "inputs": PREDICT_PREFIX + example["inputs"],
      "targets": label_text(example, label_source),
      **_labeled_by(example, label_source),
      "rationale_inputs": EXPLAIN_PREFIX + example["inputs"],
      "rationale_targets": example["rationale"],
      RECORD_WEIGHTS: _as_features(
          example, _label_weight(example, label_source),
          record_weight(example)),
  }


def encode(name: str, texts: tf.Tensor, vocabulary: seqio.Vocabulary
           ) -> tf.RaggedTensor:
  """The token ids of a feature's texts: `[texts]` -> `[texts, (length)]`.

  The letters `</s>` in a text become the EOS id: its parts are encoded apart,
  as SentencePiece would take the letters for text. A decoder's inputs are
  prompts, see `HuggingFaceVocabulary`.
  """
  decoders = hugging_face_vocabulary.followed(vocabulary)
  if decoders is not None:
    is_prompt = name.endswith("inputs")
    return tf.map_fn(
        lambda text: decoders.encode_text_tf(text, prompt=is_prompt), texts,
        fn_output_signature=tf.RaggedTensorSpec([None], tf.int32, 0))
  parts = tf.raw_ops.StringSplitV2(input=texts, sep=records.EOS_TEXT)
  text_of = parts.indices[:, 0]  # [parts], ascending
  tokens = vocabulary.encode_tf(parts.values)  # [parts, (length)]
  ids, splits = tokens.flat_values, tokens.row_splits
  lengths = tf.math.segment_sum(splits[1:] - splits[:-1] + 1, text_of) - 1
  # An EOS id stands between the parts of a text: so many more before each.
  # (Operations of ragged tensors would make this a graph of 230 nodes.)
  ends_before = tf.range(tf.size(text_of, splits.dtype)) - text_of
  at = tf.range(tf.size(ids, splits.dtype))
  part_of = tf.raw_ops.UpperBound(sorted_inputs=splits[None], values=at[None])
  joined = tf.tensor_scatter_nd_update(
      tf.fill([tf.reduce_sum(lengths)], vocabulary.eos_id),
      (at + tf.gather(ends_before, part_of[0] - 1))[:, None], ids)
  return tf.RaggedTensor.from_row_lengths(joined, lengths, validate=False)


def tokenize(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Texts -> token ids int32 [length], the text kept as `*_pretokenized`."""

  def tokenize_example(example: _Example) -> dict[str, tf.Tensor]:
    tokenized = {}
    for name, value in example.items():
      if name in output_features and value.dtype == tf.string:
        tokenized[f"{name}_pretokenized"] = value
        value = encode(
            name, value[None], output_features[name].vocabulary).flat_values
      tokenized[name] = value
    return tokenized

  return _map(dataset, tokenize_example)


def append_eos(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None, *,
    texts: truncation.Texts) -> tf.data.Dataset:
  """Appends the EOS id to every text that wants it and is not empty.

  A decoder's prompt has none: its target goes on where it ends.
  A text that is too long is cut first, so that it ends with EOS all the same,
  or its record is left out: see `cuts`.
  """
  fit = texts.fit(output_features, sequence_length)
  dataset = _map(dataset, fit.example)
  if truncation.long_rationales() != "drop" or truncation.keeps_all() or (
      not sequence_length):
    return dataset
  return dataset.filter(_plain(lambda example: ~(
      texts.is_too_long(example[truncation.TOKENS_CUT])
      & tf.strings.regex_full_match(example["id"], "[^/]*/train/.*"))))


def tokenized_records(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
    *, first_step: FirstStep, source: sources.RecordsSource) -> tf.data.Dataset:
  """Records -> token ids.

  Args:
    dataset: records.
    output_features: of the task.
    first_step: makes the texts of the task's targets.
    source: of the records.
  """
  selected = selection.keep_selected(dataset, source)
  return tokenize(first_step(selected), output_features)


def standard_preprocessors(
    first_step: FirstStep, source: sources.RecordsSource,
    texts: truncation.Texts
) -> Sequence[Any]:
  """The preprocessors of a task whose `texts` `first_step` makes."""
  return [
      functools.partial(
          tokenized_records, first_step=first_step, source=source),
      seqio.CacheDatasetPlaceholder(),
      # Cached tasks have all records.
      functools.partial(selection.keep_selected, source=source),
      functools.partial(append_eos, texts=texts),
  ]
