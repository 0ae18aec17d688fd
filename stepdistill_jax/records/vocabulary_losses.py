"""Labels that do not survive a vocabulary: lost, or no longer distinguishable.

A SentencePiece model knows its own pieces alone. A character that none of them
has becomes the unknown id, and its normalizer gives others another form; so
different labels may become the same ids, which no student can learn.
"""

import collections
import dataclasses
import os
import pathlib
from typing import Any

from stepdistill_jax.records import records
from stepdistill_jax.util import errors, locations

_MOST_LABELS = 20_000  # Different ones that are looked at.
_EXAMPLES = 3
_LONG = 60  # Characters; a longer label is a text, whose words nobody chose.
_REMEDY = ("train with a vocabulary that has them (ByT5's, mT5's, one of your "
           "own)")
_OTHER_WORDS = ", or import with other words: --verbalize="


def find_vocabulary(
    records_dir: str | os.PathLike[str], dataset: str) -> pathlib.Path | None:
  """A data set's own SentencePiece model, else T5's; None if it is not here."""
  own = records.vocabulary_path(records_dir, dataset)
  if own.is_file():
    return own
  try:
    return locations.t5_vocabulary_path()
  except errors.UserError:
    return None


def load(path: str | os.PathLike[str], flag: str = "") -> Any:
  """The SentencePieceProcessor of a file.

  Args:
    path: of the file.
    flag: the option that names it, for messages, such as `--vocabulary=`.

  Raises:
    errors.UserError: the file is no such model.
  """
  import sentencepiece

  if not os.path.isfile(path):
    raise errors.UserError(f"there is no file {flag}{path}")
  with errors.reported((OSError, RuntimeError), lambda error: (
      f"{flag}{path} is not a SentencePiece model file: "
      f"{errors.one_line(str(error))}")):
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


@dataclasses.dataclass(frozen=True)
class Losses:
  """What a vocabulary makes of labels.

  Attributes:
    counted: labels that were looked at, each as often as it came.
    merged: groups of labels with the same ids, the most frequent ones first.
    unknown: labels with pieces that are unknown -> as they are decoded.
    changed: other labels that are decoded in another form -> that form.
    merged_count: how often labels came that are not the only ones of their
      ids and have unknown pieces; likewise unknown_count.
  """

  counted: int
  merged: list[list[str]]
  unknown: dict[str, str]
  changed: dict[str, str]
  merged_count: int
  unknown_count: int

  def lines(self) -> list[str]:
    """What a person must know; [] if every label survives."""
    lines = []
    if self.merged:
      groups = "; ".join(
          " = ".join(map(repr, group[:_EXAMPLES])) for group in
          self.merged[:_EXAMPLES])
      lines.append(
          "different labels become the same tokens, and cannot be "
          f"distinguished: {groups}; {_REMEDY}{_OTHER_WORDS}" + ",".join(
              f"{label}=WORD" for label in self.merged[0][:2]))
    if self.unknown:
      label = next((label for label in self.unknown if len(label) <= _LONG), "")
      lines.append(
          f"{self.unknown_count:,} of {self.counted:,} labels have characters "
          f"that the vocabulary has not: {_shown(self.unknown)}; {_REMEDY}"
          + (f"{_OTHER_WORDS}{label}=WORD" if label else ""))
    if self.changed:
      lines.append(
          f"{len(self.changed):,} different labels change their form in the "
          f"vocabulary, and students write that form: {_shown(self.changed)}")
    return lines


def rationale_lines(losses: Losses) -> list[str]:
  """Of rationales only what is lost matters: they need no telling apart."""
  return [f"{losses.unknown_count:,} of {losses.counted:,} rationales have "
          "characters that the vocabulary has not"] if losses.unknown else []


def _shown(forms: dict[str, str]) -> str:
  return ", ".join(f"{_short(label)!r} -> {_short(form)!r}"
                   for label, form in list(forms.items())[:_EXAMPLES])


def _short(text: str) -> str:
  return text if len(text) <= _LONG else f"{text[:_LONG]}…"


class LabelCheck:
  """Collects labels, and says what a vocabulary makes of them."""

  def __init__(self, most: int = _MOST_LABELS) -> None:
    self._most = most
    self._labels: collections.Counter[str] = collections.Counter()

  def add(self, *labels: str) -> None:
    """Counts the labels of one record; empty ones are none."""
    for label in filter(None, dict.fromkeys(labels)):
      if label in self._labels or len(self._labels) < self._most:
        self._labels[label] += 1

  def losses(self, vocabulary: str | os.PathLike[str]) -> Losses:
    """Encodes and decodes every label by a SentencePiece model.

    Raises:
      errors.UserError: the file is no such model.
    """
    pieces = load(vocabulary)
    by_ids: dict[tuple[int, ...], list[str]] = {}
    unknown, changed = {}, {}
    # Spaces at the ends and in rows are folded by every score as well.
    texts = collections.Counter[str]()
    for label, count in self._labels.items():
      texts[" ".join(label.split())] += count
    for text, _ in texts.most_common():
      ids = pieces.encode(text)
      by_ids.setdefault(tuple(ids), []).append(text)
      form = " ".join(pieces.decode(ids).split())
      if pieces.unk_id() in ids:
        unknown[text] = form
      elif form != text:
        changed[text] = form
    merged = [group for group in by_ids.values() if len(group) > 1]
    return Losses(
        counted=texts.total(), merged=merged, unknown=unknown, changed=changed,
        merged_count=sum(texts[text] for group in merged for text in group
                         if text in unknown),
        unknown_count=sum(texts[text] for text in unknown))


def parse_verbalizers(text: str) -> dict[str, str]:
  """Reads `--verbalize=是=yes,否=no` as label -> text.

  Raises:
    errors.UserError: it has another form, or gives two labels one text.
  """
  words: dict[str, str] = {}
  for pair in filter(None, text.split(",")):
    label, _, word = pair.rpartition("=")
    if not label.strip() or not word.strip():
      raise errors.UserError(
          f"--verbalize has {pair!r}, expected LABEL=TEXT, as in "
          "--verbalize=0=no,1=yes")
    words[label.strip()] = word.strip()
  if len(set(words.values())) < len(words):
    raise errors.UserError(f"--verbalize={text} gives two labels the same text")
  return words
