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
    errors.UserError: the file is not such a model.
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
  statuses: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  # By the names of `_add`.
  numbers: dict[str, float] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(int))
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
    found = self.numbers
    found["records"] += 1
    self.statuses[record.status] += 1
    found["with_gold"] += bool(record.label)
    found["with_teacher_label"] += bool(record.teacher_label)
    found["with_rationale"] += bool(record.rationale)
    found["repeated_inputs"] += filters.is_repeated(record)
    _count_label(self.gold_labels, record.label)
    _count_label(self.teacher_labels, record.teacher_label)
    if record.label and record.teacher_label and not self.own_labels:
      found["compared"] += 1
      found["correct"] += labels_lib.is_correct(
          self.dataset, record.teacher_label, record.label)
    if record.rationale:
      share = text_overlap.share_found(record.rationale, record.inputs)
      if share is not None:
        found["overlap_sum"] += share
        found["overlap_count"] += 1
      if record.teacher_label:
        found["judged"] += 1
        found["states_answer"] += consistency.states_answer(
            self.dataset, record)
        contradicts = consistency.contradicts_label(self.dataset, record)
        found["contradictable"] += contradicts is not None
        found["contradictions"] += bool(contradicts)
        if contradicts and len(self.contradiction_examples) < _EXAMPLES:
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
    found = self.numbers
    if found["with_teacher_label"] or found["with_rationale"]:
      return True
    return bool(found["with_gold"]) and set(self.statuses) <= {
        parsing.NO_COMPLETION}

  def as_json(self) -> dict[str, Any]:
    """The numbers; None for what could not be measured."""
    found = self.numbers
    return {
        "records": found["records"],
        "statuses": dict(self.statuses.most_common()),
        "with_human_label": found["with_gold"],
        "with_teacher_label": found["with_teacher_label"],
        "with_rationale": found["with_rationale"],
        "teacher_accuracy": {
            "correct": found["correct"] if found["compared"] else None,
            "of_all_with_human_label": found["with_gold"],
            "of_both_labels": found["compared"],
            "accuracy": import_counts.share(
                found["correct"], found["with_gold"])
                        if found["compared"] else None,
            "why_not": import_counts.why_no_accuracy(
                found["with_gold"], found["compared"], self.own_labels)},
        "label_balance": {
            "human": _balance(self.gold_labels),
            "teacher": _balance(self.teacher_labels)},
        "lengths": {name: _percentiles(lengths)
                    for name, lengths in self.lengths.items()},
        "repeated_inputs": found["repeated_inputs"],
        "rationales_contradicting_their_label": {
            "count": found["contradictions"]
                     if found["contradictable"] else None,
            "of": found["contradictable"],
            "share": import_counts.share(
                found["contradictions"], found["contradictable"]),
            "examples": self.contradiction_examples},
        "rationales_stating_the_answer": {
            "count": found["states_answer"] if found["judged"] else None,
            "of": found["judged"],
            "share": import_counts.share(
                found["states_answer"], found["judged"])},
        "mean_overlap_with_inputs": import_counts.share(
            found["overlap_sum"], found["overlap_count"]),
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
