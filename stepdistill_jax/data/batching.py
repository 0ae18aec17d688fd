"""Examples into batches of like length, with few different shapes.

A program is compiled for each shape, so lengths are rounded up to a ladder of
buckets. A bucket's leftover examples, too few for a batch, move up to the next
longer bucket instead of making a batch of their own. Predictions do not depend
on any of this: padding is masked and rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

AUTO = "auto"
# Multiples of 16 in steps of at least a quarter power of two: from 64 on at
# most a fifth of a row is padding, and below that a compilation costs more.
LADDER = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448,
          512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
# Input tokens in a batch of automatic size. On a CPU a larger batch gains
# nothing more; accelerators need it to be busy.
_AUTO_TOKENS = {"cpu": 4096}
_AUTO_TOKENS_ACCELERATOR = 65_536
_AUTO_LEAST, _AUTO_MOST = 8, 512


@dataclasses.dataclass(frozen=True)
class Batch:
  """Which examples go together.

  Attributes:
    indices: positions of the examples; at most `rows` of them.
    rows: size of the batch; what is missing is filled up.
    length: padded length of the inputs.
  """

  indices: tuple[int, ...]
  rows: int
  length: int


def bucket_length(
    length: int, ladder: Sequence[int] | None = None) -> int:
  """The ladder's first step that holds `length` tokens; `LADDER` by default."""
  ladder = LADDER if ladder is None else ladder
  for step in ladder:
    if length <= step:
      return step
  return -(-length // ladder[-1]) * ladder[-1]


def rows_for(length: int, batch_size: int | str, platform: str) -> int:
  """Rows of a batch of inputs of a padded length."""
  if batch_size != AUTO:
    return int(batch_size)
  tokens = _AUTO_TOKENS.get(platform, _AUTO_TOKENS_ACCELERATOR)
  rows = 1 << max(0, (tokens // length).bit_length() - 1)
  return min(max(rows, _AUTO_LEAST), _AUTO_MOST)


def plan(
    lengths: Sequence[int], batch_size: int | str = AUTO,
    platform: str = "cpu", multiple: int = 1,
    ladder: Sequence[int] | None = None,
) -> list[Batch]:
  """Puts examples into batches, shortest first.

  Args:
    lengths: tokens of each input.
    batch_size: rows, or `auto`.
    platform: of the devices, for `auto`.
    multiple: rows are a multiple of this (the devices that share a batch).
    ladder: the lengths that batches may have, rising; `LADDER` by default.

  Returns:
    The batches; every example is in exactly one.
  """
  order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
  buckets: dict[int, list[int]] = {}
  for index in order:
    length = bucket_length(max(1, lengths[index]), ladder)
    buckets.setdefault(length, []).append(index)
  batches: list[Batch] = []
  carried: list[int] = []
  for position, (length, members) in enumerate(buckets.items()):
    members = carried + members
    most = rows_for(length, batch_size, platform)
    def fitting(n: int, most: int = most) -> int:
      return -(-min(most, _power_of_two(n)) // multiple) * multiple
    rows = fitting(len(order))
    last = position == len(buckets) - 1
    whole = len(members) if last else len(members) // rows * rows
    carried = members[whole:]
    for start in range(0, whole, rows):
      chosen = tuple(members[start:min(start + rows, whole)])
      batches.append(Batch(chosen, fitting(len(chosen)), length))
  return batches


def _power_of_two(n: int) -> int:
  """The least power of two that is not below n."""
  return 1 << max(0, n - 1).bit_length()
