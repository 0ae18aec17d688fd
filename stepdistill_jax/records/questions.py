"""Whether two data sets ask the same question, in whatever form.

The same question stands in several data sets: with other instructions around
it, its choices lettered otherwise, its accents lost. `question_key` is what
all of these forms share, so that questions which a student was trained on are
found in the test split of another data set.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import difflib
import itertools
import re
from typing import Any, NoReturn
import unicodedata

from stepdistill_jax.records import datasets, records
from stepdistill_jax.util import errors

_CHOICES = re.compile(r"\s*\banswer choices:", re.IGNORECASE)
# What begins a question's own text, behind instructions.
_BEGINS = re.compile(
    r"^(?:question|premise|article|dialogue)\s*:", re.IGNORECASE | re.MULTILINE)
_BETWEEN = re.compile(r"^hypothesis\s*:", re.IGNORECASE | re.MULTILINE)


def question_key(inputs: str) -> str:
  """What forms of one question share: its letters and digits.

  Instructions before "Question:", "Premise:", "Article:" or "Dialogue:", the
  answer's choices, case, accents, blanks and punctuation are left out.

  >>> question_key("Be brief.\\nQuestion: Où est-il?\\nAnswer Choices: ici")
  'ouestil'
  """
  text = _CHOICES.split(inputs.replace(records.EOS_TEXT, "\n"))[0]
  begins = list(_BEGINS.finditer(text))
  if begins:
    text = text[begins[-1].end():]
  text = unicodedata.normalize("NFKD", _BETWEEN.sub("", text)).casefold()
  return "".join(filter(str.isalnum, text)) or records.normalize_input(inputs)


def read_keys(records_dir: records.StrPath, dataset: str, teacher: str,
              split: str) -> Iterator[str]:
  """Yields the keys of a split's records."""
  for record in records.read_records(records_dir, dataset, teacher, split):
    yield question_key(record.inputs)


def test_questions(
    records_dir: records.StrPath, names: Iterable[str]
) -> Mapping[str, frozenset[str]]:
  """Data set -> the keys of its test split, in any teacher's records.

  Teachers were asked about other rows, some about a few alone.

  Raises:
    errors.UserError: there are no records of it, or none of the test split.
  """
  found = {}
  for name in names:
    teachers = _with_split(records_dir, name, "test")
    if not teachers:
      _refuse_without_test(records_dir, name)
    found[name] = frozenset(itertools.chain.from_iterable(
        read_keys(records_dir, name, teacher, "test") for teacher in teachers))
  return found


def _refuse_without_test(records_dir: records.StrPath, name: str) -> NoReturn:
  known = {dataset for dataset, _ in records.list_records(records_dir)}
  if name in known:
    raise errors.UserError(
        f"the records of data set {name!r} in {records_dir} have no test "
        "split, whose questions could be left out")
  close = [] if name in datasets.DATASETS else (
      difflib.get_close_matches(name, known, n=1))
  raise errors.UserError(
      f"no records of the test split of data set {name!r} in {records_dir}; "
      + (f"did you mean: {close[0]}" if close else "write them with "
         f"`stepdistill teacher import --dataset={name} ...` first"))


def overlaps(records_dir: records.StrPath, dataset: str, teacher: str
             ) -> list[dict[str, Any]]:
  """Rows of these records whose question is in other data sets' records, too.

  The train and validation splits here are compared with the test splits
  there, and the test split here with the train and validation splits there,
  in all teachers' records. Test splits are held in memory, others are read
  through.

  Returns:
    For each two splits that share questions `here` and `there` (data set,
    split), `shared` and `of` (rows here).
  """
  sizes = records.split_sizes(records_dir, dataset, teacher)
  others = list(dict.fromkeys(
      name for name, _ in records.list_records(records_dir)
      if name != dataset))
  tested = test_questions(records_dir, (
      other for other in others if _with_split(records_dir, other, "test")))
  found = []

  def add(own: str, other: str, their: str, shared: int) -> None:
    if shared:
      found.append({"here": [dataset, own], "there": [other, their],
                    "shared": shared, "of": sizes[own]})

  for own in ("train", "validation"):
    if own in sizes and tested:
      shared = collections.Counter(
          other for key in read_keys(records_dir, dataset, teacher, own)
          for other, keys in tested.items() if key in keys)
      for other in tested:
        add(own, other, "test", shared[other])
  if "test" in sizes and others:
    here = collections.Counter(read_keys(records_dir, dataset, teacher, "test"))
    for other, their in itertools.product(others, ("train", "validation")):
      keys = {key for their_teacher in _with_split(records_dir, other, their)
              for key in read_keys(records_dir, other, their_teacher, their)
              if key in here}
      add("test", other, their, sum(here[key] for key in keys))
  return found


def overlap_line(found: Mapping[str, Any]) -> str:
  """One of `overlaps` in words."""
  (dataset, own), (other, their) = found["here"], found["there"]
  trained, tested = (dataset, other) if their == "test" else (other, dataset)
  return (f"{found['shared']:,} of the {found['of']:,} rows in the {own} "
          f"split ask what the {their} split of {other} asks: a student of "
          f"{trained} is not to be scored on {tested}, unless {trained} is "
          f"imported with --leave_out={tested}")


def _with_split(records_dir: records.StrPath, dataset: str, split: str
                ) -> list[str]:
  return [teacher for teacher in records.teachers_of(records_dir, dataset)
          if split in records.split_sizes(records_dir, dataset, teacher)]
