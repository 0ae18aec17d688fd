"""Which records train: filters, and nested subsamples.

Gin binds `data.select_records.*`, see `stepdistill_jax.data.selection`; what
is dropped is counted under the name of the first filter that drops it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from typing import Callable, Iterable

from stepdistill_jax import errors
from stepdistill_jax.teacher import consistency
from stepdistill_jax.teacher import datasets
from stepdistill_jax.teacher import records

# Texts -> number of pieces of each.
PieceCounter = Callable[[list[str]], list[int]]


@dataclasses.dataclass(frozen=True)
class Filters:
  """The filters that are on; by default none.

  Attributes:
    only_ok: drop records whose completion did not parse (status not `ok`).
    only_correct: drop records whose teacher label is missing or not the human
      one.
    only_consistent: drop rationales that name or compute another answer than
      their own label.
    max_pieces: drop rationales of more pieces than this, EOS not counted.
    min_overlap: drop rationales that share less of their words than this with
      their inputs, from 0 to 1.
    dedupe: keep the first of the records with the same inputs in a split.
  """

  only_ok: bool = False
  only_correct: bool = False
  only_consistent: bool = False
  max_pieces: int | None = None
  min_overlap: float | None = None
  dedupe: bool = False

  def __post_init__(self):
    if self.max_pieces is not None and self.max_pieces < 1:
      raise errors.UserError(
          f"max_pieces is {self.max_pieces}, expected 1 or more")
    if self.min_overlap is not None and not 0 <= self.min_overlap <= 1:
      raise errors.UserError(
          f"min_overlap is {self.min_overlap}, expected a share from 0 to 1")

  @property
  def any_on(self) -> bool:
    return self != Filters()

  def reason(self, dataset: datasets.Dataset, record: records.Record,
             count_pieces: PieceCounter | None = None) -> str:
    """The name of the first filter that drops the record; "" if none does."""
    if self.only_ok and record.status != records.OK:
      return "only_ok"
    if self.only_correct and not (
        record.label and dataset.is_correct(
            record.teacher_label, record.label)):
      return "only_correct"
    if self.dedupe and is_repeated(record):
      return "dedupe"
    # The others judge rationales; a record without one has nothing to judge.
    if not record.rationale:
      return ""
    if self.only_consistent and consistency.contradicts_label(dataset, record):
      return "only_consistent"
    if self.min_overlap is not None:
      share = consistency.overlap(record.rationale, record.inputs)
      if share is None or share < self.min_overlap:
        return "min_overlap"
    if self.max_pieces is not None:
      # A piece has a character or more.
      if len(record.rationale) > self.max_pieces and (
          count_pieces([record.rationale])[0] > self.max_pieces):
        return "max_pieces"
    return ""


def is_repeated(record: records.Record) -> bool:
  """True if a record with the same inputs came before it in its split."""
  return "-" in record.id.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which of a split's records are used, and why the others are not.

  Attributes:
    kept: ids.
    total: records of the split.
    dropped: reason -> records.
  """

  kept: frozenset[str]
  total: int
  dropped: collections.Counter

  def summary(self) -> str:
    """`720 records: 631 kept; dropped 89 by only_correct`."""
    dropped = ", ".join(
        f"{count:,} by {reason}"
        for reason, count in self.dropped.most_common())
    return (f"{self.total:,} records: {len(self.kept):,} kept"
            + (f"; dropped {dropped}" if dropped else ""))


def subsample_rank(record_id: str, seed: int) -> str:
  """A record's place in the order in which subsamples grow.

  Depends on the record and the seed alone, so the records of a smaller share
  are among those of any larger one, in every task.
  """
  return hashlib.sha256(f"{seed}/{record_id}".encode("utf-8")).hexdigest()


def select(
    split_records: Iterable[records.Record], dataset: datasets.Dataset, *,
    filters: Filters = Filters(), share: float = 1.0, seed: int = 0,
    count_pieces: PieceCounter | None = None) -> Selection:
  """Chooses records: first a share of all of them, then the filters.

  The share is of all records, as in the papers' figures over shares of the
  data; filters do not change which records a share has.

  Args:
    split_records: all records of a split.
    dataset: their data set.
    filters: which filters are on.
    share: of the records, over 0 and up to 1.
    seed: of the order in which subsamples grow.
    count_pieces: needed for `max_pieces`.

  Raises:
    errors.UserError: the share is not one.
  """
  if not 0 < share <= 1:
    raise errors.UserError(f"share is {share}, expected over 0 and up to 1")
  reasons: dict[str, str] = {}
  for record in split_records:
    reasons[record.id] = filters.reason(dataset, record, count_pieces)
  total = len(reasons)
  chosen: Iterable[str] = reasons
  dropped: collections.Counter[str] = collections.Counter()
  if share < 1:
    # Rounded up, so that a small share of a small split is not empty.
    count = math.ceil(share * total)
    chosen = sorted(
        reasons, key=lambda name: subsample_rank(name, seed))[:count]
    dropped["share"] = total - count
  kept = set()
  for name in chosen:
    if reasons[name]:
      dropped[reasons[name]] += 1
    else:
      kept.add(name)
  return Selection(frozenset(kept), total, dropped)
