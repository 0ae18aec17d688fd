"""Whole pairs in few rows, the pairs of each batch being given.

`PACK = True` fills rows without end, so that a batch has as many pairs as its
rows happen to hold. Here a batch is the pairs that it has with `PACK = False`,
put into rows that several of them share: a step is the same, in fewer rows.
Rows have one shape for the whole run, the cheapest that holds every batch of
it, so that one program is compiled; the batches are known before they are
read (`example_order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

import numpy as np

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.util import errors, progress

PAIRS = "pairs"  # The value of PACK.
_AT_ONCE = 512  # Batches that are placed together.
_HARDEST = 64  # Batches that shapes are tried on first.
_MULTIPLE = 8  # Of a row's lengths, as those of recipes.
# So many keys of attention cost a token as much as all else of a layer does.
_KEYS = 1024
_TOO_LARGE = np.iinfo(np.int64).max

# Numbers of batches, ascending -> input and target tokens of their pairs, int
# `[2, batches, pairs]`.
SizesOf = Callable[[np.ndarray], np.ndarray]


class Shape(NamedTuple):
  """Rows of a batch, or of a host's share of one; lengths in tokens."""

  rows: int
  inputs: int
  targets: int

  @property
  def cost(self) -> int:
    """Of a step, by its tokens and what they attend to."""
    _, inputs, targets = self
    return self.rows * (inputs * (_KEYS + inputs)
                        + targets * (_KEYS + inputs + targets))


@dataclasses.dataclass(frozen=True)
class Request:
  """What a run wants of its rows.

  Attributes:
    steps: of the run.
    multiple: what the rows of a global batch are a multiple of.
    recorded: the global batch's shape so far, kept if it still fits.
  """

  steps: int
  multiple: int = 1
  recorded: Shape | None = None


def wanted(
    cfg: Any, model: Any, get_dataset_fn: Any, on_accelerators: bool,
    recorded: bool | str | None = None) -> bool:
  """Whether a run's batches come in rows of this module.

  Args:
    cfg: a `utils.DatasetConfig`; its `pack` None leaves it to this function.
    model: of the run.
    get_dataset_fn: of the run.
    on_accelerators: whether it runs on GPUs or TPUs.
    recorded: what the run began with; None for a new run.

  Raises:
    errors.UserError: `pack` asks for them, and the run cannot have them.
  """
  if cfg.pack not in (None, PAIRS):
    return False
  if cfg.pack is None and not (
      on_accelerators if recorded is None else recorded == PAIRS):
    return False
  reason = _against(cfg, model, get_dataset_fn)
  if cfg.pack == PAIRS and reason:
    raise errors.UserError(f"PACK = 'pairs', but {reason}; set PACK = False")
  if reason:
    progress.say(f"each pair has a row of its own, as with PACK = False: "
                 f"{reason}")
  return not reason


def with_bool(cfg: Any) -> Any:
  """A config whose `pack` is T5X's; None stays None.

  Raises:
    errors.UserError: `pack` is another text than 'pairs'.
  """
  if cfg and isinstance(cfg.pack, str) and cfg.pack != PAIRS:
    raise errors.InvalidValue(
        f"DatasetConfig.pack = {cfg.pack!r}: it is True, False, {PAIRS!r} or "
        "None")
  return cfg and dataclasses.replace(
      cfg, pack=bool(cfg.pack) and cfg.pack != PAIRS)


def require_bool(cfg: Any) -> None:
  """Raises UserError where an engine has left 'pairs' in a config."""
  if cfg.pack == PAIRS:
    raise errors.InvalidValue(
        "PACK = 'pairs' is for training with this package's own engine "
        "(--engine=embedded); with Google's T5X, PACK is True or False")


def _against(cfg: Any, model: Any, get_dataset_fn: Any) -> str:
  """Why a run cannot have such rows; "" if it can."""
  if getattr(model, "has_mutual_information", False):
    return "the mutual-information term needs one record a row"
  if not cfg.task_feature_lengths:
    return "TASK_FEATURE_LENGTHS gives no lengths"
  if "pair_rows" not in inspect.signature(get_dataset_fn).parameters:
    return ("train.get_dataset_fn is not exact_order.get_dataset, whose "
            "batches are known before they are read")
  if not hasattr(model.FEATURE_CONVERTER_CLS(pack=False), "of_many"):
    return "the model's feature converter is not StepDistillFeatureConverter"
  return ""


def multiple(partitioner: Any, trainer_cls: Any) -> int:
  """What the rows of a batch are a multiple of, for devices and microbatches.
  """
  return int(partitioner.get_data_layout().batch_size * (
      inherited_bindings.argument(trainer_cls, "num_microbatches") or 1))


def fitted(
    get_dataset_fn: Any, steps: int, partitioner: Any, trainer_cls: Any,
    recorded: Sequence[int] | None = None) -> Any:
  """A run's `get_dataset_fn`, whose batches come in rows of this module.

  Args:
    get_dataset_fn: of the run, which can have them.
    steps: of the run.
    partitioner: of the run.
    trainer_cls: of the run.
    recorded: the global batch's shape so far.
  """
  return functools.partial(get_dataset_fn, pair_rows=Request(
      steps, multiple(partitioner, trainer_cls),
      Shape(*recorded) if recorded else None))


