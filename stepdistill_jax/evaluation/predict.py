"""A trained student's answers to new texts, which need no labels.

examples:
  stepdistill predict runs/svamp questions.txt --output=answers.jsonl --explain
  stepdistill predict models/student questions.csv --column=question
  echo "Ann had 3 pens and lost 1. How many are left?" | \\
      stepdistill predict runs/svamp -

INPUT is a text file with a question in each line, JSON Lines, CSV, TSV or
Parquet. Answers come in its order, as a table on a terminal and as JSON Lines
elsewhere. What cannot be asked keeps its place there, with a named `problem`.
A call that was interrupted goes on where it stopped when it is given again.
"""

import argparse
import collections
from collections.abc import Iterator, Sequence
import itertools
import json
import os
import pathlib
import sys
from typing import Any

from stepdistill_jax.util import argument_parser, errors

_CHUNK = 256  # Texts that are asked, and then written, together.
_START = b'{"id": '  # Of each row.

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("student", metavar="STUDENT", type=argument_parser.local_or_remote,
      help="a run's folder, a checkpoint_STEP, or a folder in the Hugging Face "
      "format (an export)")
  add("input", metavar="INPUT",
      help="the texts (.jsonl, .json, .csv, .tsv, .parquet, else a line each), "
      "or - for standard input")
  add("--output", metavar="FILE", type=os.path.expanduser,
      help="JSON Lines (default: standard output)")
  add("--explain", action="store_true", help="also ask for rationales")
  add("--column", metavar="NAME",
      help="field or column with the text (default: input, inputs, text or "
      "question, else the only one)")
  add("--format", choices=("text", "jsonl", "csv", "tsv"),
      help="of standard input (default: text)")
  add("--overwrite", action="store_true",
      help="replace the answers that --output has")
  add("--batch_size", default="auto",
      help="texts at a time, or auto (the default)")
  add("--beam", type=argument_parser.positive, default=1,
      help="beam width; 1 (the default) is greedy")
  add("--prefix", default="auto",
      help="what stands before each text; auto (the default): what the student "
      "was trained with")
  add("--max_input_tokens", type=argument_parser.positive, default=2048,
      metavar="N", help="longer texts are not asked (default: %(default)s)")
  argument_parser.add_records_dir(parser, type=argument_parser.existing)


def run(args: argparse.Namespace) -> None:
  with errors.answers_are_kept():
    _run(args)


def _run(args: argparse.Namespace) -> None:
  from stepdistill_jax.evaluation import api, texts
  from stepdistill_jax.teacher.importing import row_files
  from stepdistill_jax.util import progress

  with texts.local_file(args.input, args.format) as path, (
      progress.Bars("texts")) as bars:
    if args.output:
      _check_output(pathlib.Path(args.output), path)
    # What is wrong with the file is found before the model is loaded.
    if next(texts.read(path, args.column), None) is None:
      raise errors.UserError(f"{args.input} has no text that can be asked")
    done, total = 0, row_files.guess_rows(path)

    def show(done_of_chunk: int, _: int, what: str) -> None:
      bars.update(done + done_of_chunk, total or None, what.split(", ")[-1])

    student = api.load(
        args.student, records_dir=args.records_dir, progress=show,
        max_input_tokens=args.max_input_tokens, batch_size=args.batch_size,
        beam=args.beam, prefix=args.prefix)
    if args.explain:
      student.require_explains()
    writer = _Writer(args, student)
    found = iter(texts.read(path, args.column))
    while chunk := list(itertools.islice(found, _CHUNK)):
      writer.take(chunk)
      done += len(chunk)
  writer.close(args.input)


def _check_output(output: pathlib.Path, path: pathlib.Path) -> None:
  if not output.absolute().parent.is_dir():
    raise errors.UserError(
        f"--output={output}: there is no folder {output.parent}; make it first")
  if output.exists() and output.samefile(path):
    raise errors.UserError(
        f"--output={output} is the file of the texts; name another one")
  if output.exists() and not output.is_file():
    raise errors.UserError(f"{output} is not a file; name another --output")
  if not os.access(output if output.exists() else output.parent, os.W_OK):
    raise errors.UserError(
        f"--output={output} cannot be written (permission denied); name "
        "another one")


