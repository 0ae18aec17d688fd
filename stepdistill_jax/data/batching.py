"""Examples into batches of like length, with few different shapes.

A program is compiled for each shape, so lengths are rounded up to a ladder of
buckets. A bucket's leftover examples, too few for a batch, move up to the next
longer bucket instead of making a batch of their own. Predictions do not depend
on any of this: padding is masked and rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

INPUTS = "encoder_input_tokens"
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


def used_length(tokens: np.ndarray) -> int:
  """Positions up to the last that is not padding in some row; at least 1."""
  used = np.flatnonzero(tokens.reshape(-1, tokens.shape[-1]).any(axis=0))
  return int(used[-1]) + 1 if used.size else 1


def eighths(full: int) -> list[int]:
  """What inputs are cut to: few lengths, as each is to be compiled.

  Eighths of their full length, as multiples of 16.
  """
  return [min(full, -(-full * n // 128) * 16) for n in range(1, 9)]


def cut(features: Mapping[str, Any], length: int) -> dict[str, Any]:
  """Cuts the encoder's features to a length; what is cut off is padding."""
  full = features[INPUTS].shape[-1]
  return {
      name: x[..., :length] if name.startswith("encoder_")
      and x.ndim > 1 and x.shape[-1] == full else x
      for name, x in features.items()}


def by_length(
    examples: Sequence[tuple[int, Mapping[str, np.ndarray]]], rows: int,
    multiple: int) -> Iterator[tuple[np.ndarray, dict[str, Any], int]]:
  """Batches of examples whose inputs are of like length, cut to that.

  Args:
    examples: numbers and model features, these all of one length.
    rows: most rows of a batch.
    multiple: as in `plan`.

  Yields:
    Numbers and features of a batch's examples, and the batch's rows.
  """
  inputs = [features[INPUTS] for _, features in examples]
  planned = plan(
      [used_length(tokens) for tokens in inputs], rows, multiple=multiple,
      ladder=eighths(inputs[0].shape[-1]) if inputs else None)
  for batch in planned:
    numbers, features = zip(*(examples[i] for i in batch.indices))
    stacked = {name: np.stack([f[name] for f in features])
               for name in features[0]}
    yield np.stack(numbers), cut(stacked, batch.length), batch.rows
