"""What is in a data set of distillation records, as numbers.

Two sources: what the import counted of the completions (`import.json`: both
sets of parsing rules, on the source's own splits), and the records themselves
(lengths in pieces, agreement of rationales with labels and inputs). One pass
in bounded memory; `docs/audit.md` explains how to read it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
import heapq
import itertools
import operator
import os
from typing import Any
import zlib

import numpy as np

from stepdistill_jax.answers import (
  consistency,
  labels as labels_lib,
  parsing,
  text_overlap,
)
from stepdistill_jax.records import (
  datasets,
  questions,
  records,
  vocabulary_losses,
)
from stepdistill_jax.teacher import filters
from stepdistill_jax.teacher.importing import counts as import_counts

PERCENTILES = (50, 90, 95, 99, 100)
_SAMPLES = 20
_EXAMPLES = 3
# Labels that are counted apart; a data set with more has free labels, whose
# balance says nothing.
_MAX_LABELS = 1000
_SHOWN_LABELS = 10
_OTHER_LABELS = "(other labels)"
_RATIONALES_CHECKED = 2000
_BATCH = 2048  # Records counted at a time, for the tokenizer's sake.


def count_words(texts: list[str]) -> list[int]:
  """Stands in for pieces where there is no vocabulary."""
  return [len(text.split()) for text in texts]


def piece_counter(vocabulary_path: str | os.PathLike) -> filters.PieceCounter:
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


class SplitAudit:
  """The numbers of one split's records.

  Attributes:
    dataset: theirs.
    own_labels: the teacher's labels are the human ones.
    lengths: name of a text to the histogram of its lengths.
    samples: of the records with the smallest keys (key, id, record): a fixed
      choice that does not depend on the order of the shards.
  """

  def __init__(self, dataset: datasets.Dataset,
               count_pieces: filters.PieceCounter, own_labels: bool = False):
    self.dataset, self.own_labels = dataset, own_labels
    self._count_pieces = count_pieces
    self._statuses: Counter[str] = Counter()
    self._numbers: Counter[str] = Counter()  # By the names of `_add`.
    self._labels = {"human": Counter(), "teacher": Counter()}
    self.lengths = {name: Counter() for name in (
        "inputs", "label", "teacher_label", "rationale")}
    self._contradictions: list[str] = []
    self.samples: list[tuple[int, str, records.Record]] = []

  def add_all(self, split_records: Iterable[records.Record]) -> None:
    remaining = iter(split_records)
    while batch := list(itertools.islice(remaining, _BATCH)):
      for name, lengths in self.lengths.items():
        lengths.update(self._count_pieces(
            [text for record in batch if (text := getattr(record, name))]))
      for record in batch:
        self._add(record)
      keyed = ((zlib.crc32(record.id.encode("utf-8")), record.id, record)
               for record in batch)
      self.samples = heapq.nsmallest(
          _SAMPLES, itertools.chain(self.samples, keyed),
          key=lambda item: item[:2])

  def _add(self, record: records.Record) -> None:
    found = self._numbers
    found["records"] += 1
    self._statuses[record.status] += 1
    found["with_gold"] += bool(record.label)
    found["with_teacher_label"] += bool(record.teacher_label)
    found["with_rationale"] += bool(record.rationale)
    found["repeated_inputs"] += filters.is_repeated(record)
    _count_label(self._labels["human"], record.label)
    _count_label(self._labels["teacher"], record.teacher_label)
    if record.label and record.teacher_label and not (
        self.own_labels or self.dataset.label_kind in datasets.LONG_TEXTS):
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
        if contradicts and len(self._contradictions) < _EXAMPLES:
          self._contradictions.append(
              f"{record.origin}: label {record.teacher_label!r}, "
              f"{record.rationale[:300]!r}")

  @property
  def is_usable(self) -> bool:
    """Whether a task can be trained on, or scored with, these records."""
    found = self._numbers
    if found["with_teacher_label"] or found["with_rationale"]:
      return True
    return bool(found["with_gold"]) and set(self._statuses) <= {
        parsing.NO_COMPLETION}

  def as_json(self) -> dict[str, Any]:
    """The numbers; None for what could not be measured."""
    found = self._numbers
    compared = found["compared"]
    return {
        "records": found["records"],
        "statuses": dict(self._statuses.most_common()),
        "with_human_label": found["with_gold"],
        "with_teacher_label": found["with_teacher_label"],
        "with_rationale": found["with_rationale"],
        "teacher_accuracy": {
            "correct": found["correct"] if compared else None,
            "of_all_with_human_label": found["with_gold"],
            "of_both_labels": compared,
            "accuracy": import_counts.share(
                found["correct"], found["with_gold"] if compared else 0),
            "why_not": import_counts.why_no_accuracy(
                found["with_gold"], compared, self.own_labels,
                self.dataset.label_kind in datasets.LONG_TEXTS)},
        "label_balance": {
            name: {"distinct": f"over {_MAX_LABELS}"
                               if _OTHER_LABELS in labels else len(labels),
                   "most_common": dict(labels.most_common(_SHOWN_LABELS))}
            for name, labels in self._labels.items()},
        "lengths": {name: _percentiles(lengths)
                    for name, lengths in self.lengths.items()},
        "repeated_inputs": found["repeated_inputs"],
        "rationales_contradicting_their_label": {
            **self._share("contradictions", "contradictable"),
            "examples": self._contradictions},
        "rationales_stating_the_answer": self._share("states_answer", "judged"),
        "mean_overlap_with_inputs": import_counts.share(
            found["overlap_sum"], found["overlap_count"]),
    }

  def _share(self, part: str, whole: str) -> dict[str, Any]:
    count, of = self._numbers[part], self._numbers[whole]
    return {"count": count if of else None, "of": of,
            "share": import_counts.share(count, of)}


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
    split_audit = splits[split] = SplitAudit(spec, count_pieces, own_labels)

    def counted(split=split):
      nonlocal done
      for record in records.read_records(records_dir, dataset, teacher, split):
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
      "also_elsewhere": questions.overlaps(records_dir, dataset, teacher),
      "usable": any(split.is_usable for split in splits.values()),
      "splits": {name: split.as_json() for name, split in splits.items()},
  }, splits


def _count_label(counter: Counter[str], label: str) -> None:
  if label not in counter and len(counter) >= _MAX_LABELS:
    label = label and _OTHER_LABELS
  counter.update([label] if label else [])


def _percentiles(lengths: Counter[int]) -> dict[str, float]:
  """Mean and percentiles of a histogram; nearest rank, so 100 is the max."""
  total = lengths.total()
  if not total:
    return {}
  values, counts = zip(*sorted(lengths.items()))
  ranks = [-(-percentile * total // 100) for percentile in PERCENTILES]
  places = np.searchsorted(np.cumsum(counts), ranks)
  return {"mean": sum(map(operator.mul, values, counts)) / total,
          **{f"p{percentile}": values[place]
             for percentile, place in zip(PERCENTILES, places)}}
