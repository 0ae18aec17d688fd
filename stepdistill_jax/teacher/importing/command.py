"""Import teacher outputs into distillation records.

Published caches (rows and PaLM completions joined by position):

  stepdistill teacher import --format=published --dataset=svamp \\
      --rows=data/svamp --outputs=data/svamp/palm --teacher=palm540b

Raw Llama-3 generations (joined by content), and their cleaned form:

  stepdistill teacher import --format=llama3 --dataset=svamp \\
      --rows=data/svamp --outputs=data/svamp/llama3 --teacher=llama3
  stepdistill teacher import --format=llama3_cot --dataset=cqa \\
      --rows=data/cqa --outputs=data/cqa/llama3_cot --teacher=llama3_cot

Caches of our own format (a folder with manifest.json, or one folder a split):

  stepdistill teacher import --format=cache --outputs=my_cache

Your own CSV, TSV, JSON Lines or Parquet (train.csv, test.csv, or one file):

  stepdistill teacher import --format=columns --dataset=mine \\
      --outputs=my_data --teacher=my_llama \\
      --columns=inputs=question,label=answer,rationale=why

A known data set without a teacher (authors', Hugging Face or TFDS files):

  stepdistill teacher import --format=rows --dataset=gsm8k --rows=data/gsm8k
"""

import argparse
import json
import os
import pathlib
from typing import Any

from stepdistill_jax.util import (
  argument_parser,
  durable_files,
  errors,
  locations,
)

