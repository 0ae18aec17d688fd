"""Which examples are in each batch: a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
import math
from typing import Any

import numpy as np

from stepdistill_jax.data import (
  example_order,
  example_store,
  feature_converter,
  pair_rows,
)

_GROUP = 64  # Pairs, see `Batches._group`.


class Batches:
  """Says which examples are in a host's share of each global batch.

  Made of a `utils.DatasetConfig`, the examples of its task or tasks with their
  rates, what gives a record's size in rows (`row_sizes` of the feature
  converter), and which host's share it is.

  Attributes:
    rows: of a share, as `fit_rows` found them; None without it.
    last_step: of a run with such rows; they hold no later step's batch.
  """

  rows: pair_rows.Shape | None = None
  last_step: float = math.inf

  def __init__(
      self, cfg: Any, store: example_store.ExampleStore,
      rates: Sequence[int],
      row_lengths: Callable[[example_store.ExampleStore], Any],
      shard_id: int, num_shards: int):
    self._cfg = cfg
    self._store = store
    self._rates = rates
    self._row_lengths = row_lengths
    self._share = cfg.batch_size // num_shards
    self._shard_id = shard_id
    self._row_sizes: Any = None

  @functools.cached_property
  def _order(self) -> Any:
    """Made late: it needs the number of examples, so all of them read."""
    cfg, seed = self._cfg, self._cfg.seed
    orders = [
        example_order.ExampleOrder(count, seed + 1_000_003 * i, cfg.shuffle)
        for i, count in enumerate(self._store.counts)]
    if cfg.pack:  # Of one part: `get_dataset` leaves mixtures to SeqIO.
      *sizes, inputs, targets = self._row_lengths(self._store)
      self._row_sizes = *sizes, inputs, targets
      return example_order.PackedOrder(
          orders[0], sizes[0], sizes[1], inputs, targets)
    return orders[0] if len(orders) == 1 else (
        example_order.MixtureOrder(orders, self._rates, seed))

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    """Tokens of each example's inputs and targets, int32 `[2, examples]`."""
    return np.stack(self._row_lengths(self._store)[:2])

  @functools.cached_property
  def _group(self) -> int:
    """Pairs that are placed together: the time grows with their square."""
    most = max(n for n in range(1, _GROUP + 1) if self._share % n == 0)
    return most if most > _GROUP // 2 else self._share

  def fit_rows(self, request: pair_rows.Request) -> None:
    """Finds rows for the shares of all hosts, and takes them from here on."""
    groups, recorded = self._cfg.batch_size // self._group, request.recorded
    if recorded:
      recorded = recorded._replace(rows=recorded.rows // groups) if (
          recorded.rows % groups == 0) else None
    # A batch more: it may be looked at when the last step is done.
    self.last_step = request.steps
    inputs, targets = self._sizes.max(axis=1).tolist()
    self._rows_of_group = pair_rows.shape_of(
        self._sizes_of, (request.steps + 1) * groups, (inputs, targets),
        math.lcm(request.multiple, groups) // groups, recorded)
    self.rows = self._rows_of_group._replace(
        rows=self._rows_of_group.rows * self._share // self._group)

  def _sizes_of(self, groups: np.ndarray) -> np.ndarray:
    """`[2, groups, pairs]`, of all hosts' groups, numbered through."""
    at = groups[:, None] * self._group + np.arange(self._group)
    return self._sizes[:, self._order.at(at.reshape(-1))].reshape(2, *at.shape)

  def rows_in_words(self) -> str:
    """What `fit_rows` found."""
    assert self.rows is not None
    groups = self._cfg.batch_size // self._group
    rows = self._rows_of_group.rows * groups
    used = self._sizes_of(np.arange(groups)).sum(axis=(1, 2))
    inputs, targets = used / rows / self.rows[1:]
    return (f"the {self._cfg.batch_size} pairs of a batch share {rows} rows of "
            f"{self.rows.inputs} input and {self.rows.targets} target tokens "
            f"({inputs:.0%} and {targets:.0%} of them used by the first batch)")

  def _placement(self, examples: np.ndarray) -> np.ndarray:
    """Where examples of a step go: a stacked `packing.Placement`."""
    sizes = self._sizes[:, examples]
    rows = pair_rows.place(
        sizes.reshape(2, -1, self._group), self._rows_of_group)
    rows += np.arange(len(rows))[:, None] * self._rows_of_group.rows
    return pair_rows.starts(sizes, rows.reshape(-1))

  def num_examples(self) -> int:
    """Of an epoch of all parts."""
    return sum(self._store.counts)

  def examples_of_steps(self, first: int, last: int) -> list[int]:
    """Numbers of a host's examples in the steps from first to before last."""
    found = []
    for step in range(first, last):
      start = step * self._cfg.batch_size + self._shard_id * self._share
      found += (np.concatenate(self._order.rows(start, self._share))
                if self._cfg.pack else self._order.at(
                    np.arange(start, start + self._share))).tolist()
    return found

  def from_step(self, first: int) -> Iterator[Any]:
    """Examples to convert together, from a step on, to the last if any is."""
    step = first
    while step <= self.last_step:
      start = step * self._cfg.batch_size + self._shard_id * self._share
      if self._cfg.pack:
        yield from self._pieces(self._order.rows(start, self._share))
      else:
        examples = self._order.at(np.arange(start, start + self._share))
        yield {**self._store.take(examples), **(
            {feature_converter.PLACEMENT: self._placement(examples)}
            if self.rows else {})}
      step += 1

  def _pieces(self, rows: Sequence[np.ndarray]) -> Iterator[Any]:
    """Whole rows in pieces that the packing takes in one block."""
    lengths = self._cfg.task_feature_lengths
    most = max(lengths["inputs"], lengths["targets"])
    piece: list[np.ndarray] = []
    for i, row in enumerate(rows):
      piece.append(row)
      last = i + 1 == len(rows)
      # A row that does not follow the one before it would flow into it.
      if last or sum(map(len, piece)) + len(rows[i + 1]) > most or (
          self._fits_behind(row, rows[i + 1])):
        yield self._store.take(np.concatenate(piece))
        piece = []

  def _fits_behind(self, row: np.ndarray, following: np.ndarray) -> bool:
    """Whether packing would put the next row's first example into a row."""
    sizes = self._row_sizes
    both = np.append(row, following[0])
    return bool(sizes[0][both].sum() <= sizes[2]
                and sizes[1][both].sum() <= sizes[3])
