"""Imports of data sets that users have as tables, with or without a teacher.

* `import_columns`: a user's own rows, labels and rationales or completions;
* `import_rows`: a known data set in the files of its authors, of Hugging Face
  or of TensorFlow Datasets, with human labels and explanations.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import functools
import itertools
import os
import pathlib
from typing import Any

from stepdistill_jax.answers import answer_forms, kinds, labels, parsing
from stepdistill_jax.records import datasets, messages, records
from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import (
  containers,
  formats as importing,
  joining,
  label_kinds,
  record_importer,
  row_files,
  row_inputs,
  table_files,
)
from stepdistill_jax.util import errors

_Reader = Callable[[list[pathlib.Path]], Iterator[text_files.Entry]]
# What a column can be. `messages` are a prompt and perhaps a completion;
# `output` is a raw completion, to be parsed; `rationale` and `teacher_label`
# are a completion that is parsed already.
COLUMN_ROLES = (
    "inputs", "messages", "label", "output", "rationale", "teacher_label",
    "split")


def parse_columns(text: str, has_template: bool = False) -> dict[str, str]:
  """Reads `--columns=inputs=question,label=answer` as role -> column.

  Raises:
    errors.UserError: an unknown role, nothing for `inputs`, or both a
      completion and its parts.
  """
  columns = table_files.parse_columns(text)
  for role in columns:
    errors.require_known("role", role, COLUMN_ROLES, where="--columns")
  if not has_template and not {"inputs", "messages"} & set(columns):
    raise errors.UserError(
        "--columns names no column for inputs; for example "
        "--columns=inputs=question,label=answer,rationale=why (or several by "
        "--template, or messages=COLUMN)")
  if "output" in columns and {"rationale", "teacher_label"} & set(columns):
    raise errors.UserError(
        "--columns has both output (a raw completion, to be parsed) and "
        "rationale or teacher_label (already parsed); give one kind")
  return columns


def import_columns(
    *, dataset: str, outputs: str | os.PathLike, columns: Mapping[str, str],
    teacher: str, template: str = "", student_prompt: str = messages.USER,
    split: str | None = None, **options) -> record_importer.ImportResult:
  """Imports a user's own CSV, TSV, JSON Lines or Parquet files.

  Args:
    dataset: a name for the data set, or a known one, whose labels and
      comparison then apply.
    outputs: a folder of files that tell their splits by name (`train.csv`),
      or one file: all its rows are `train`, of which a tenth becomes
      validation, unless it has a column for the split.
    columns: role -> column, see `COLUMN_ROLES`.
    teacher: the name to give the teacher.
    template: makes the inputs of several columns, as in `{title}\\n{body}`.
    student_prompt: what of rows of `messages` is their inputs, one of
      `row_inputs.PROMPTS`.
    split: of one file's rows; None for what its name says, else `train`.
    **options: fields of `record_importer.Options`.
  """
  spec = datasets.get(dataset)
  if spec.name not in datasets.DATASETS:
    spec = datasets.own_dataset(spec.name, held_out=importing.OWN_HELD_OUT)
  path = pathlib.Path(outputs)
  if path.is_dir():
    if split:
      raise errors.UserError(
          f"--split={split} is of one file's rows; {path} is a folder, whose "
          "files tell their splits by name")
    files = containers.files_by_split(path)
  elif path.is_file():
    files = {split or containers.split_of(path.name) or "train": [path]}
  else:
    raise errors.UserError(f"there is no file or folder {path}")
  if not files:
    raise errors.UserError(
        f"{path} has no data file whose name tells a split (train, "
        "validation, test); rename them, or give one file")
  columns, inputs = row_inputs.find(
      dict(columns), template, student_prompt,
      lambda: itertools.chain.from_iterable(map(_read_all, files.values())))

  def read(paths: list[pathlib.Path]) -> Iterator[text_files.Entry]:
    entries = _read_all(paths)
    return inputs.prepared(entries) if inputs else entries

  _require_columns(read, next(iter(files.values())), columns)
  notes: list[str] = []
  chosen = record_importer.Options(**options)
  spec = label_kinds.with_kind(
      spec, lambda: _labelled(read, files, columns), chosen, notes)
  joined = functools.partial(_join_columns, spec, columns)
  sources = _table_sources(read, files, joined, columns.get("split"))
  return record_importer.import_sources(
      spec, teacher, sources, options=chosen, format_name="columns",
      notes=notes, form=answer_forms.MESSAGE if inputs and inputs.messages
      else answer_forms.CHAIN_OF_THOUGHT)


def import_rows(
    *, dataset: str, rows: str | os.PathLike, teacher: str = "human",
    **options) -> record_importer.ImportResult:
  """Imports a known data set without any teacher's completions.

  Where the data set has human explanations (e-SNLI, CoS-E, ANLI, GSM8K), they
  are the rationales and the human labels the teacher's: the "teacher" is a
  human.

  Args:
    dataset: a known data set.
    rows: a file or a folder, in the form of its authors, of Hugging Face
      (JSON Lines, CSV, Parquet) or of a prepared TFDS data set.
    teacher: the name that the humans get in task names.
    **options: fields of `record_importer.Options`.
  """
  spec = importing.known_dataset(dataset)
  path = pathlib.Path(rows)
  readers: dict[str, Callable[[], Iterator[text_files.Entry]]] = {}
  if tfds_splits := containers.tfds_splits(path):
    for name in tfds_splits:
      if spec.file_mark and spec.file_mark not in name and any(
          spec.file_mark in other for other in tfds_splits):
        continue
      split = containers.split_of(name)
      if split:
        readers[split] = functools.partial(containers.read_tfds, path, name)
  else:
    # By their names where these tell no split.
    files = (containers.files_by_split(path, spec.file_mark) or {
        split: [found] for split in records.SPLITS
        if (found := row_files.find_row_file(spec, path, split))
    }) if path.is_dir() else {}
    undivided = ([path] if path.is_file() else sorted(path.glob("SVAMP.json*"))
                 + sorted(path.glob("ASDiv.xml*")))
    if not files and undivided:
      files = {containers.split_of(undivided[0].name) or "": undivided[:1]}
    readers = {split: functools.partial(
        row_files.read_objects, spec, paths, split)
               for split, paths in files.items()}
  if not readers:
    raise errors.UserError(
        f"no rows of {dataset} in {path}: expected files whose names tell "
        f"their split ({', '.join(containers.SUFFIXES)}; also .gz), or a "
        "prepared TFDS folder")
  sources = _divided(spec, readers[""]) if "" in readers else {
      split: _row_source(spec, readers[split], split)
      for split in records.SPLITS if split in readers}
  return record_importer.import_sources(
      spec, teacher, sources, options=record_importer.Options(**options),
      format_name="rows")


def _read_all(paths: list[pathlib.Path]) -> Iterator[text_files.Entry]:
  return itertools.chain.from_iterable(map(containers.read_objects, paths))


# ---- A user's own columns ---------------------------------------------------


def _require_columns(read: _Reader, paths: list[pathlib.Path],
                     columns: Mapping[str, str]) -> None:
  """Raises errors.UserError if the first object lacks a column."""
  unread = None
  for entry in read(paths):
    unread = unread or entry
    if isinstance(entry.value, dict):
      for role, column in columns.items():
        table_files.require_column(entry, role, column)
        table_files.require_text(entry, role, column)
      return
  if unread and unread.problem == text_files.INVALID_UTF8:
    raise errors.UserError(
        f"{unread.where} is not UTF-8, nor is any row; {text_files.TO_UTF8}")
  raise errors.UserError(f"{paths[0]} has no rows" + (
      f" that can be read: {unread.where} is {unread.problem}"
      if unread and unread.problem else ""))


def _table_sources(
    read: _Reader, files: Mapping[str, list[pathlib.Path]],
    join: Callable[[Iterable[text_files.Entry]], Iterator[joining.Joined]],
    split_column: str | None) -> dict[str, record_importer.Source]:
  """A source for each split; by a column's values where there is one."""
  if split_column is None:
    return {
        split: record_importer.Source(
            join(read(paths)), files=tuple(map(str, paths)),
            rows=sum(1 for _ in _read_all(paths)) if split == "train" else 0)
        for split, paths in files.items()}
  paths = [path for split_paths in files.values() for path in split_paths]
  names = collections.Counter(
      _split_value(entry, split_column) for entry in _read_all(paths))
  # Rows that tell no split are counted as problems of the first one.
  known = [name for name in records.SPLITS if name in names]
  if not known:
    raise errors.UserError(
        f"column {split_column!r} has no split; expected train, validation "
        "or test")
  sources = {}
  for number, split in enumerate(known):
    wanted = {split, ""} if number == 0 else {split}
    sources[split] = record_importer.Source(
        join(_entries_of(read, paths, split_column, wanted)),
        files=tuple(map(str, paths)), rows=sum(names[n] for n in wanted))
  return sources


