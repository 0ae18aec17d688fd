"""The rows to ask a teacher about, as a stream."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import json
import pathlib
from typing import Any

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.records import datasets, messages, records
from stepdistill_jax.teacher import prompts, text_files
from stepdistill_jax.teacher.importing import (
  containers,
  counts as import_counts,
  row_files,
  table_files,
)
from stepdistill_jax.util import errors

NO_LABEL = "row_without_label"  # The prompt shows the label.
BAD_MESSAGES = "messages_not_a_conversation"
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True, slots=True)
class AskedRow:
  """A row.

  Attributes:
    id: as the record's: data set, split and a hash of the normalized input.
    input: the data set's fields, for the cache.
    fields: what a prompt can show.
    position: of the row in its file, from 0.
  """

  id: str
  input: Mapping[str, Any]
  fields: Mapping[str, Any]
  position: int


@dataclasses.dataclass(frozen=True)
class Source:
  """Where rows come from; `read` can be called more than once.

  Attributes:
    dataset: a known data set, or one of the user's own.
    split: `train`, `validation` or `test`.
    path: a row file, or a folder.
    files: the row files.
    columns: our name -> the file's column.
    limit: at most this many rows are read; None: all.
  """

  dataset: datasets.Dataset
  split: str
  path: pathlib.Path
  files: tuple[pathlib.Path, ...]
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limit: int | None = None

  def count(self) -> int:
    """Number of entries that `read` goes through."""
    return sum(1 for _ in itertools.islice(self._entries(), self.limit))

  def read(self, prompt: prompts.Prompt,
           dropped: import_counts.Reasons | None = None
           ) -> Iterator[AskedRow]:
    """Yields the rows in order.

    Args:
      prompt: the prompt, whose fields every row must have.
      dropped: counts the rows that cannot be asked about, by named reason.

    Raises:
      errors.UserError: the file cannot be read, or lacks a column.
    """
    with contextlib.closing(row_files.SeenInputs()) as seen:
      for position, entry in enumerate(
          itertools.islice(self._entries(), self.limit)):
        row, problem = self._row(entry, position, prompt, seen)
        if row is not None:
          yield row
        elif dropped is not None:
          dropped.add(problem, entry.where)

  def _entries(self) -> Iterator[text_files.Entry]:
    yield from row_files.read_objects(self.dataset, self.files, self.split)

  def _row(self, entry: text_files.Entry, position: int,
           prompt: prompts.Prompt, seen: row_files.SeenInputs
           ) -> tuple[AskedRow | None, str]:
    """Returns (row, "") or (None, named problem)."""
    if entry.problem:
      return None, entry.problem
    if not isinstance(entry.value, dict):
      return None, "row_not_object"
    fields = table_files.rename(entry, self.columns)
    if isinstance(fields.get("index"), int) and row_files.is_sparse(entry.path):
      position = fields["index"]
    if prompt.reads == answer_forms.TURNS:
      return self._conversation(fields, position, seen, entry.where)
    asked = None
    if "inputs" not in fields and self.dataset.name not in (
        datasets.DATASETS) and (
            turns := messages.turns_of(fields.get("messages"))):
      # The teacher reads the row's system message, too; a student need not.
      fields["inputs"], _ = messages.prompt_and_answer(turns)
      asked, _ = messages.prompt_and_answer(turns, messages.FULL)
    if position == 0 and self.dataset.name not in datasets.DATASETS:
      if "inputs" not in fields:
        raise errors.UserError(
            f"{entry.where} has no column `inputs` but {', '.join(fields)}; "
            "say which column is what, as in "
            "--columns=inputs=question,label=answer")
      for name, column in self.columns.items():
        if name != "messages":
          table_files.require_text(entry, name, column)
    row, problem = row_files.read_row(
        self.dataset, dataclasses.replace(entry, value=fields), position)
    if row is None:
      return None, problem
    shown = {**fields, "label": row.label,
             "inputs": asked or row.inputs.replace(records.EOS_TEXT, "\n")}
    if "label" in prompt.fields and not row.label:
      return None, NO_LABEL
    for name in prompt.fields:
      if name not in shown:
        raise errors.UserError(
            f"{entry.where}: prompt {prompt.id!r} shows a field {name!r}; the "
            f"row has {', '.join(shown)}")
    # A renamed column is kept once.
    kept = {name: value for name, value in fields.items()
            if name in self.columns or name not in self.columns.values()}
    return AskedRow(self._id(row.inputs, seen), kept, shown, position), ""

  def _conversation(self, fields: Mapping[str, Any], position: int,
                    seen: row_files.SeenInputs, where: str
                    ) -> tuple[AskedRow | None, str]:
    if "messages" not in fields:
      raise errors.UserError(
          f"{where} has no `messages`, which a conversation's row needs; map "
          "the column that has them with --columns=messages=COLUMN")
    if not is_conversation(fields["messages"]):
      return None, BAD_MESSAGES
    row_id = self._id(json.dumps(fields["messages"]), seen)
    return AskedRow(row_id, fields, fields, position), ""

  def _id(self, text: str, seen: row_files.SeenInputs) -> str:
    hashed = records.input_hash(text)
    return records.record_id(
        self.dataset.name, self.split, hashed, seen.add(hashed, self.split))


def find(dataset: str, rows: str, split: str,
         columns: Mapping[str, str], limit: int | None) -> Source:
  """Returns the source of `--rows`, a file or a known data set's folder.

  Raises:
    errors.UserError: it is not there.
  """
  spec = datasets.get(dataset)
  errors.require_known("split", split, records.SPLITS)
  path = pathlib.Path(rows).expanduser()
  if path.is_dir():
    found = row_files.find_row_file(spec, path, split)
    files = [found] if found else containers.files_by_split(
        path, spec.file_mark).get(split, [])
    if not files:
      expected = " or ".join(spec.row_files.get(split, ()))
      raise errors.UserError(
          f"{path} has no row file of {dataset!r} for split {split!r}"
          + (f" ({expected})" if expected else "")
          + "; give the file itself with --rows=FILE")
  elif path.is_file():
    files = [path]
  else:
    raise errors.UserError(f"there is no file or folder --rows={path}")
  return Source(spec, split, path, tuple(files), columns, limit)


def is_conversation(messages: Any) -> bool:
  """True for a list of messages that an assistant's turn is among."""
  return (
      isinstance(messages, list)
      and all(isinstance(m, dict) and m.get("role") in _ROLES
              and isinstance(m.get("content"), str)
              and text_files.is_encodable(m["content"]) for m in messages)
      and any(m["role"] == "assistant" for m in messages)
      and messages[0]["role"] != "assistant")
