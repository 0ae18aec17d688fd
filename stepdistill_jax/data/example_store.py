"""The tokenized examples of one or several tasks, each found by its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from stepdistill_jax.data import token_files, truncation

_AT_ONCE = 4096  # Examples.


@dataclasses.dataclass
class Part:
  """The examples of one task.

  Attributes:
    open: opens their files, when they are first needed.
    fit: cuts them; None for examples that are fitted already.
    judge: says what they have lost, and which are left out, if known.
    left_out: gives sorted hashes of ids that are not used.
  """

  open: Callable[[], token_files.TokenFiles]
  fit: truncation.Fit | None = None
  judge: truncation.Judge | None = None
  left_out: Callable[[], np.ndarray] = lambda: np.zeros([0], np.int64)

  @functools.cached_property
  def _chosen(self) -> tuple[token_files.TokenFiles, np.ndarray | None, Any]:
    """(files, the rows that are used or None for all, what was lost)."""
    files, left_out = self.open(), self.left_out()
    rows = None
    if left_out.size:
      kept, first = [], 0
      for ids in files.ids():
        at = np.minimum(np.searchsorted(left_out, ids), left_out.size - 1)
        kept.append(first + np.flatnonzero(left_out[at] != ids))
        first += len(ids)
      rows = np.concatenate(kept)
    if self.judge is None:
      return files, rows, None
    keep, record = self.judge(self._lost(files, rows))
    if not keep.all():
      rows = np.flatnonzero(keep) if rows is None else rows[keep]
    return files, rows, record

  @property
  def cut(self) -> Any:
    """What the examples have lost, see `truncation.Judge`."""
    return self._chosen[2]

  @property
  def count(self) -> int:
    files, rows, _ = self._chosen
    return files.count if rows is None else len(rows)

  def _lost(self, files: token_files.TokenFiles,
            rows: np.ndarray | None) -> Iterator[np.ndarray]:
    """Tokens that examples lose, int `[any, texts]`, many at once."""
    if self.fit is not None:
      if self.fit.loses_nothing(files.longest):
        count = files.count if rows is None else len(rows)
        yield np.zeros([count, len(self.fit.texts.names)], np.int8)
        return
      for _, places in self._places(self.fit, files, rows):
        yield np.stack([place.lost for place in places.values()], axis=1)
      return
    at = files.names.index(truncation.TOKENS_CUT)
    for first in range(0, files.count, _AT_ONCE):
      yield np.stack([example[at] for example in files.read(
          range(first, min(first + _AT_ONCE, files.count)))])

  def _sizes(self, files: token_files.TokenFiles, rows: np.ndarray | None
             ) -> Iterator[dict[str, np.ndarray]]:
    """The features' sizes as they are in the files, many at once."""
    first = 0
    for sizes in files.sizes():
      if rows is not None:
        a, b = np.searchsorted(rows, [first, first + len(sizes)])
        first, sizes = first + len(sizes), sizes[rows[a:b] - first]
      yield dict(zip(files.names, sizes.T.astype(np.int32)))

  def _places(
      self, fit: truncation.Fit, files: token_files.TokenFiles,
      rows: np.ndarray | None
  ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, truncation.Place]]]:
    """(sizes in the files, what is left of them), many at once."""
    for sizes in self._sizes(files, rows):
      yield sizes, fit.places(sizes)

  def sizes(self, keys: Sequence[str]) -> np.ndarray:
    """The lengths of features in each example, int32 `[keys, examples]`."""
    files, rows, _ = self._chosen
    if self.fit is None:
      return np.concatenate([
          np.stack([sizes[key] for key in keys])
          for sizes in self._sizes(files, rows)], axis=1)
    found, lost = [], []
    for sizes, places in self._places(self.fit, files, rows):
      found.append(np.stack([
          places[key].kept + places[key].end if key in places else sizes[key]
          for key in keys]))
      lost.append(np.stack([
          places[key].lost > 0 if key in self.fit.prompts
          else np.zeros(found[-1].shape[1], bool) for key in keys]))
    result = np.concatenate(found, axis=1)
    for i, at in enumerate(map(np.flatnonzero, np.concatenate(lost, axis=1))):
      if at.size:  # As prompts are cut is known by cutting alone.
        result[i, at] = [
            len(example[keys[i]]) for example in self.take(at, [keys[i]])]
    return result

  def take(self, examples: np.ndarray, keys: Sequence[str]
           ) -> list[dict[str, np.ndarray]]:
    """Features of examples by their numbers."""
    files, rows, _ = self._chosen
    found = [dict(zip(files.names, example)) for example in files.read(
        (examples if rows is None else rows[examples]).tolist())]
    if self.fit is None:
      return found
    places = self.fit.places({
        name: np.array([len(example[name]) for example in found])
        for name in self.fit.texts.names})
    for name, place in places.items():
      if name not in keys:
        continue
      prompt, limit = self.fit.prompts.get(name), self.fit.limits[name]
      end = np.array([self.fit.eos_ids.get(name, 0)], np.int32)
      for example, start, kept, ends, lost in zip(
          found, *(values.tolist() for values in place)):
        if prompt is not None and lost > 0:
          example[name] = np.array(prompt.encode_prompt(
              example[f"{name}_pretokenized"].tobytes().decode("utf-8"), limit,
              self.fit.prompts_keep_end), np.int32)
        else:
          value = example[name][start:start + kept]
          example[name] = np.concatenate([value, end[:ends]])
    return found


class ExampleStore:
  """Examples of one or several tasks, found when first asked for.

  Attributes:
    element_spec: name -> `tf.TensorSpec` of rank 1, of the numeric features
      that all the tasks have.
  """

  def __init__(self, parts: Sequence[Part],
               element_spec: Mapping[str, tf.TensorSpec]):
    self.element_spec = element_spec
    self._parts = parts

  @property
  def cut(self) -> list[Mapping[str, Any] | None]:
    """What the examples of each task have lost, see `truncation.Judge`."""
    return [part.cut for part in self._parts]

  @property
  def counts(self) -> list[int]:
    """Number of examples of each task."""
    return [part.count for part in self._parts]

  def sizes(self, keys: Sequence[str]) -> np.ndarray:
    """The lengths of features in each example, int32 `[keys, examples]`."""
    return np.concatenate([part.sizes(keys) for part in self._parts], axis=1)

  def take(self, examples: np.ndarray) -> Mapping[str, tf.RaggedTensor]:
    """Examples by their numbers: name -> `[examples, (length)]`."""
    ends = np.cumsum(self.counts)
    of_part = np.searchsorted(ends, examples, side="right")
    found: list[Any] = [None] * len(examples)
    for i, part in enumerate(self._parts):
      at = np.flatnonzero(of_part == i)
      taken = part.take(
          examples[at] - (ends[i] - part.count), list(self.element_spec))
      for place, example in zip(at.tolist(), taken):
        found[place] = example
    return {
        key: tf.RaggedTensor.from_row_lengths(
            np.concatenate([example[key] for example in found]).astype(
                spec.dtype.as_numpy_dtype, copy=False),
            np.array([len(example[key]) for example in found]),
            validate=False)
        for key, spec in self.element_spec.items()}

  def batches_spec(self) -> Mapping[str, tf.RaggedTensorSpec]:
    """The spec of what `take` returns."""
    return {key: tf.RaggedTensorSpec([None, None], spec.dtype, ragged_rank=1)
            for key, spec in self.element_spec.items()}
