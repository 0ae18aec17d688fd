"""What is too long for its place in a batch, and what is done about it.

Inputs are cut at their end, and counted. Of a decoder's prompt the question
is cut, never what stands around it. A label is never cut: that would teach a
wrong answer. What becomes of prompts and rationales is chosen in gin:

    preprocessors.long_prompts.do = 'cut_tail'
    preprocessors.long_rationales.do = 'cut_tail'

The preprocessors of a task leave in each example how many tokens it lost
(`TOKENS_CUT`); whoever reads the examples counts them with a `Judge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import gin
import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.config import gin_config
from stepdistill_jax.data import hugging_face_vocabulary, pipelines
from stepdistill_jax.util import errors, progress

# int32 [text features of the task], in their order: what each lost, or
# `_ABSENT` if it is empty.
TOKENS_CUT = "tokens_cut"
_ABSENT = -1
_CHOICES = ("cut_tail", "cut_head", "drop", "refuse")
_MULTIPLE = 8  # Of a length, as `stepdistill data lengths` has them.
_SAMPLE = 2000  # Examples: reading all of e-SNLI takes a minute.
# Whether data sets are packed, and whether they have what is to be dropped.
_reading = contextvars.ContextVar("_reading", default=(False, False))


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def long_rationales(do: str = "cut_tail") -> str:
  """What becomes of rationales that are too long.

  Args:
    do: `cut_tail` keeps their beginning, `cut_head` their end; `drop` leaves
      such records out of the train split (of others the tail is cut);
      `refuse` ends the run before it trains.
  """
  errors.require_known(
      "LONG_RATIONALE (preprocessors.long_rationales.do)", do, _CHOICES)
  return do


@gin.configurable(module="stepdistill_jax.data.preprocessors")
def long_prompts(do: str = "cut_tail") -> str:
  """What becomes of a decoder's prompts that are too long.

  Args:
    do: `cut_tail` keeps the beginning of the user's text, `cut_head` its end,
      both with all that stands around it; `refuse` ends the run before it
      trains.
  """
  errors.require_known(
      "LONG_PROMPT (preprocessors.long_prompts.do)", do,
      [choice for choice in _CHOICES if choice != "drop"])
  return do


@contextlib.contextmanager
def in_rows(packed: bool, keep_all: bool = False) -> Iterator[None]:
  """Data sets made inside are packed: lengths are those of whole rows.

  Args:
    packed: whether they are.
    keep_all: whether what is to be dropped is in them.
  """
  before = _reading.set((packed, keep_all))
  try:
    yield
  finally:
    _reading.reset(before)


def keeps_all() -> bool:
  return _reading.get()[1]


@dataclasses.dataclass(frozen=True)
class Texts:
  """The text features of a task's examples.

  Attributes:
    names: of all.
    labels: those that hold a label.
    rationales: those that hold a rationale; one may hold both.
  """

  names: Sequence[str]
  labels: frozenset[str] = frozenset()
  rationales: frozenset[str] = frozenset()

  def macro(self, name: str) -> str:
    """The macro of gin files that is the length of a feature."""
    if name.endswith("inputs"):
      return "MAX_INPUTS"
    if name not in self.rationales:
      return "MAX_LABEL"
    return "MAX_SINGLE" if name in self.labels else "MAX_RATIONALE"

  def limits(
      self, sequence_length: Mapping[str, int] | None) -> dict[str, int | None]:
    """The most tokens of each feature, EOS included; None for no limit.

    In packed rows the inputs of a record share the row evenly; of its targets
    each has what those before it leave.
    """
    given = sequence_length or {}
    limits = {name: given.get(name) for name in self.names}
    if _reading.get()[0] and len(self.names) > 2:
      inputs = [n for n in self.names if n.endswith("inputs")]
      for name in self.names:
        row = given.get("inputs" if name in inputs else "targets")
        share = row // len(inputs) if row and name in inputs else row
        limits[name] = min(
            (x for x in (limits[name], share) if x is not None), default=None)
    return limits

  def fit(self, output_features: Mapping[str, seqio.Feature],
          sequence_length: Mapping[str, int] | None) -> Fit:
    """How examples are cut, as gin and `in_rows` say now.

    Args:
      output_features: of the task.
      sequence_length: in tokens.
    """
    limits, eos_ids, prompts = self.limits(sequence_length), {}, {}
    for name in self.names:
      vocabulary = output_features[name].vocabulary
      tokenizer = hugging_face_vocabulary.followed(vocabulary)
      if name.endswith("inputs") and tokenizer is not None:
        prompts[name] = tokenizer
        if limits[name] is None:  # As the feature converter has it.
          limits[name] = limits["inputs"]
      elif output_features[name].add_eos:
        eos_ids[name] = vocabulary.eos_id
    is_shared = _reading.get()[0] and len(self.names) > 2
    return Fit(self, limits, eos_ids, prompts,
               (sequence_length or {})["targets"] if is_shared else None,
               frozenset(filter(self.keeps_end, self.names)),
               long_prompts() == "cut_head" if prompts else False)

  def keeps_end(self, name: str) -> bool:
    """Whether a feature that is too long loses its beginning."""
    do = long_rationales()
    # A record of another split that is not dropped keeps its label.
    return name in self.rationales and (
        do == "cut_head" or do == "drop" and name in self.labels)

  def is_too_long(self, lost: Any) -> Any:
    """Whether a rationale lost tokens, bool `[...]` of int `[..., names]`."""
    at = [self.names.index(name) for name in sorted(self.rationales)]
    return functools.reduce(
        operator.or_, (lost[..., i] > 0 for i in at), lost[..., 0] < _ABSENT)


class Place(NamedTuple):
  """What is left of features; all int `[...]`."""

  start: Any  # The first token that is kept.
  kept: Any  # Number of tokens, without EOS.
  end: Any  # 1 if EOS follows, else 0.
  lost: Any  # Number of tokens, or `_ABSENT`.


@dataclasses.dataclass(frozen=True)
class Fit:
  """Cuts features to their lengths, ends them with EOS, says what was cut.

  A feature that is empty stands for a target that a record does not have, and
  stays so.

  Attributes:
    texts: the features.
    limits: the most tokens of each, EOS included; None for no limit.
    eos_ids: of the features that want one.
    prompts: vocabularies of features that are a decoder's prompts.
    row: tokens that the targets of an example share; None if they do not.
    keep_end: features that lose their beginning.
    prompts_keep_end: whether prompts do.
  """

  texts: Texts
  limits: Mapping[str, int | None]
  eos_ids: Mapping[str, int]
  prompts: Mapping[str, hugging_face_vocabulary.HuggingFaceVocabulary]
  row: int | None
  keep_end: frozenset[str]
  prompts_keep_end: bool

  def places(self, sizes: Mapping[str, Any], ops: Any = np
             ) -> dict[str, Place]:
    """What is left of features by their sizes alone.

    Args:
      sizes: name -> number of tokens without EOS, int `[...]`.
      ops: `tf` for tensors.

    Returns:
      name -> place; of prompts that lose tokens the vocabulary has the rest.
    """
    found: dict[str, Place] = {}
    used: Any = 0
    for name in self.texts.names:
      limit: Any
      size, limit = sizes[name], self.limits[name]
      end = ops.minimum(size, 1 if name in self.eos_ids else 0)
      is_input = name.endswith("inputs")
      if limit is None:
        found[name] = Place(0 * size, size, end, 0 * size)
      else:
        if self.row is not None and not is_input:
          limit = ops.minimum(limit, ops.maximum(self.row - used, 0))
        cut = ops.maximum(size + end - limit, 0)
        kept = ops.maximum(size - cut, 0)
        found[name] = Place(
            size - kept if name in self.keep_end else 0 * size, kept,
            ops.minimum(end, limit), ops.where(size > 0, cut, _ABSENT))
      if not is_input:
        used += found[name].kept + found[name].end
    return found

  def loses_nothing(self, longest: Mapping[str, int]) -> bool:
    """Whether all examples whose features have at most these sizes stay."""
    places = self.places(
        {name: np.array(longest[name]) for name in self.texts.names})
    return all(place.lost <= 0 for place in places.values())

  def example(self, example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """An example of token ids by feature without EOS, fitted."""
    places = self.places(
        {name: tf.size(example[name]) for name in self.texts.names}, tf)
    fitted = dict(example)
    for name, place in places.items():
      value, limit = example[name], self.limits[name]
      if name in self.prompts and limit is not None:
        fitted[name] = self.prompts[name].fit_prompt_tf(
            value, example[f"{name}_pretokenized"], limit,
            keeps_end=self.prompts_keep_end)
        continue
      end = tf.fill([place.end], tf.cast(
          self.eos_ids.get(name, 0), value.dtype))
      fitted[name] = tf.concat(
          [value[place.start:place.start + place.kept], end], axis=0)
    return {**fitted, TOKENS_CUT: tf.stack(
        [place.lost for place in places.values()])}


def texts_of(task: seqio.Task) -> Texts | None:
  """The text features of a task of ours; None for another task."""
  found = [step.keywords["texts"] for step in task.preprocessors
           if "texts" in getattr(step, "keywords", {})]
  return found[0] if found else None


def look_at(
    provider: Any, cfg: Any, refuses: bool = True, says: bool = True) -> None:
  """Says what a run's lengths will cut, and refuses, before anything slow.

  The first records of each task are looked at, through its preprocessors.

  Args:
    provider: the task or mixture.
    cfg: a `utils.DatasetConfig`.
    refuses: False where nothing learns from the examples.
    says: False where the run counts all of them before it trains.

  Raises:
    errors.UserError: as a `Judge` does.
  """
  for task in seqio.get_subtasks(provider):
    judge = Judge.of(task, cfg, refuses=refuses, says=says)
    if judge is None or cfg.split.partition("[")[0] not in task.splits:
      continue
    lost = np.zeros([0, len(judge.texts.names)], np.int32)
    def first(task: seqio.Task = task) -> tf.data.Dataset:
      return read(task, cfg).map(
          lambda example: example[TOKENS_CUT]).take(_SAMPLE).batch(_SAMPLE)
    for batch in pipelines.build(first):
      lost = batch.numpy()
    if len(lost) == _SAMPLE:
      judge.looked_at = f" (its first {_SAMPLE:,} examples)"
    judge([lost])


def read(task: seqio.Task, cfg: Any) -> tf.data.Dataset:
  """A task's examples in their order, once; those to drop are in it."""
  with in_rows(cfg.pack, keep_all=True):
    return task.get_dataset(
        sequence_length=cfg.task_feature_lengths, split=cfg.split,
        use_cached=cfg.use_cached, shuffle=False, seed=cfg.seed, num_epochs=1,
        trim_output_features=cfg.trim_output_features, try_in_mem_cache=False)