def _entries_of(
    read: _Reader, paths: list[pathlib.Path], split_column: str,
    wanted: set[str]) -> Iterator[text_files.Entry]:
  return (entry for entry in read(paths)
          if _split_value(entry, split_column) in wanted)


def _split_value(entry: text_files.Entry, column: str) -> str:
  value = entry.value.get(column) if isinstance(entry.value, dict) else None
  return containers.split_of(value) or "" if isinstance(value, str) else ""


def _join_columns(
    spec: datasets.Dataset, columns: Mapping[str, str],
    entries: Iterable[text_files.Entry]) -> Iterator[joining.Joined]:
  for position, entry in enumerate(entries):
    try:
      yield _join_columns_of(spec, columns, entry, position)
    except datasets.BadRow as error:
      yield joining.dropped(entry.where, str(error))


def _join_columns_of(
    spec: datasets.Dataset, columns: Mapping[str, str],
    entry: text_files.Entry, position: int) -> joining.Joined:
  if entry.problem:
    raise datasets.BadRow(entry.problem)
  if not isinstance(entry.value, dict):
    raise datasets.BadRow("row_not_object")
  if "split" in columns and not _split_value(entry, columns["split"]):
    raise datasets.BadRow("no_split")
  values = {role: _own_text(entry.value.get(column), role)
            for role, column in columns.items() if role != "split"}
  if not values["inputs"].strip():
    raise datasets.BadRow("empty_inputs")
  row = datasets.Row(
      values["inputs"], "", position=position,
      choices=kinds.lettered_choices(values["inputs"])
      if spec.label_kind in (datasets.CHOICE, datasets.CHOICES) else ())
  row.label = labels.human_label(spec, values.get("label", ""), row)
  if "output" in columns:
    problem = "" if values["output"] else parsing.NO_COMPLETION
    return joining.Joined(row, values["output"] or None, problem, entry.where)
  rationale = values.get("rationale", "").strip()
  label = values.get("teacher_label", "").strip()
  if not rationale and not label:
    return joining.Joined(row, None, parsing.NO_COMPLETION, entry.where)
  status = "ok"
  if "teacher_label" in columns:
    label = labels.spelled(spec, label, row)
    status = labels.label_status(spec, label, row)
  if status == "ok" and not rationale:
    status = parsing.EMPTY_RATIONALE
  return joining.Joined(
      row, None, "", entry.where,
      parsed=parsing.Parsed(
          rationale, label, status,
          own_label=columns.get("teacher_label") == columns.get("label")))


