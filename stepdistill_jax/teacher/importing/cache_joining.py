"""The lines of a teacher cache as joined items, one a row.

A cache that `stepdistill teacher collect` wrote has its lines in the order in
which answers came, failed samples among them, and perhaps several samples a
row. Here they are put in the order of the rows, read in the form that the
cache's prompt asked for, and made one by `self_consistency`. Any other cache
has one chain of thought a line, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import json
import pathlib
from typing import Any

from stepdistill_jax.answers import answer_forms, kinds, parsing, reading, rules
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import completions, text_files
from stepdistill_jax.teacher.importing import (
  joining,
  row_files,
  self_consistency,
)
from stepdistill_jax.util import errors, temporary_database

# Endings that leave no completion to read, by their own names.
_NO_ANSWER = {"refusal": "refusal", "content_filter": "content_filter",
              "tool_calls": "tool_calls"}


@dataclasses.dataclass(frozen=True)
class Form:
  """How a cache's lines are to be read, by its manifest.

  Attributes:
    reads: one of `answer_forms.FORMS`.
    samples: of each row.
    collected: True if `collect` wrote it: any order, with sample numbers.
    gold_given: True if the teacher saw the human label.
    rows: number of the source's rows, 0 if unknown.
  """

  reads: str = answer_forms.CHAIN_OF_THOUGHT
  samples: int = 1
  collected: bool = False
  gold_given: bool = False
  rows: int = 0

  @classmethod
  def of(cls, manifest: Mapping[str, Any], where: str) -> Form:
    """Reads a manifest.

    Raises:
      errors.UserError: it has a value that no collection writes.
    """
    sampling = manifest.get("sampling")
    samples = (sampling.get("samples", 1)
               if isinstance(sampling, Mapping) else 1)
    form = cls(
        reads=manifest.get("reads", answer_forms.CHAIN_OF_THOUGHT),
        samples=samples, collected="reads" in manifest,
        gold_given=manifest.get("gold_given", False) is True,
        rows=manifest.get("rows") or manifest.get("count") or 0)
    errors.require_known(
        "value of reads", str(form.reads), answer_forms.FORMS, where=where)
    for name in ("samples", "rows"):
      if type(getattr(form, name)) is not int or getattr(form, name) < 0:
        raise errors.UserError(
            f"{where}: {name} is {getattr(form, name)!r}, expected a number")
    return form


def join(spec: datasets.Dataset, folder: pathlib.Path, form: Form, *,
         reject_wrong: bool = False, notes: list[str] | None = None,
         options: reading.Options = reading.DEFAULT
         ) -> Iterator[joining.Joined]:
  """Yields an item for each row of a cache.

  Args:
    spec: the data set.
    folder: the cache.
    form: of its manifest.
    reject_wrong: True to use no rationale that leads to another label than
      the human one.
    notes: what was counted is appended, at the end.
    options: how completions are read.
  """
  counts = self_consistency.Counts()
  chooses = form.samples > 1 or reject_wrong
  for position, lines in _rows(folder, form):
    items = [line_item(spec, entry, position) for entry in lines]
    if not chooses and form.reads == answer_forms.CHAIN_OF_THOUGHT:
      yield from items  # Parsed by both sets of rules later.
      continue
    readable = [item for item in items if item.row is not None]
    yield from (item for item in items if item.row is None)
    if readable:
      yield _chosen(spec, form, readable, counts, reject_wrong, options)
  if chooses and notes is not None:
    notes += _notes(folder, form, counts, reject_wrong)
  if form.gold_given and notes is not None:
    notes.append(f"{folder}: the teacher saw the human labels; its rationales "
                 "explain them, and it has no labels of its own")


def _chosen(spec: datasets.Dataset, form: Form, items: list[joining.Joined],
            counts: self_consistency.Counts, reject_wrong: bool,
            options: reading.Options) -> joining.Joined:
  """One item from a row's samples."""
  parser = rules.get_parser(spec, form=form.reads, options=options)
  parsed = [parse(parser, item) for item in items]
  row = items[0].row
  if form.reads == answer_forms.RATIONALE:
    # There is no label to vote on: the first rationale that there is.
    first = next((p for p in parsed if p.rationale), parsed[0])
    choice = self_consistency.Choice(first, 1.0)
  else:
    choice = self_consistency.choose(
        spec, row, parsed, counts, reject_wrong=reject_wrong)
  # The text that was chosen, for a person to look at.
  used = next((item for item, p in zip(items, parsed)
               if p.rationale == choice.parsed.rationale
               and p.label == choice.parsed.label), items[0])
  return dataclasses.replace(
      used, parsed=choice.parsed, problem="",
      weight=choice.agreement if form.samples > 1 else None)