def place(sizes: np.ndarray, shape: Shape) -> np.ndarray:
  """Puts the pairs of batches into rows: the largest first, where it is tight.

  Args:
    sizes: int `[2, batches, pairs]`, tokens of inputs and of targets.
    shape: of each batch.

  Returns:
    The row of each pair, int32 `[batches, pairs]`; -1 where none has room.
  """
  inputs, targets = sizes.astype(np.int64)
  batches, pairs = inputs.shape
  rows, input_length, target_length = shape
  shares = np.maximum(inputs * target_length, targets * input_length)
  order = np.argsort(-shares, axis=1, kind="stable")
  free = [np.full([batches, rows], n, np.int64) for n in shape[1:]]
  at = np.arange(batches)
  found = np.empty([batches, pairs], np.int32)
  for pair in order.T:
    left = [room - size[at, pair][:, None]
            for room, size in zip(free, (inputs, targets))]
    spare = np.where((left[0] >= 0) & (left[1] >= 0), left[0] * target_length
                     + left[1] * input_length, _TOO_LARGE)
    row = spare.argmin(axis=1)
    fits = spare[at, row] < _TOO_LARGE
    found[at, pair] = np.where(fits, row, -1)
    for room, rest in zip(free, left):
      room[at[fits], row[fits]] = rest[at[fits], row[fits]]
  return found


def starts(sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Where the pairs of one batch begin in their rows, in the batch's order.

  Args:
    sizes: int `[2, pairs]`.
    rows: int32 `[pairs]`, from `place`.

  Returns:
    int32 `[4, pairs]`: a `packing.Placement`.
  """
  same_before = np.tril(rows[:, None] == rows[None, :], -1)
  return np.stack([rows, *(same_before @ np.stack(
      [*sizes, np.ones_like(rows)], axis=1)).T]).astype(np.int32)


def shape_of(
    sizes_of: SizesOf, batches: int, longest: tuple[int, int],
    multiple: int, recorded: Shape | None = None) -> Shape:
  """The shape that holds all batches; cheap, if not the cheapest.

  Args:
    sizes_of: gives the batches' sizes.
    batches: how many there are.
    longest: input and target tokens of the longest pairs.
    multiple: of the number of rows.
    recorded: a shape that is taken if it holds them.
  """
  def pieces() -> Iterator[np.ndarray]:
    for first in range(0, batches, _AT_ONCE):
      yield sizes_of(np.arange(first, min(first + _AT_ONCE, batches)))

  def outside(shape: Shape) -> list[np.ndarray]:
    """Batches that do not fit."""
    return [piece[:, (place(piece, shape) < 0).any(axis=1)]
            for piece in pieces()]

  if recorded and recorded.rows % multiple == 0 and all(
      length <= room for length, room in zip(longest, recorded[1:])) and not (
          any(part.size for part in outside(recorded))):
    return recorded
  totals = np.concatenate(
      [piece.sum(axis=2, dtype=np.int64) for piece in pieces()], axis=1)
  pairs = sizes_of(np.arange(1)).shape[2]
  # Full for one side, or for both: where the first shapes fail.
  full = np.stack([*totals, (totals / totals.max(axis=1)[:, None]).sum(axis=0)])
  hardest = sizes_of(np.unique(
      np.argsort(-full, axis=1, kind="stable")[:, :_HARDEST]))
  candidates = [
      Shape(rows, *(_rounded(max(-(-int(total) // rows), most))
                    for total, most in zip(totals.max(axis=1), longest)))
      for rows in range(multiple, pairs + multiple, multiple)]
  best: Shape | None = None
  for shape in sorted(candidates, key=lambda shape: shape.cost):
    if best and shape.cost >= best.cost:
      break  # It can but grow.
    shape = _grown(shape, hardest)
    best = shape if best is None else min(best, shape, key=lambda s: s.cost)
  assert best is not None
  while (rest := np.concatenate(outside(best), axis=1)).size:
    hardest = np.concatenate([hardest, rest], axis=1)
    best = _grown(best, hardest)
  return best


def _rounded(length: int) -> int:
  return -(-length // _MULTIPLE) * _MULTIPLE


def _grown(shape: Shape, sizes: np.ndarray) -> Shape:
  """A shape with lengths that hold some batches."""
  def outside(shape: Shape) -> int:
    return int((place(sizes, shape) < 0).sum())

  while outside(shape):
    longer = [shape._replace(inputs=shape.inputs + _MULTIPLE),
              shape._replace(targets=shape.targets + _MULTIPLE)]
    # The side that more pairs wait for; both where it makes no difference.
    left = [outside(shape) for shape in longer]
    shape = longer[int(left[1] < left[0])] if left[0] != left[1] else Shape(
        shape.rows, longer[0].inputs, longer[1].targets)
  return shape
