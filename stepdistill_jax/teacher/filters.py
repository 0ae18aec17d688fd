"""Which records train: filters, and nested subsamples.

Gin binds them, see `stepdistill_jax.data.selection`; what is dropped is
counted under the name of the first filter that drops it.
"""

import collections
from collections.abc import Callable, Iterable
import dataclasses
import hashlib
import math

from stepdistill_jax.answers import consistency, labels, text_overlap
from stepdistill_jax.records import datasets, records
from stepdistill_jax.util import errors

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
        record.label and labels.is_correct(
            dataset, record.teacher_label, record.label)):
      return "only_correct"
    if self.dedupe and is_repeated(record):
      return "dedupe"
    # The others judge rationales; a record without one has nothing to judge.
    if not record.rationale:
      return ""
    if self.only_consistent and consistency.contradicts_label(dataset, record):
      return "only_consistent"
    if self.min_overlap is not None:
      share = text_overlap.share_found(record.rationale, record.inputs)
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
    left_out: ids.
    dropped: reason -> records.
  """

  kept: frozenset[str]
  left_out: list[str]
  dropped: collections.Counter

  @property
  def total(self) -> int:
    return len(self.kept) + len(self.left_out)

  def summary(self) -> str:
    """`720 records: 631 kept; dropped 89 by only_correct`."""
    dropped = ", ".join(
        f"{count:,} by {reason}"
        for reason, count in self.dropped.most_common())
    return (f"{self.total:,} records: {len(self.kept):,} kept"
            + (f"; dropped {dropped}" if dropped else ""))


def subsample_rank(record_id: str, seed: int) -> bytes:
  """A record's place in the order in which subsamples grow.

  Depends on the record and the seed alone, so the records of a smaller share
  are among those of any larger one, in every task.
  """
  return hashlib.sha256(f"{seed}/{record_id}".encode()).digest()


def check_share(share: float) -> float:
  """Returns a share over 0 and up to 1.

  Raises:
    errors.UserError: it is something else.
  """
  if (isinstance(share, bool) or not isinstance(share, (int, float))
      or not 0 < share <= 1):
    raise errors.UserError(
        f"the share of train records is {share!r}, expected a number above 0 "
        "to 1")
  return float(share)


def share_size(total: int, share: float) -> int:
  """Number of records of a share: rounded up, so that none is empty.

  >>> share_size(1000, 0.25), share_size(720, 0.1), share_size(3, 0.01)
  (250, 72, 1)
  """
  # 0.1 * 720 is a little more than 72 in binary.
  return math.ceil(share * total - 1e-9)


def select_share(ids: Iterable[str], share: float, seed: int) -> Selection:
  """Chooses a share of records by their ids alone; see `select`."""
  ordered = list(ids)
  count = share_size(len(ordered), check_share(share))
  if count < len(ordered):
    ordered.sort(key=lambda name: subsample_rank(name, seed))
  left_out = ordered[count:]
  return Selection(frozenset(ordered[:count]), left_out, collections.Counter(
      {"share": len(left_out)} if left_out else {}))


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
    errors.UserError: the share is not one, or a filter cannot judge the data.
  """
  if filters.only_consistent and dataset.label_kind in datasets.FREE_TEXTS:
    raise errors.UserError(
        f"only_consistent cannot judge {dataset.name!r}: its labels are free "
        "texts, and no rationale is known to contradict one; bind "
        "filter_train_records.only_consistent = False")
  reasons = {record.id: filters.reason(dataset, record, count_pieces)
             for record in split_records}
  chosen = select_share(reasons, share, seed)
  filtered = [name for name in chosen.kept if reasons[name]]
  dropped = chosen.dropped + collections.Counter(
      reasons[name] for name in filtered)
  return Selection(
      chosen.kept.difference(filtered), chosen.left_out + filtered, dropped)
