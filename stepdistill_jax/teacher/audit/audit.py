"""What is in a data set of distillation records, as numbers.

Two sources: what the import counted of the completions (`import.json`: both
sets of parsing rules, on the source's own splits), and the records themselves
(lengths in pieces, agreement of rationales with labels and inputs). One pass
in bounded memory; `docs/audit.md` explains how to read it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import heapq
import os
from typing import Any
import zlib

from stepdistill_jax.answers import (
  consistency,
  labels as labels_lib,
  parsing,
  text_overlap,
)
from stepdistill_jax.records import datasets, records, vocabulary_losses
from stepdistill_jax.teacher import filters
from stepdistill_jax.teacher.importing import counts as import_counts

PERCENTILES = (50, 90, 95, 99, 100)
_SAMPLES = 20
_EXAMPLES = 3
# Labels told apart; a data set of more has free labels, and its balance says
# nothing.
_MAX_LABELS = 1000
_SHOWN_LABELS = 10
_RATIONALES_CHECKED = 2000
_BATCH = 2048  # Records counted at a time, for the tokenizer's sake.

# Texts -> number of pieces of each.
PieceCounter = Callable[[list[str]], list[int]]


def count_words(texts: list[str]) -> list[int]:
  """Stands in for pieces where there is no vocabulary."""
  return [len(text.split()) for text in texts]


def piece_counter(vocabulary_path: str | os.PathLike) -> PieceCounter:
  """Counts the pieces of a SentencePiece model, without EOS.

  Raises:
    errors.UserError: the file is no such model.
  """
  model = vocabulary_losses.load(vocabulary_path)

  def count(texts: list[str]) -> list[int]:
    # `</s>` between premise and hypothesis is one id.
    parts, owners = [], []
    for i, text in enumerate(texts):
      split = text.split(records.EOS_TEXT)
      parts += split
      owners += [i] * len(split)
    counts = [-1] * len(texts)
    for owner, ids in zip(owners, model.encode(parts, num_threads=2)):
      counts[owner] += len(ids) + 1
    return counts

  return count


@dataclasses.dataclass
class SplitAudit:
  """The numbers of one split's records."""

  dataset: datasets.Dataset
  count_pieces: PieceCounter
  own_labels: bool = False  # The teacher's labels are the human ones.
  records: int = 0
  statuses: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  with_gold: int = 0
  with_teacher_label: int = 0
  with_rationale: int = 0
  compared: int = 0  # Have both labels.
  correct: int = 0
  repeated_inputs: int = 0
  contradictions: int = 0
  contradictable: int = 0  # Of them it can be known.
  states_answer: int = 0
  judged: int = 0  # Have a teacher's label and a rationale.
  overlap_sum: float = 0.0
  overlap_count: int = 0
  gold_labels: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  teacher_labels: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  lengths: dict[str, collections.Counter] = dataclasses.field(
      default_factory=lambda: {
          name: collections.Counter()
          for name in ("inputs", "label", "teacher_label", "rationale")})
  contradiction_examples: list[str] = dataclasses.field(default_factory=list)
  # (sampling key, id, record); the records with the smallest keys.
  samples: list = dataclasses.field(default_factory=list)

  def add_all(self, split_records: Iterable[records.Record]) -> None:
    batch = []
    for record in split_records:
      batch.append(record)
      if len(batch) == _BATCH:
        self._add_batch(batch)
        batch = []
    if batch:
      self._add_batch(batch)

  def _add_batch(self, batch: list[records.Record]) -> None:
    for name, lengths in self.lengths.items():
      texts = [text for record in batch if (text := getattr(record, name))]
      lengths.update(self.count_pieces(texts))
    for record in batch:
      self._add(record)

  def _add(self, record: records.Record) -> None:
    self.records += 1
    self.statuses[record.status] += 1
    self.with_gold += bool(record.label)
    self.with_teacher_label += bool(record.teacher_label)
    self.with_rationale += bool(record.rationale)
    self.repeated_inputs += filters.is_repeated(record)
    _count_label(self.gold_labels, record.label)
    _count_label(self.teacher_labels, record.teacher_label)
    if record.label and record.teacher_label and not self.own_labels:
      self.compared += 1
      self.correct += labels_lib.is_correct(
          self.dataset, record.teacher_label, record.label)
    if record.rationale:
      share = text_overlap.share_found(record.rationale, record.inputs)
      if share is not None:
        self.overlap_sum += share
        self.overlap_count += 1
      if record.teacher_label:
        self.judged += 1
        self.states_answer += consistency.states_answer(self.dataset, record)
        contradicts = consistency.contradicts_label(self.dataset, record)
        self.contradictable += contradicts is not None
        if contradicts:
          self.contradictions += 1
          if len(self.contradiction_examples) < _EXAMPLES:
            self.contradiction_examples.append(
                f"{record.origin}: label {record.teacher_label!r}, "
                f"{record.rationale[:300]!r}")
    # A fixed choice that does not depend on the order of the shards.
    key = zlib.crc32(record.id.encode("utf-8"))
    item = (-key, record.id, record)
    if len(self.samples) < _SAMPLES:
      heapq.heappush(self.samples, item)
    elif item[:2] > self.samples[0][:2]:
      heapq.heapreplace(self.samples, item)

  @property
  def is_usable(self) -> bool:
    """Whether a task can be trained on, or scored with, these records."""
    if self.with_teacher_label or self.with_rationale:
      return True
    return bool(self.with_gold) and set(self.statuses) <= {
        parsing.NO_COMPLETION}

  def as_json(self) -> dict[str, Any]:
    """The numbers; None for what could not be measured."""
    return {
        "records": self.records,
        "statuses": dict(self.statuses.most_common()),
        "with_human_label": self.with_gold,
        "with_teacher_label": self.with_teacher_label,
        "with_rationale": self.with_rationale,
        "teacher_accuracy": {
            "correct": self.correct if self.compared else None,
            "of_all_with_human_label": self.with_gold,
            "of_both_labels": self.compared,
            "accuracy": import_counts.share(self.correct, self.with_gold)
                        if self.compared else None,
            "why_not": import_counts.why_no_accuracy(
                self.with_gold, self.compared, self.own_labels)},
        "label_balance": {
            "human": _balance(self.gold_labels),
            "teacher": _balance(self.teacher_labels)},
        "lengths": {name: _percentiles(lengths)
                    for name, lengths in self.lengths.items()},
        "repeated_inputs": self.repeated_inputs,
        "rationales_contradicting_their_label": {
            "count": self.contradictions if self.contradictable else None,
            "of": self.contradictable,
            "share": import_counts.share(
                self.contradictions, self.contradictable),
            "examples": self.contradiction_examples},
        "rationales_stating_the_answer": {
            "count": self.states_answer if self.judged else None,
            "of": self.judged,
            "share": import_counts.share(self.states_answer, self.judged)},
        "mean_overlap_with_inputs": import_counts.share(
            self.overlap_sum, self.overlap_count),
    }