# format -> the options that it cannot do without.
_NEEDS = {
    "published": ("dataset", "rows", "outputs", "teacher"),
    "llama3": ("dataset", "rows", "outputs", "teacher"),
    "llama3_cot": ("dataset", "rows", "outputs", "teacher"),
    "cache": ("outputs",),
    "columns": ("dataset", "outputs", "columns", "teacher"),
    "rows": ("dataset", "rows"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--format", choices=tuple(_NEEDS), default="published",
      help="form of the completions (default: %(default)s)")
  add("--dataset", help="svamp, cqa, anli1, esnli, asdiv, ...")
  add("--rows", metavar="DIR", help="folder of the data set's row files")
  add("--outputs", metavar="DIR", nargs="+",
      help="folder (or files) of the completions")
  add("--teacher", help="name of the teacher in task names, such as palm540b")
  argument_parser.add_records_dir(parser, "--output")
  add("--columns", metavar="ROLE=COLUMN,...",
      help="of --format=columns; roles: inputs (or messages), label, "
      "rationale and teacher_label (or output, a completion to parse), split")
  add("--template", default="", metavar="TEXT",
      help="of --format=columns: inputs of several columns, as in "
      "'{title}\\n{body}'")
  add("--student-prompt", "--student_prompt", choices=("user", "full", "short"),
      default="user",
      help="of rows of messages: what the student reads: the user's prompt "
      "(the default), the system's message too (full), or without the lines "
      "that all prompts begin and end with (short)")
  add("--raw", metavar="DIR",
      help="of --format=llama3_cot: folder of the raw generations (default: "
      "llama3 beside --outputs)")
  add("--keep-unverified-labels", action="store_true",
      help="of --format=llama3_cot: take labels for the teacher's that may "
      "be copied human labels")
  add("--reject-wrong", "--reject_wrong", action="store_true",
      help="of --format=cache: use no rationale that leads to another label "
      "than the human one")
  add_reading_arguments(parser)
  add("--split", choices=("train", "validation", "test"),
      help="of --format=columns and one file: which split its rows are "
      "(default: by the file's name, else train)")
  add("--leave_out", default="", metavar="DATASET,...",
      help="drop the rows for training and validation that ask a question of "
      "these data sets' test splits")
  add("--rules", default="strict",
      help="parsing rules: strict, or reference for what the papers' code "
      "does, defects included (default: %(default)s)")
  add("--verbalize", default="", metavar="LABEL=TEXT,...",
      help="write other words for labels, such as 0=no,1=yes")
  add("--vocabulary", metavar="PATH",
      help="install this SentencePiece model as T5's vocabulary")
  add("--json", action="store_true", help="print the counts as JSON")


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds what `reading_options` reads; also of `teacher collect`."""
  group = parser.add_argument_group("how answers are read (docs/teachers.md)")
  add = group.add_argument
  add("--kind", help="of your own data's labels: class, choice, choices, "
      "number, equation, text, summary or conversation (default: guessed from "
      "them, and said)")
  add("--labels", default="", metavar="LABEL,...",
      help="all labels of --kind=class (default: those of the rows)")
  add("--marker", action="append", default=[], metavar="TEXT",
      help="text behind which the answer stands, such as 'Verdict:'; may be "
      "given several times")
  add("--thinking", choices=("missing", "always", "never"), default="missing",
      help="whether a reasoning model's thinking is the rationale: where there "
      "is no other (the default), always, never")


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
  """Fields of `record_importer.Options`: how answers are read."""
  from stepdistill_jax.answers import reading
  from stepdistill_jax.records import datasets

  if args.kind is not None:
    errors.require_known("value of --kind", args.kind, datasets.KINDS)
  labels = (label.strip() for label in args.labels.split(","))
  return {"kind": args.kind, "labels": tuple(filter(None, labels)),
          "reading": reading.Options(tuple(args.marker), args.thinking)}


def run(args: argparse.Namespace) -> int | None:
  if args.vocabulary:
    path = install_vocabulary(args.vocabulary)
    if not args.json:
      print(f"vocabulary: {path}")
    if not args.outputs and not args.rows:
      return None
  missing = [f"--{name}" for name in _NEEDS[args.format]
             if not getattr(args, name)]
  if missing:
    raise errors.UserError(
        f"--format={args.format} needs {', '.join(missing)}; see "
        "`stepdistill teacher import --help`")
  if args.split and args.format != "columns":
    raise errors.UserError(
        f"--split={args.split} is of --format=columns alone; the files of "
        f"--format={args.format} say their splits themselves")
  for flag, paths in (("rows", [args.rows]), ("raw", [args.raw]),
                      ("outputs", args.outputs or ())):
    for path in filter(None, paths):
      if not os.path.exists(path):
        raise errors.UserError(f"there is no file or folder --{flag}={path}")
  result = _import(args)
  if args.json:
    print(json.dumps({"folder": str(result.folder), **result.info}))
  else:
    from stepdistill_jax.teacher.importing import counts

    print("\n".join(counts.summary_lines(result)))
  return None


def _import(args: argparse.Namespace) -> Any:
  """Calls the importer of the format; returns its ImportResult."""
  from stepdistill_jax.records import vocabulary_losses
  from stepdistill_jax.teacher.importing import formats, tables
  from stepdistill_jax.util import progress

  with progress.Bars("rows", quiet=args.json) as bars:
    options = {"dataset": args.dataset, "teacher": args.teacher,
               "output": args.records_dir, "rules": args.rules,
               "progress": bars.update, "leave_out": tuple(filter(None, map(
                   str.strip, args.leave_out.split(",")))),
               "verbalize": vocabulary_losses.parse_verbalizers(args.verbalize),
               **reading_options(args)}
    if args.format == "llama3":
      return formats.import_llama3(
          rows=args.rows, outputs=args.outputs, **options)
    if args.format == "rows":
      return tables.import_rows(
          **options | {"rows": args.rows, "teacher": args.teacher or "human"})
    if len(args.outputs) > 1:
      raise errors.UserError(
          f"--format={args.format} takes one folder of --outputs, got "
          f"{len(args.outputs)}")
    outputs = args.outputs[0]
    if args.format == "published":
      return formats.import_published(
          rows=args.rows, outputs=outputs, **options)
    if args.format == "llama3_cot":
      return formats.import_llama3_cot(
          rows=args.rows, outputs=outputs, raw=args.raw,
          keep_unverified=args.keep_unverified_labels, **options)
    if args.format == "columns":
      return tables.import_columns(
          outputs=outputs, columns=tables.parse_columns(
              args.columns, bool(args.template)),
          template=args.template, student_prompt=args.student_prompt,
          split=args.split, **options)
    return formats.import_cache(
        outputs, reject_wrong=args.reject_wrong, **options)


def install_vocabulary(source: str) -> pathlib.Path:
  """Copies a SentencePiece model to where T5's vocabulary is looked for.

  Raises:
    errors.UserError: `source` is not a SentencePiece model.
  """
  from stepdistill_jax.records import vocabulary_losses

  pieces = vocabulary_losses.load(source, "--vocabulary=")
  if (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) != (0, 1, 2):
    raise errors.UserError(
        f"--vocabulary={source} has pad, EOS and unknown ids "
        f"{pieces.pad_id()}, {pieces.eos_id()}, {pieces.unk_id()}; T5's are "
        "0, 1, 2")
  target = locations.data_home() / "vocab" / "spiece.model"
  target.parent.mkdir(parents=True, exist_ok=True)
  durable_files.replace(target, pathlib.Path(source).read_bytes())
  return target