class _Writer:
  """Asks texts and writes rows; takes up those that are already there."""

  def __init__(self, args: argparse.Namespace, student: Any):
    from stepdistill_jax.evaluation import store

    self._student, self._explain = student, args.explain
    self._output = pathlib.Path(args.output) if args.output else None
    self._key = f"{student.name} " + store.identity_key(
        {**student.identity(), "beam": args.beam, "explain": args.explain})
    self._rows = self._problems = self._cut_answers = self._cut_rationales = 0
    self._reasons: collections.Counter[str] = collections.Counter()
    self._there: Iterator[Row] = iter(())
    if self._output is None:
      return
    if args.overwrite:
      self._output.unlink(missing_ok=True)
    if self._output.exists():
      self._there = _read_rows(self._output)  # Checked at the first text.
    else:
      self._output.touch()

  def take(self, chunk: Sequence[Any]) -> None:
    """Answers texts, but for those whose answers are there."""
    self._rows += len(chunk)
    for text, row in zip(chunk, self._there):
      self._require_same(text, row)
      self._count(row)
      chunk = chunk[1:]
    if rows := self._answer(chunk):
      self._write(rows)

  def close(self, path: str) -> None:
    """Says how many texts have no answer, or none that ends.

    Raises:
      errors.UserError: none could be asked, or there are more answers than
        texts.
    """
    if (row := next(self._there, None)) is not None:
      raise self._other(f"an answer to {row.get('id')!r}, which {path} has not")
    reasons = ", ".join(f"{n} {name}" for name, n in self._reasons.items())
    failed = sum(self._reasons.values())
    if failed == self._rows:
      raise errors.UserError(
          f"{path} has no text that can be asked" +
          (f": {failed} in all ({reasons})" if failed else ""))
    if failed:
      print(f"{failed:,} of {self._rows:,} texts have no answer ({reasons}): "
            "see `problem` in their rows", file=sys.stderr)
    for cut, what in ((self._cut_answers, "answers"),
                      (self._cut_rationales, "rationales")):
      if cut:
        print(f"{cut:,} new {what} are cut: they had not ended at the longest "
              "that the student writes", file=sys.stderr)
    if self._output is not None:
      print(f"{self._rows:,} rows in {self._output}")

  def _answer(self, chunk: Sequence[Any]) -> list[Row]:
    rows: list[Row] = []
    for text in chunk:
      problem = text.problem or self._student.problem_of(text.value)
      rows.append({"id": text.id, "input": text.value, "answer": None,
                   **({"problem": problem} if problem else {})})
    asked = [row for row in rows if "problem" not in row]
    given = self._student.answers(
        [row["input"] for row in asked], explain=self._explain)
    self._cut_answers += (given.cut or {}).get("answers") or 0
    self._cut_rationales += (given.cut or {}).get("rationales") or 0
    for row, answer in zip(asked, given.answers, strict=True):
      row.update(answer=answer.text, score=answer.score)
      if self._explain:
        row["rationale"] = answer.rationale
      if answer.text is None:
        row["problem"] = "no_answer_after_rationale"
    for row in rows:
      row["student"] = self._key
      self._count(row)
    return rows

  def _count(self, row: Row) -> None:
    if row.get("problem"):
      self._reasons[row["problem"]] += 1

  def _write(self, rows: Sequence[Row]) -> None:
    if self._output is None and sys.stdout.isatty():
      _print_table(rows)
      return
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows
                   ).encode("utf-8", "backslashreplace")
    if self._output is None:
      sys.stdout.buffer.write(data)
      sys.stdout.buffer.flush()
      return
    with self._output.open("ab") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())

  def _require_same(self, text: Any, row: Row) -> None:
    if (other := row.get("student")) != self._key:
      raise self._other(f"answers of {other!r}, not of {self._key!r}" + (
          " (a student of that name, asked with other flags or of other files)"
          if str(other).rpartition(" ")[0] == self._student.name else ""))
    if (row.get("id"), row.get("input")) != (text.id, text.value):
      raise self._other(f"an answer to {row.get('input')!r:.60}, not to "
                        f"{text.value!r:.60}")

  def _other(self, what: str) -> Exception:
    return errors.UserError(
        f"{self._output} has {what}; name another --output, or replace it "
        "with --overwrite")


def _read_rows(path: pathlib.Path) -> Iterator[Row]:
  """The rows of an earlier call; a line torn by a kill is cut off the file.

  Raises:
    errors.UserError: another kind of file.
  """
  with path.open("rb+") as file:
    end = 0
    for number, line in enumerate(file, start=1):
      torn = not line.endswith(b"\n")
      if not (_START.startswith(line[:len(_START)]) if torn
              else _is_row(line)):
        raise errors.UserError(
            f"{path} line {number} is not an answer of this command; name "
            "another --output, or replace it with --overwrite")
      end += 0 if torn else len(line)
    file.truncate(end)
  with path.open("rb") as file:
    yield from map(json.loads, file)


def _is_row(line: bytes) -> bool:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return False
  return isinstance(row, dict) and {"id", "input", "student"} <= set(row)


def _print_table(rows: Sequence[Row]) -> None:
  import rich.console
  import rich.table
  import rich.text

  names = [name for name in ("id", "input", "answer", "rationale", "problem")
           if any(row.get(name) is not None for row in rows)]
  table = rich.table.Table(*names)
  for row in rows:
    # A terminal would obey what a model or a file has of its codes.
    table.add_row(*(rich.text.Text("".join(
        c if c.isprintable() else " " for c in str(row.get(name) or "")))
                    for name in names))
  rich.console.Console().print(table)
