"""Pairs of answers to one question, as files have them.

A pair file is JSON, JSON Lines, CSV, TSV or Parquet, with a column for each of
the following, under one of the names that `columns.toml` lists:

| column | what |
|---|---|
| item | the pair's id; without it the number of the row, from 1 |
| question | what was asked; a column `input` beside it is put behind it |
| first, second | the two answers |
| reference | a right answer, to be shown to the judge (optional) |
| first_name, second_name | who answered (optional, the same in all rows) |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import tomllib
from typing import Any

from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import containers, counts, table_files
from stepdistill_jax.util import errors

_COLUMNS: Mapping[str, Sequence[str]] = tomllib.loads(
    pathlib.Path(__file__).with_name("columns.toml").read_text("utf-8"))
ITEM_COLUMNS = _COLUMNS["item"]
_ANSWER = ("text", "answer", "output", "prediction")  # Of prediction files.

# Named reasons of rows that are no pair.
NO_PARTNER = "without_partner"
REPEATED = "item_repeated"
MISSING = "field_missing"


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
  """Two answers to one question.

  Attributes:
    item: the pair's id.
    question: what was asked.
    first: the first system's answer.
    second: the second system's answer.
    reference: a right answer, or empty.
  """

  item: str
  question: str
  first: str
  second: str
  reference: str = ""


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The pairs of a comparison.

  Attributes:
    pairs: item -> pair, in the file's order.
    names: of the two systems.
    dropped: rows that are no pair, under named reasons.
  """

  pairs: Mapping[str, Pair]
  names: tuple[str, str]
  dropped: counts.Reasons

  def __post_init__(self) -> None:
    if self.names[0] == self.names[1]:
      raise errors.UserError(
          f"both systems are called {self.names[0]!r}; tell them apart with "
          "--names=FIRST,SECOND")


def read_pairs(path: pathlib.Path,
               names: tuple[str, str] | None = None) -> Pairs:
  """Reads a pair file.

  Args:
    path: the file.
    names: of the two systems; by default as the file has them, else `first`
      and `second`.

  Raises:
    errors.UserError: the file cannot be read, or no row of it is a pair.
  """
  dropped = counts.Reasons()
  found: dict[str, Pair] = {}
  named: dict[tuple[str, str], None] = {}
  for entry, item, fields in _rows(path, dropped):
    first, second = _field(fields, "first"), _field(fields, "second")
    question = _question(fields)
    if first is None or second is None or question is None:
      dropped.add(NO_PARTNER if (first is None) != (second is None)
                  else MISSING, entry.where, item)
      continue
    if item in found:
      dropped.add(REPEATED, entry.where)
      continue
    found[item] = Pair(item, question, first, second,
                       _field(fields, "reference") or "")
    named[_field(fields, "first_name") or "first",
          _field(fields, "second_name") or "second"] = None
  _require_some(found, path, dropped)
  if names is None:
    if len(named) > 1:
      raise errors.UserError(
          f"{path} has pairs of {len(named)} couples of systems, such as "
          f"{' and '.join(map(str, list(named)[:2]))}; judge one couple at a "
          "time")
    names = next(iter(named))
  return Pairs(found, names, dropped)


def join_predictions(first: pathlib.Path, second: pathlib.Path,
                     questions: pathlib.Path | None = None,
                     names: tuple[str, str] | None = None) -> Pairs:
  """Makes pairs of two prediction files, by their rows' ids.

  Args:
    first: rows of `id` and `text`, as `stepdistill predict` writes them.
    second: likewise.
    questions: rows of `id` and the question, where the predictions have none.
    names: of the systems; by default the files' names.

  Raises:
    errors.UserError: a file cannot be read, or no two rows have one id.
  """
  dropped = counts.Reasons()
  one = _answers_of(first, dropped)
  other = _answers_of(second, dropped)
  asked = {**other, **one}
  if questions is not None:
    asked = {item: (entry, {"question": fields.get("text"), **fields})
             for entry, item, fields in _rows(questions, dropped)}
  found = {}
  for item, (entry, fields) in {**one, **other}.items():
    question = _question(asked[item][1]) if item in asked else None
    if item not in one or item not in other:
      dropped.add(NO_PARTNER, entry.where, item)
    elif question is None:
      dropped.add(MISSING, entry.where)
    else:
      found[item] = Pair(
          item, question, _answer(one[item][1]), _answer(other[item][1]),
          _field(fields, "reference") or "")
  _require_some(found, first, dropped)
  return Pairs(found, names or (_stem(first), _stem(second)), dropped)


