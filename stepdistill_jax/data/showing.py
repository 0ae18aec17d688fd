"""A task's examples as training has them: texts, ids, weights, what is cut."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.data import (
  feature_converter,
  hugging_face_vocabulary,
  pipelines,
  record_check,
  sources,
  truncation,
)
from stepdistill_jax.records import records
from stepdistill_jax.util import errors

# Records that are read to count what a task leaves out or cuts.
COUNTED = 20_000


@dataclasses.dataclass(frozen=True)
class Config:
  """Which examples, as a `utils.DatasetConfig` has it.

  Attributes:
    split: of the task.
    task_feature_lengths: feature -> tokens; empty cuts nothing.
    pack: whether lengths are those of packed rows.
    use_cached: whether SeqIO's cache is read.
    seed: of random preprocessing.
    trim_output_features: as in SeqIO.
  """

  split: str = "train"
  task_feature_lengths: Mapping[str, int] = dataclasses.field(
      default_factory=dict)
  pack: bool = False
  use_cached: bool = False
  seed: int | None = 0
  trim_output_features: bool = True


@dataclasses.dataclass(frozen=True)
class Token:
  """A token of a sequence.

  Attributes:
    id: in the task's vocabulary.
    piece: what it stands for.
    weight: in the loss, within the mean over its task's tokens, times the
      task's own weight; None for tokens that are only read.
    task: 1 for a label, 2 for a rationale; 0 for tokens that are only read.
  """

  id: int
  piece: str
  weight: float | None = None
  task: int = 0


@dataclasses.dataclass(frozen=True)
class TokenSequence:
  """A feature of an example.

  Attributes:
    name: of the feature.
    text: before it became tokens.
    tokens: as training has them.
    cut: number of tokens that it lost; None where that is not known.
    limit: the most tokens that it may have; None for no limit.
  """

  name: str
  text: str
  tokens: Sequence[Token]
  cut: int | None
  limit: int | None

  def rows(self) -> list[tuple[str, int, float | str]]:
    """(piece, id, weight) of each token, for a table."""
    return [(t.piece, t.id, "read only" if t.weight is None else t.weight)
            for t in self.tokens]

  def notes(self) -> str:
    """Its length, what it lost and what its tokens weigh, in words."""
    parts = [f"{len(self.tokens)} tokens" + (
        f" of at most {self.limit}" if self.limit is not None else "")]
    if self.cut:
      parts.append(f"{self.cut} cut")
    runs = [(weight, len(list(equal))) for weight, equal in itertools.groupby(
        t.weight for t in self.tokens if t.weight is not None)]
    if runs:
      parts.append("weight " + ", ".join(
          f"{weight:g}" + (f" ({count} tokens)" if len(runs) > 1 else "")
          for weight, count in runs))
    return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Example:
  """An example of a task: its id ("" if it has none) and its features.

  `left_out` says why training leaves it out; "" if it does not.
  """

  id: str
  sequences: Sequence[TokenSequence]
  left_out: str = ""

  @property
  def most(self) -> float:
    """The largest weight of a token."""
    return max((token.weight or 0.0 for sequence in self.sequences
                for token in sequence.tokens), default=0.0)


def piece(vocabulary: seqio.Vocabulary, token: int) -> str:
  """What a token stands for, with what marks its beginning of a word."""
  if token == getattr(vocabulary, "eos_id", None):
    return "</s>"
  if hugging_face_vocabulary.followed(vocabulary) is None and isinstance(
      vocabulary, seqio.SentencePieceVocabulary):
    model = vocabulary.tokenizer
    if token < model.GetPieceSize():
      return str(model.IdToPiece(int(token)))
  return str(vocabulary.decode([int(token)])) or f"<{token}>"


def examples(
    task: seqio.Task, cfg: Any, count: int,
    task_weights: Sequence[float] = ()) -> list[Example]:
  """The first examples of a task.

  Args:
    task: of SeqIO; what others' tasks lose is not known.
    cfg: a `Config`, or a `utils.DatasetConfig`.
    count: the most examples.
    task_weights: of the tasks 1, 2, ..., by which their tokens' are
      multiplied; none for 1.
  """
  if cfg.split.partition("[")[0] not in (task.splits or ()):
    raise errors.UserError(errors.missing_split_message(
        cfg.split, records.SPLITS, task.splits or (), f"task {task.name}"))
  features = [name for name, feature in task.output_features.items()
              if not isinstance(
                  feature.vocabulary, seqio.PassThroughVocabulary)]
  lengths = cfg.task_feature_lengths or {}
  raw = list(pipelines.build(
      lambda: truncation.read(task, cfg).take(count)).as_numpy_iterator())
  texts = truncation.texts_of(task)
  if texts is not None:  # SeqIO sorts them.
    features.sort(key=lambda name: ([*texts.names, name].index(name), name))
  limits: dict[str, int | None] = {
      name: lengths.get(name) for name in features}
  if texts is not None:
    with truncation.in_rows(cfg.pack):
      limits.update(texts.limits(lengths))
  for name in features:  # As the feature converter has it.
    if limits[name] is None:
      limits[name] = lengths.get(
          "inputs" if name.endswith("inputs") else "targets")
  found = []
  for example in raw:
    late = {}  # What the feature converter cuts.
    for name in features:
      late[name] = max(len(example[name]) - (limits[name] or 2**31), 0)
      example[name] = example[name][:limits[name]]
    weights = _weights(example, features, task_weights)
    lost = {}
    if texts is not None:
      lost = dict(zip(texts.names, map(int, example[truncation.TOKENS_CUT])))
    left_out = ""
    if texts is not None and cfg.split.startswith("train") and (
        truncation.long_rationales() == "drop"
        and bool(texts.is_too_long(example[truncation.TOKENS_CUT]))):
      left_out = "its rationale is too long, and LONG_RATIONALE is 'drop'"
    sequences = []
    for name in features:
      vocabulary = task.output_features[name].vocabulary
      ids = np.asarray(example[name]).reshape(-1)
      of_loss = weights.get(name)
      text = example.get(f"{name}_pretokenized", b"")
      sequences.append(TokenSequence(
          name, text.decode("utf-8", "replace") if isinstance(text, bytes)
          else str(text),
          [Token(int(i), piece(vocabulary, int(i)),
                 *((float(of_loss[1][at]), of_loss[0]) if of_loss else ()))
           for at, i in enumerate(ids)],
          max(lost[name], 0) + late[name] if name in lost else
          late[name] or None, limits[name]))
    name = example.get("id", b"")
    found.append(Example(
        name.decode() if isinstance(name, bytes) else str(name), sequences,
        left_out))
  return found


def _weights(
    example: Mapping[str, Any], features: Sequence[str],
    task_weights: Sequence[float]) -> dict[str, tuple[int, np.ndarray]]:
  """Target feature -> (its task, weights `[length]`), by the run's converter.
  """
  prefixes = [name.removesuffix("targets") for name in features
              if name.endswith("targets")]
  if any(f"{prefix}inputs" not in features for prefix in prefixes):
    return {}  # Of a task with features of its own.
  ids = {name: np.asarray(example[name], np.int32) for name in features}
  for name in (feature_converter.TASK_IDS, feature_converter.RECORD_WEIGHTS):
    if name in example:
      ids[name] = example[name]
  length = max((value.size for value in ids.values()), default=1)
  converter = feature_converter.StepDistillFeatureConverter(
      pack=False, join_pairs=False, target_prefixes=prefixes)
  ds = pipelines.build(lambda: converter(
      tf.data.Dataset.from_tensors(ids), {"inputs": length,
                                          "targets": length}))
  row = next(iter(ds.as_numpy_iterator()))
  weights = np.atleast_2d(row["decoder_loss_weights"])  # [K, length]
  tasks = np.atleast_2d(row["decoder_task_ids"])
  found = {}
  for k, prefix in enumerate(prefixes):
    size = ids[f"{prefix}targets"].size
    task = int(tasks[k].max(initial=0)) or k + 1
    scale = task_weights[task - 1] if task <= len(task_weights) else 1.0
    found[f"{prefix}targets"] = task, weights[k, :size] * scale
  return found


@dataclasses.dataclass(frozen=True)
class Figures:
  """What a task has of a split.

  Attributes:
    task: its name.
    split: of its records.
    records: number of the split's records; None if it is not known.
    counted: records that the counts are of.
    left_out: reason -> records that the task leaves out.
    without_rationale: reason -> records that train their label alone.
    examples: of the counted records, in training.
    cut: kind of text -> {"cut", "length", "median", "most"}, in tokens.
    refused: why training refuses them; "" if it does not.
  """

  task: str
  split: str
  records: int | None
  counted: int
  left_out: Mapping[str, int]
  without_rationale: Mapping[str, int]
  examples: int
  cut: Mapping[str, Mapping[str, Any]]
  refused: str = ""

  def lines(self) -> list[str]:
    """In words."""
    known = "" if self.records is None else f"{self.records:,} records, "
    only = ("" if self.records in (None, self.counted)
            else f" of the first {self.counted:,} records")
    lines = [f"{self.task}, {self.split}: {known}{self.examples:,} examples"
             f"{only}"]
    lines += [f"  left out: {n:,} {reason}"
              for reason, n in self.left_out.items()]
    lines += [f"  label alone: {n:,} {reason}"
              for reason, n in self.without_rationale.items()]
    for kind, found in self.cut.items():
      if found["cut"]:
        lines.append(
            f"  cut: {found['cut']:,} {kind} longer than {found['length']} "
            f"tokens, by {found['median']:g} in the median and "
            f"{found['most']} at most")
      elif found["length"] is not None:
        lines.append(f"  {kind}: none is longer than {found['length']} tokens")
    if self.refused:
      lines.append(f"  a training would refuse: {self.refused}")
    return lines


def figures(task: seqio.Task, cfg: Any, most: int = COUNTED) -> Figures:
  """Counts what a task leaves out and cuts of its first `most` records."""
  split = cfg.split.partition("[")[0]
  source = task.source
  size = source.num_input_examples(split) if split in task.splits else None
  left_out: collections.Counter[str] = collections.Counter()
  alone: collections.Counter[str] = collections.Counter()
  counted = min(size, most) if size is not None else most
  texts = truncation.texts_of(task)
  if texts is not None and isinstance(source, sources.RecordsSource):
    data_dir, teacher = source.resolve()
    needs_human = bool(re.search(record_check.NEEDS_GOLD, task.name))
    for record in itertools.islice(records.read_records(
        data_dir, source.dataset, teacher, split), most):
      no_label, no_rationale = _missing(record, needs_human)
      if texts.labels and no_label:
        left_out[no_label] += 1
      elif texts.rationales and no_rationale:
        paired = bool(texts.labels - texts.rationales)
        stays = texts.labels and record.split != "train"
        (alone if paired or stays else left_out)[no_rationale] += 1
  lost = list(pipelines.build(lambda: truncation.read(task, cfg).map(
      lambda example: example.get(truncation.TOKENS_CUT, 0)).take(most).batch(
          2000)).as_numpy_iterator())
  number = sum(map(len, lost))
  cut: dict[str, Any] = {}
  refused = ""
  judge = truncation.Judge.of(
      task, cfg, refuses=False, says=False, looked_at=" (as shown)")
  if judge is not None:
    _, record_of_cuts = judge(lost)
    kept = record_of_cuts.pop("kept")
    cut = {kind: found for kind, found in record_of_cuts.items()
           if isinstance(found, dict)}
    if kept < number:
      left_out["whose rationale is too long (LONG_RATIONALE is 'drop')"] = (
          number - kept)
      number = kept
    try:
      dataclasses.replace(judge, refuses=True)(lost)
    except errors.UserError as error:
      refused = str(error)
  selected = counted - number - sum(left_out.values())
  if texts is not None and selected > 0:
    left_out["not chosen (TRAIN_SHARE, filter_train_records)"] = selected
  return Figures(
      task.name, cfg.split, size, counted, dict(left_out.most_common()),
      dict(alone.most_common()), number, cut, refused)


def _missing(record: records.Record, needs_human: bool) -> tuple[str, str]:
  """Why a record has no label for a task, and no rationale; "" if it has."""
  why = ("" if record.status == records.OK
         else f" (completion: {record.status})")
  label = record.label if needs_human else record.teacher_label
  if not needs_human and record.split != "train":
    label = record.label or label
  whose = "human label" if needs_human else f"teacher's label{why}"
  return ("" if label else f"without a {whose}",
          "" if record.rationale else f"without a rationale{why}")
