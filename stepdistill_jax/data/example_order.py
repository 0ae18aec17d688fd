"""The order of training examples, as a pure function of seed and position.

Epochs follow each other; each is a permutation of all examples, so that every
example comes exactly once per epoch. Any position is found at once: nothing
has to be saved, and nothing that lies before is read again. The order knows
nothing of hosts: each takes its rows of every global batch.

Only integer arithmetic of 64 bits is used: the same on every platform, and in
every version of NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import numpy as np

# Packings that are made: of so many epochs, and of so many examples in all.
_MOST_PACKINGS, _MOST_PACKED = 256, 2**21
_AT_ONCE = 2**17  # Examples that are worked on together.


def _mix(values: np.ndarray) -> np.ndarray:
  """Scrambles uint64 values, each on its own (SplitMix64's finalizer)."""
  with np.errstate(over="ignore"):
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_bits(seed: int, stream: int, positions: np.ndarray) -> np.ndarray:
  """Random uint64 numbers of a seed and a stream at some positions."""
  start = np.array([seed % 2**64], np.uint64)
  key = _mix(_mix(start) + np.uint64(stream))
  return _mix(key ^ _mix(positions.astype(np.uint64)))


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order of an epoch: `[size]`, each number below `size` once."""
  keys = np.empty(size, np.uint64)
  for start in range(0, size, _AT_ONCE):  # Its steps take memory, too.
    end = min(start + _AT_ONCE, size)
    keys[start:end] = random_bits(seed, epoch, np.arange(start, end))
  order = np.argsort(keys, kind="stable")
  return order.astype(np.uint32) if size < 2**32 else order


class ExampleOrder:
  """The examples of one data set, epoch after epoch."""

  def __init__(self, size: int, seed: int, shuffle: bool = True):
    """Initializes.

    Args:
      size: number of examples, at least 1.
      seed: of the order.
      shuffle: False goes through them as they are.
    """
    self.size = size
    self.seed = seed
    self.shuffle = shuffle
    self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

  def _epoch(self, number: int) -> np.ndarray:
    """The examples of an epoch in their order, `[size]`."""
    if not self.shuffle:
      return np.arange(self.size)
    return permutation(self.seed, number, self.size)

  def at(self, positions: np.ndarray) -> np.ndarray:
    """The examples at some positions, ascending, over all epochs."""
    epochs, offsets = np.divmod(positions, self.size)
    found = np.empty(len(positions), np.int64)
    for number in np.unique(epochs):
      here = epochs == number
      found[here] = self.epoch(int(number))[offsets[here]]
    return found


class MixtureOrder:
  """Several data sets, mixed at integer rates.

  Positions come in blocks as long as the sum of the rates. A block has as many
  examples of each data set as its rate says, shuffled within the block.
  """

  def __init__(
      self, orders: Sequence[ExampleOrder], rates: Sequence[int], seed: int):
    """Initializes.

    Args:
      orders: of the data sets. Their examples are numbered through: those of
        the second follow those of the first.
      rates: of each, at least 1.
      seed: of the mixing.
    """
    self._orders = orders
    self._rates = np.array(rates, np.int64)
    self._seed = seed
    self._block = np.repeat(np.arange(len(rates)), rates)  # [sum of rates]
    self._first = np.cumsum([0, *(order.size for order in orders)])

  def at(self, positions: np.ndarray) -> np.ndarray:
    """The examples at some positions, ascending."""
    length = len(self._block)
    blocks, offsets = np.divmod(positions, length)
    numbers, rows = np.unique(blocks, return_inverse=True)
    keys = random_bits(
        self._seed, -1 % 2**63,
        numbers[:, None] * length + np.arange(length)[None, :])
    parts = self._block[np.argsort(keys, axis=1, kind="stable")]
    found = np.empty(len(positions), np.int64)
    for part, (order, rate) in enumerate(zip(self._orders, self._rates)):
      # How many of this data set come before, in the block.
      is_part = parts == part
      before = np.cumsum(is_part, axis=1) - is_part
      here = is_part[rows, offsets]
      at = blocks[here] * rate + before[rows, offsets][here]
      found[here] = self._first[part] + order.at(at)
    return found


class PackedOrder:
  """Rows of several whole examples each, epoch after epoch.

  An epoch's examples fill rows in the epoch's order, each as full as it gets;
  the last row may stay half empty, so that no row has examples of two epochs.
  Of some epochs, 256 of a small data set and one of millions, packings are
  made; later epochs have these rows, each time in another order. So a late
  step is found without packing all epochs before it.
  """

  def __init__(
      self, order: ExampleOrder, input_sizes: np.ndarray,
      target_sizes: np.ndarray, input_length: int, target_length: int):
    """Initializes.

    Args:
      order: of the examples.
      input_sizes: int `[examples]`, tokens of their inputs.
      target_sizes: the same of their targets.
      input_length: tokens that a row's inputs hold.
      target_length: tokens that a row's targets hold.
    """
    self._order = order
    self._sizes = ((input_sizes, input_length), (target_sizes, target_length))
    self._packings = min(max(1, _MOST_PACKED // order.size), _MOST_PACKINGS)
    self._rows_before = [0]  # Of each packing.
    self._row_starts = functools.lru_cache(maxsize=4)(self._pack)
    self._row_order = functools.lru_cache(maxsize=2)(self._shuffled)

  def _shuffled(self, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch's rows."""
    if epoch < self._packings or not self._order.shuffle:
      return np.arange(size)
    return permutation(self._order.seed, epoch, size)

  def _pack(self, epoch: int) -> np.ndarray:
    """Where each row of an epoch begins, in examples; and the end."""
    examples = self._order.epoch(epoch)
    starts, at = [], 0
    while at < len(examples):
      end = np.full(len(examples[at:at + _AT_ONCE]), _AT_ONCE)
      for sizes, length in self._sizes:
        total = np.concatenate([[0], np.cumsum(
            sizes[examples[at:at + _AT_ONCE]], dtype=np.int64)])
        end = np.minimum(end, np.searchsorted(
            total, total[:-1] + length, side="right") - 1)
      following = np.maximum(end, np.arange(len(end)) + 1).tolist()
      row, is_last = 0, at + len(end) == len(examples)
      # A row that reaches the end of a piece may go on in the next one.
      while row < len(end) and (
          is_last or following[row] < len(end) or row == 0):
        starts.append(at + row)
        row = following[row]
      at += row
    return np.array([*starts, len(examples)], np.int64)

  def num_rows(self, packing: int = 0) -> int:
    """Number of rows of a packing."""
    return len(self._row_starts(packing)) - 1

  def _find(self, row: int) -> tuple[int, int, int]:
    """(epoch, its packing, row of the epoch) of a row."""
    before = self._rows_before
    while before[-1] <= row and len(before) <= self._packings:
      before.append(before[-1] + self.num_rows(len(before) - 1))
    times, row = divmod(row, before[-1])
    packing = int(np.searchsorted(before, row, side="right")) - 1
    return times * self._packings + packing, packing, row - before[packing]

  def rows(self, start: int, count: int) -> list[np.ndarray]:
    """The examples of `count` rows from row `start` on, row by row."""
    found: list[np.ndarray] = []
    while len(found) < count:
      epoch, packing, row = self._find(start + len(found))
      starts, examples = self._row_starts(packing), self._order.epoch(packing)
      for at in self._row_order(epoch, len(starts) - 1)[
          row:row + count - len(found)]:
        found.append(examples[starts[at]:starts[at + 1]])
    return found