def join_scored(folder: pathlib.Path, names: tuple[str, str]) -> Pairs:
  """Makes pairs of two systems that one call of `stepdistill-eval` scored.

  The question is what was asked, the reference the label.

  Args:
    folder: of `examples.jsonl`.
    names: of the systems.

  Raises:
    errors.UserError: no such file, or a name is of no system there.
  """
  path = folder / "examples.jsonl"
  if not path.is_file():
    raise errors.UserError(
        f"there is no {path}; name an --output folder of stepdistill-eval")
  dropped = counts.Reasons()
  found: dict[str, dict[str, Mapping[str, Any]]] = {}
  for _, item, fields in _rows(path, dropped):
    if fields.get("mode", "generate") == "generate":
      found.setdefault(str(fields.get("system")), {})[item] = fields
  for name in names:
    errors.require_known("system", name, found, f"({path})")
  one, other = (found[name] for name in names)
  joined = {}
  for item, fields in {**one, **other}.items():
    texts = [of.get(item, {}).get("prediction") for of in (one, other)]
    if not all(isinstance(text, str) for text in texts):
      dropped.add(NO_PARTNER, str(path), item)
    else:
      joined[item] = Pair(item, fields["input"], *texts, fields["target"])
  _require_some(joined, path, dropped)
  return Pairs(joined, names, dropped)


def _rows(path: pathlib.Path, dropped: counts.Reasons
          ) -> Iterator[tuple[text_files.Entry, str, Mapping[str, Any]]]:
  for number, entry in enumerate(containers.read_objects(path), start=1):
    if entry.problem or not isinstance(entry.value, dict):
      dropped.add(entry.problem or "row_not_object", entry.where)
      continue
    fields = entry.value
    yield entry, _field(fields, "item") or str(number), fields


def _answers_of(path: pathlib.Path, dropped: counts.Reasons
                ) -> dict[str, tuple[text_files.Entry, Mapping[str, Any]]]:
  """Item -> row of a prediction file; what has no answer is dropped."""
  found: dict[str, tuple[text_files.Entry, Mapping[str, Any]]] = {}
  for entry, item, fields in _rows(path, dropped):
    if _answer(fields) is None:
      dropped.add(MISSING, entry.where)
    elif item in found:
      dropped.add(REPEATED, entry.where)
    else:
      found[item] = entry, fields
  _require_some(found, path, dropped)
  return found


def _answer(fields: Mapping[str, Any]) -> Any:
  return next((fields[name] for name in _ANSWER
               if isinstance(fields.get(name), str)), None)


def _question(fields: Mapping[str, Any]) -> str | None:
  question = _field(fields, "question")
  more = fields.get("input") if "input" != _used(fields, "question") else None
  if question and isinstance(more, str) and more.strip():
    return f"{question}\n\n{more}"
  return question


def _used(fields: Mapping[str, Any], name: str) -> str | None:
  return next((column for column in _COLUMNS[name] if column in fields), None)


def _field(fields: Mapping[str, Any], name: str) -> str | None:
  """A column's value as text; None where it is not there or not a text."""
  column = _used(fields, name)
  value = None if column is None else table_files.as_text(
      fields[column], "inputs")
  return value if isinstance(value, str) else None


def _stem(path: pathlib.Path) -> str:
  return path.name.partition(".")[0]


def _require_some(found: Iterable[Any], path: pathlib.Path,
                  dropped: counts.Reasons) -> None:
  if not found:
    columns = "; ".join(f"{name}: {' or '.join(columns)}"
                        for name, columns in _COLUMNS.items()
                        if name in ("question", "first", "second"))
    reasons = ", ".join(counts.in_words(dropped.as_json(), True))
    raise errors.UserError(
        f"{path} has no pair of answers ({reasons or 'it has no row'}); "
        f"columns that are read: {columns}")