def audit(
    records_dir: str | os.PathLike, dataset: str, teacher: str, *,
    vocabulary: str | os.PathLike | None,
    progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], Mapping[str, SplitAudit]]:
  """Audits the records of a data set by a teacher.

  Args:
    records_dir: the folder of all records.
    dataset: name of the data set.
    teacher: name of the teacher.
    vocabulary: a SentencePiece model, in whose pieces lengths are given; None
      for words.
    progress: called with the numbers of records done and of all.

  Returns:
    The audit as JSON values, and the splits' own objects for the report.
  """
  spec = datasets.of_records(records_dir, dataset, teacher)
  count_pieces = piece_counter(vocabulary) if vocabulary else count_words
  own_labels = records.has_own_labels(records_dir, dataset, teacher)
  splits = {}
  labels = vocabulary_losses.LabelCheck()
  rationales = vocabulary_losses.LabelCheck(most=_RATIONALES_CHECKED)
  done, sizes = 0, records.split_sizes(records_dir, dataset, teacher)
  for split in sizes:
    split_audit = splits[split] = SplitAudit(
        spec, count_pieces, own_labels)

    def counted(split=split):
      nonlocal done
      for record in records.read_records(
          records_dir, dataset, teacher, split):
        labels.add(record.label, record.teacher_label)
        rationales.add(record.rationale)
        yield record
        done += 1
        if progress is not None:
          progress(done, sum(sizes.values()))

    split_audit.add_all(counted())
  info = records.import_info(records_dir, dataset, teacher)
  if info and info.get("counts_version") != import_counts.VERSION:
    info = {"notes": ["these records were written by another version of this "
                      "program; import them again to see its counts"]}
  return {
      "dataset": dataset, "teacher": teacher,
      "folder": str(records.version_dir(records_dir, dataset, teacher)),
      "unit_of_lengths": "pieces" if vocabulary else "words",
      "import": info,
      "labels_in_vocabulary": (
          labels.losses(vocabulary).lines()
          + vocabulary_losses.rationale_lines(
              rationales.losses(vocabulary)) if vocabulary else None),
      "leaked_inputs": info.get("leaked_inputs"),
      "usable": any(split.is_usable for split in splits.values()),
      "splits": {name: split.as_json() for name, split in splits.items()},
  }, splits


def _count_label(counter: collections.Counter, label: str) -> None:
  if not label:
    return
  if label not in counter and len(counter) >= _MAX_LABELS:
    label = _OTHER_LABELS
  counter[label] += 1


_OTHER_LABELS = "(other labels)"


def _balance(counter: collections.Counter) -> dict[str, Any]:
  distinct = len(counter)
  return {
      "distinct": f"over {_MAX_LABELS}" if _OTHER_LABELS in counter
                  else distinct,
      "most_common": dict(counter.most_common(_SHOWN_LABELS)),
  }


def _percentiles(lengths: collections.Counter) -> dict[str, float]:
  """Mean and percentiles of a histogram; nearest rank, so 100 is the max."""
  total = sum(lengths.values())
  if not total:
    return {}
  result = {"mean": sum(n * count for n, count in lengths.items()) / total}
  ordered = sorted(lengths.items())
  for percentile in PERCENTILES:
    rank, seen = -(-percentile * total // 100), 0
    for length, count in ordered:
      seen += count
      if seen >= rank:
        result[f"p{percentile}"] = length
        break
  return result