def parse(parser: parsing.Parser, item: joining.Joined) -> parsing.Parsed:
  """Parses an item that has a row; a cut label is none."""
  if item.output is None:
    return parsing.Parsed("", "", item.problem or parsing.NO_COMPLETION)
  parsed = parser(item.output, item.row)
  return parsing.cut_at_limit(parsed) if item.truncated else parsed


def line_item(spec: datasets.Dataset, entry: text_files.Entry, position: int
               ) -> joining.Joined:
  """The item of a cache's line; thinking that came apart stands before."""
  if entry.problem or not isinstance(entry.value, dict):
    return joining.dropped(entry.where, entry.problem or "line_not_object")
  fields = entry.value.get("input")
  if not isinstance(fields, dict):
    return joining.dropped(entry.where, "input_not_object")
  row, reason = row_files.read_row(
      spec, dataclasses.replace(entry, value=fields), position)
  if row is None:
    return joining.dropped(entry.where, reason)
  if not row.choices and spec.label_kind in (datasets.CHOICE, datasets.CHOICES):
    row.choices = kinds.lettered_choices(row.inputs)
  ending = entry.value.get("finish_reason")
  ending = completions.ending_of(ending) if isinstance(ending, str) else None
  if entry.value.get("error"):
    text, problem = None, parsing.TEACHER_ERROR
  elif ending in _NO_ANSWER:
    text, problem = None, _NO_ANSWER[ending]
  else:
    text, problem = joining.completion_text(entry.value.get("output"), "")
    thinking = completions.thinking_of(entry.value)
    if text is not None and thinking.strip() and (
        text_files.is_encodable(thinking)):
      text = f"<think>{thinking}</think>{text}"
  return joining.Joined(row, text, problem, entry.where,
                        truncated=ending == completions.LENGTH)


# ---- The order of the rows --------------------------------------------------


def _rows(folder: pathlib.Path, form: Form
          ) -> Iterator[tuple[int, list[text_files.Entry]]]:
  """Yields (position, its lines) in the order of the rows."""
  entries = completions.read_completions(folder)
  if not form.collected:
    for position, entry in enumerate(entries):
      yield position, [entry]
    return
  database = temporary_database.create(
      "CREATE TABLE lines (position INTEGER, id TEXT, sample INTEGER, "
      "number INTEGER, line TEXT, PRIMARY KEY (position, id, sample)"
      ") WITHOUT ROWID")
  try:
    for entry in entries:
      key = _order(entry)
      if key is None:  # Nobody knows of which row it is.
        yield -1, [entry]
        continue
      added = database.execute(
          "INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?, ?)",
          (*key, entry.number, json.dumps([str(entry.path), entry.value])))
      if not added.rowcount:
        yield -1, [dataclasses.replace(entry, problem="repeated_completion")]
    ordered = database.execute(
        "SELECT position, id, number, line FROM lines "
        "ORDER BY position, id, sample")
    for (position, _), group in itertools.groupby(
        ordered, lambda found: found[:2]):
      yield position, [_entry(number, line) for _, _, number, line in group]
  finally:
    database.close()


def _order(entry: text_files.Entry) -> tuple[int, str, int] | None:
  """(position, id, sample) of a collected line; None if it has not all."""
  if entry.problem or not isinstance(entry.value, dict):
    return None
  key = tuple(entry.value.get(name) for name in ("position", "id", "sample"))
  if tuple(map(type, key)) != (int, str, int) or not all(
      -2**63 <= number < 2**63 for number in (key[0], key[2])):
    return None
  return key if text_files.is_encodable(key[1]) else None


def _entry(number: int, line: str) -> text_files.Entry:
  path, value = json.loads(line)
  return text_files.Entry(value, "", pathlib.Path(path), number, "line")


def _notes(folder: pathlib.Path, form: Form,
           counts: self_consistency.Counts, reject_wrong: bool) -> list[str]:
  notes = []
  if form.samples > 1:
    notes.append(
        f"{folder}: labels by majority of {counts.samples:,} samples of "
        f"{counts.rows:,} rows; {counts.unanimous:,} rows unanimous, "
        f"{counts.ties:,} with a tie; the agreement is the records' weight")
  if reject_wrong:
    notes.append(
        f"{folder}: {counts.rejected_samples:,} samples rejected, as their "
        "label is not the human one; they leave "
        f"{counts.rejected_rows:,} rows without a rationale")
  return notes