@dataclasses.dataclass
class Judge:
  """Counts what a task's examples lost, and refuses what must not be cut.

  Attributes:
    task: its name, for messages.
    split: of the examples.
    texts: of the task.
    lengths: feature -> tokens, of the run.
    packed: whether these are of packed rows.
    records: number of the split's records, if known.
    looked_at: "" if all examples were, else how many, in words.
    refuses: False says what else would be refused: nothing learns from it.
    says: whether it prints what is cut.
  """

  task: str
  split: str
  texts: Texts
  lengths: Mapping[str, int]
  packed: bool
  records: int | None = None
  looked_at: str = ""
  refuses: bool = True
  says: bool = True

  @classmethod
  def of(cls, task: seqio.Task, cfg: Any, **options: Any) -> Judge | None:
    """Of a task, as a `utils.DatasetConfig` has it; None for others' tasks."""
    texts = texts_of(task)
    if texts is None or not cfg.task_feature_lengths:
      return None
    known = cfg.split in task.splits and not cfg.use_cached
    return cls(task.name, cfg.split, texts, dict(cfg.task_feature_lengths),
               cfg.pack, task.source.num_input_examples(cfg.split) if known
               else None, **options)

  def __call__(self, parts: Iterable[np.ndarray]
               ) -> tuple[np.ndarray, dict[str, Any]]:
    """Judges examples.

    Args:
      parts: of all examples, each int `[any, names]`, tokens that were lost.

    Returns:
      Which examples train, bool `[examples]`; and for the run's record, by
      kind of text how many were cut and by how much.

    Raises:
      errors.UserError: a label is cut, or a rationale where gin refuses that.
    """
    do, texts, kinds = long_rationales(), self.texts, self._kinds()
    where = f"task {self.task}, {self.split}{self.looked_at}"
    prompts = (long_prompts() if hugging_face_vocabulary.tokenizer() else None)
    drops = do == "drop" and self.split.startswith("train")
    at = [i for i, name in enumerate(texts.names) if name in texts.rationales]
    keeps, with_rationale = [np.zeros([0], bool)], 0
    cuts = {kind: [np.zeros([0], np.int32)] for kind in kinds}
    for lost in parts:
      keeps.append(~texts.is_too_long(lost) if drops
                   else np.ones(len(lost), bool))
      with_rationale += (lost[keeps[-1]][:, at] > _ABSENT).any(axis=1).sum()
      for kind, names in kinds.items():
        tokens = lost[:, [texts.names.index(n) for n in names]].max(axis=1)
        cuts[kind].append(tokens[tokens > 0])
    keep = np.concatenate(keeps)
    record: dict[str, Any] = {"examples": len(keep), "kept": int(keep.sum())}
    lines = []
    for kind, names in kinds.items():
      cut = np.concatenate(cuts[kind])
      length, holds = self._holds(names, int(cut.max(initial=0)))
      record[kind] = {
          "cut": int(cut.size), "length": length,
          "median": float(np.median(cut)) if cut.size else 0.0,
          "most": int(cut.max(initial=0))}
      if not cut.size:
        continue
      what = (f"{cut.size:,} of {len(keep):,} {kind} are longer than {length} "
              f"tokens, by {np.median(cut):g} in the median and {cut.max()} at "
              "most")
      if self.refuses and texts.labels & set(names) and not (
          texts.rationales & set(names) and do in ("cut_head", "drop")):
        raise errors.UserError(
            f"{where}: {what}; a cut label is another answer: pass {holds}" + (
                ", or --gin.LONG_RATIONALE=\\\"cut_head\\\" or \\\"drop\\\""
                if texts.rationales & set(names) else ""))
      choice, macro, others = (
          (do, "LONG_RATIONALE", "'cut_tail', 'cut_head', 'drop'")
          if texts.rationales & set(names)
          else (prompts if kind == "inputs" else None, "LONG_PROMPT",
                "'cut_tail', 'cut_head'"))
      if choice is not None:
        record[kind]["done"] = choice
      if choice == "refuse" and self.refuses:
        raise errors.UserError(
            f"{where}: {what}, and {macro} is 'refuse': pass {holds}, or "
            f"another choice: {others}")
      done = ("cut at the beginning" if texts.keeps_end(names[0])
              else "cut at the end")
      if kind == "inputs" and prompts:
        done = ("the question is cut at the "
                + ("beginning" if prompts == "cut_head" else "end"))
      if set(names) & texts.rationales and not keep.all():
        done = "their records are left out"
      lines.append(f"{what}: {done}; {holds} holds them")
    if self.says and not self.looked_at and len(keep) < (self.records or 0):
      progress.say(f"task {self.task}, {self.split}: {len(keep):,} of "
                   f"{self.records:,} records have what the task needs")
    if lines and self.says:
      progress.say(f"warning: {where}: {'; '.join(lines)}")
    # Labels alone would train, with the loss of both.
    if not self.looked_at and not keep.all() and not with_rationale:
      raise errors.UserError(
          f"task {self.task}: no record with a rationale is left of "
          f"{len(keep):,}, as LONG_RATIONALE is 'drop' and all are too long; "
          + lines[-1])
    return keep, record

  def _kinds(self) -> dict[str, list[str]]:
    """Kind of text -> its features."""
    texts = self.texts
    kinds = {
        "inputs": [n for n in texts.names if n.endswith("inputs")],
        "labels": sorted(texts.labels - texts.rationales),
        "rationales": sorted(texts.rationales - texts.labels),
        "targets": [n for n in texts.names if not n.endswith("inputs") and (
            n in texts.labels) == (n in texts.rationales)]}
    return {kind: names for kind, names in kinds.items() if names}

  def _holds(self, names: Sequence[str], most: int) -> tuple[int | None, str]:
    """(length of now, what to pass so that nothing is cut)."""
    shared = self.packed and len(self.texts.names) > 2
    limits = self.texts.limits(self.lengths)
    length = next((limits[n] for n in names if limits[n] is not None), None)
    needed = -(-((length or 0) + most) // _MULTIPLE) * _MULTIPLE
    is_input = names[0].endswith("inputs")
    macro = self.texts.macro(names[0])
    bound = gin_config.bindings()
    if not self.packed and macro in bound and (
        f"%{macro}" in bound.get("TASK_FEATURE_LENGTHS", "")):
      return length, f"--gin.{macro}={needed}"
    of_rows = "PACKED_FEATURE_LENGTHS"
    if self.packed and of_rows in bound and (
        f"%{of_rows}" not in bound.get("TASK_FEATURE_LENGTHS", "")):
      return length, "--gin_file=gin/runs/packed.gin"  # Rows of their own.
    if shared and is_input:
      needed *= sum(n.endswith("inputs") for n in self.texts.names)
    changed = ([("inputs" if is_input else "targets")] if shared else names)
    lengths = {**self.lengths, **{name: needed for name in changed}}
    macro = (of_rows if self.packed and of_rows in bound
             else "TASK_FEATURE_LENGTHS")
    return length, f"--gin.{macro}=\"{lengths}\""