def _labelled(read: _Reader, files: Mapping[str, list[pathlib.Path]],
              columns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
  """The human labels and the inputs of the rows that have both."""
  if "label" not in columns:
    return
  for entry in itertools.chain.from_iterable(map(read, files.values())):
    try:
      fields = entry.value if isinstance(entry.value, dict) else {}
      label = _own_text(fields.get(columns["label"]), "label")
      yield label, _own_text(fields.get(columns["inputs"]), "inputs")
    except datasets.BadRow:
      continue


def _own_text(value: Any, role: str) -> str:
  """A cell as text; null is nothing."""
  text = table_files.as_text("" if value is None else value, role)
  if not isinstance(text, str):
    raise datasets.BadRow("field_not_text")
  if not text_files.is_encodable(text):
    raise datasets.BadRow("invalid_utf8")
  return text


# ---- Rows without completions -----------------------------------------------


def _row_source(
    spec: datasets.Dataset, reader: Callable[[], Iterator[text_files.Entry]],
    split: str) -> record_importer.Source:
  needs_count = spec.held_out and split == "train"
  return record_importer.Source(
      _join_rows(spec, reader()),
      rows=sum(1 for _ in reader()) if needs_count else 0)


def _divided(
    spec: datasets.Dataset, reader: Callable[[], Iterator[text_files.Entry]]
) -> dict[str, record_importer.Source]:
  """The splits of a source that is one file, by the papers' rule.

  SVAMP: `numpy.random.RandomState(0).permutation(1000)`, the last 200 are the
  test rows; this order is also that of the papers' row files.
  """
  if not spec.undivided_test_rows:
    return {"train": _row_source(spec, reader, "train")}
  import numpy as np

  entries = list(itertools.islice(reader(), 100_000))
  test_rows = spec.undivided_test_rows
  if len(entries) <= test_rows:
    raise errors.UserError(
        f"{spec.name}: {len(entries)} rows, expected more than the "
        f"{test_rows} of its test split")
  order = np.random.RandomState(0).permutation(len(entries)).tolist()
  parts = {"train": order[:-test_rows], "test": order[-test_rows:]}
  return {
      split: record_importer.Source(
          _join_rows(spec, (entries[i] for i in positions)),
          rows=len(positions))
      for split, positions in parts.items()}


def _join_rows(
    spec: datasets.Dataset, entries: Iterable[text_files.Entry]
) -> Iterator[joining.Joined]:
  for position, entry in enumerate(entries):
    row, reason = row_files.read_row(spec, entry, position)
    if row is None:
      yield joining.dropped(entry.where, reason)
    elif row.rationale.strip():
      yield joining.Joined(
          row, None, "", entry.where,
          parsed=parsing.Parsed(
              row.rationale.strip(), row.label, "ok", own_label=True))
    else:
      yield joining.Joined(row, None, parsing.NO_COMPLETION, entry.where)
