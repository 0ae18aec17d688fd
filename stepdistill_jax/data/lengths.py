"""How long a data set's sequences are, and which lengths a recipe should have.

Counted on the records themselves, in pieces of the task's vocabulary, with
prefixes and EOS, over all splits: a length that holds the longest cuts
nothing. Packed rows are chosen by packing the train records for real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from stepdistill_jax.data import example_order
from stepdistill_jax.records import records
from stepdistill_jax.util import errors

# The two prefixes have the same number of pieces in T5's vocabulary; where
# they have not, the longer one counts.
PREFIXES = ("predict: ", "explain: ")
SEPARATOR = " The answer is "  # Of a target with rationale and label.
PERCENTILES = (50, 95, 99, 100)
_AT_ONCE = 4096  # Records.
_MULTIPLE = 8  # Of a length: what a TPU's vector unit takes at once.
_ROW_MULTIPLE = 32
_ROW_INPUTS = (256, 512, 1024)

# Texts -> number of pieces of each, without EOS at the end.
PieceCounter = Callable[[list[str]], list[int]]


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Lengths of all records, in pieces, each `[records]` int64."""

  inputs: np.ndarray
  label: np.ndarray
  rationale: np.ndarray  # 0 where a record has none.
  single: np.ndarray  # Rationale and label; 0 where a record has no rationale.

  def table(self) -> dict[str, dict[str, float]]:
    """Mean and percentiles of each kind of sequence, absent ones left out."""
    found = {}
    for name, values in vars(self).items():
      values = values[values > 0]
      if values.size:
        found[name] = {"mean": float(values.mean()), **{
            f"p{p}": int(np.percentile(values, p, method="inverted_cdf"))
            for p in PERCENTILES}}
    return found

  def longest(self) -> dict[str, int]:
    """Lengths that cut nothing, as recipes state them, absent ones left out."""
    return {f"MAX_{name.upper()}": _round_up(values.max(), _MULTIPLE)
            for name, values in vars(self).items() if values.any()}


@dataclasses.dataclass(frozen=True)
class PackedRow:
  """Lengths of a packed row, and how full rows of them are.

  Attributes:
    inputs: tokens of a row's inputs.
    targets: tokens of a row's targets.
    pairs: mean pairs a row.
    filled: share of encoder and decoder positions that hold a token.
  """

  inputs: int
  targets: int
  pairs: float
  filled: float


def measure(
    all_records: Iterable[records.Record], count_pieces: PieceCounter,
) -> Lengths:
  """Measures records; those without a label are left out, as in the tasks.

  Raises:
    errors.UserError: no record has a label.
  """
  kept = (r for r in all_records if r.label or r.teacher_label)
  prefix = max(count_pieces(list(PREFIXES)))
  parts = []
  while batch := list(itertools.islice(kept, _AT_ONCE)):
    parts.append(_measure(batch, count_pieces, prefix))
  if not parts:
    raise errors.UserError("no record has a label: there is nothing to train")
  return Lengths(*map(np.concatenate, zip(*parts)))


def _measure(batch: Sequence[records.Record], count_pieces: PieceCounter,
             prefix: int) -> tuple[np.ndarray, ...]:
  """The arrays of `Lengths` of some records, all with a label."""
  labels = [max(r.label, r.teacher_label, key=len) for r in batch]
  inputs = np.array(count_pieces([r.inputs for r in batch])) + prefix + 1
  label = np.array(count_pieces(labels)) + 1
  rationale = np.array(count_pieces([r.rationale for r in batch]))
  rationale = np.where(rationale > 0, rationale + 1, 0)
  single = np.array(count_pieces([
      r.rationale + SEPARATOR + label for r, label in zip(batch, labels)])) + 1
  return inputs, label, rationale, np.where(rationale > 0, single, 0)


def best_row(
    lengths: Lengths, inputs: Sequence[int] = _ROW_INPUTS) -> PackedRow:
  """The fullest packed rows, for pairs in their order.

  Args:
    lengths: of the records to pack.
    inputs: candidates for a row's inputs; those that hold no pair are left
      out, and the smallest that does is added.

  Returns:
    The row with the largest filled share; of like ones the shortest.
  """
  pair_inputs = 2 * lengths.inputs
  pair_targets = lengths.label + lengths.rationale
  least_inputs = _round_up(pair_inputs.max(), _ROW_MULTIPLE)
  least_targets = _round_up(pair_targets.max(), _ROW_MULTIPLE)
  ratio = pair_targets.sum() / pair_inputs.sum()
  best = PackedRow(0, 0, 0.0, filled=-1.0)
  tokens = pair_inputs.sum() + pair_targets.sum()
  order = example_order.ExampleOrder(len(pair_inputs), seed=0, shuffle=False)
  for row_inputs in sorted({least_inputs, *(
      i for i in inputs if i >= least_inputs)}):
    middle = _round_up(row_inputs * ratio, _ROW_MULTIPLE)
    for row_targets in sorted({
        max(least_targets, middle + step * _ROW_MULTIPLE)
        for step in (-1, 0, 1, 2)}):
      rows = example_order.PackedOrder(
          order, pair_inputs, pair_targets, row_inputs, row_targets).num_rows()
      row = PackedRow(
          int(row_inputs), int(row_targets), len(pair_inputs) / rows,
          float(tokens / (rows * (row_inputs + row_targets))))
      if row.filled > best.filled + 0.01:
        best = row
  return best


def _round_up(value: float, multiple: int) -> int:
  return int(-(-value // multiple) * multiple)


def gin_lines(lengths: Lengths, row: PackedRow) -> list[str]:
  """What to put in the data set's gin file."""
  return [
      *(f"{name} = {value}" for name, value in lengths.longest().items()),
      f"PACKED_FEATURE_LENGTHS = {{'inputs': {row.inputs}, "
      f"'targets': {row.targets}}}"]


def as_json(lengths: Lengths, row: PackedRow) -> dict[str, Any]:
  return {"lengths": lengths.table(), "longest": lengths.longest(),
          "packed_row": dataclasses.asdict(row)}
