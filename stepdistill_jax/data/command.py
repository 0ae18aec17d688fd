"""What a data set's records look like to training.

examples:
  stepdistill data list
  stepdistill data show svamp_step_gold_palm540b --examples=2
  stepdistill data lengths --dataset=svamp --teacher=palm540b
  stepdistill data cache --tasks=svamp_step_gold_palm540b
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import itertools
import pathlib
import shlex

from stepdistill_jax.config import gin_arguments
from stepdistill_jax.util import argument_parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
  subparsers = parser.add_subparsers(
      dest="data_command", metavar="COMMAND", required=True)
  listed = subparsers.add_parser(
      "list", help="data sets, teachers and tasks that there are")
  argument_parser.add_records_dir(listed, type=argument_parser.existing)
  listed.add_argument("--json", action="store_true", help="print JSON")
  listed.set_defaults(data_run=_list)
  _add_show(subparsers.add_parser(
      "show", help="a task's examples: texts, tokens, weights, what is cut",
      description="Shows a task's first examples as training has them, and "
      "counts what it leaves out and cuts. Lengths are those of "
      "gin/datasets/DATASET.gin if there is one, else of the gin files that "
      "are given; a recipe also has the task, the student's tokenizer, "
      "filters, and the tasks' weights."))
  lengths = subparsers.add_parser(
      "lengths", help="lengths in pieces, with lines for a gin file")
  add = lengths.add_argument
  add("--dataset", required=True, help="such as svamp, or a union: svamp_asdiv")
  add("--teacher", required=True, help="such as palm540b")
  argument_parser.add_records_dir(lengths, "--records")
  add("--vocabulary", metavar="FILE", help="SentencePiece model, or a "
      "decoder's tokenizer.json (default: the data set's own, else T5's)")
  add("--json", action="store_true", help="print JSON")
  lengths.set_defaults(data_run=_lengths)
  cache = subparsers.add_parser(
      "cache", help="tokenize tasks, so that their first run begins at once",
      description="Tokenizes tasks into files beside their records, as a first "
      "run does; or, with --output, into SeqIO's cache.")
  add = cache.add_argument
  add("--tasks", required=True, metavar="NAME,...",
      help="tasks or mixtures, such as svamp_step_gold_palm540b")
  add("--output", metavar="DIR",
      help="write SeqIO's cache here, for runs with USE_CACHED_TASKS")
  argument_parser.add_records_dir(cache, "--records")
  add("--shards", type=int, default=16,
      help="of a split, at least as many as hosts (default: %(default)s)")
  add("--overwrite", action="store_true",
      help="replace older caches of these tasks: needed after an import")
  add("--beam", metavar="OPTIONS", type=argument_parser.local_or_remote,
      help="let SeqIO write its cache with Apache Beam and these pipeline "
      "options, such as --beam=--runner=DirectRunner")
  cache.set_defaults(data_run=_cache)


def _add_show(show: argparse.ArgumentParser) -> None:
  add = show.add_argument
  add("task", nargs="?", metavar="TASK",
      help="task or mixture (default: the recipe's)")
  add("--split", default="", help="default: the recipe's, else train")
  add("--examples", type=argument_parser.positive, default=3, metavar="N",
      help="how many are shown (default: %(default)s)")
  gin_arguments.add(show)
  add("--tokenizer", metavar="FILE", type=argument_parser.existing,
      help="a decoder's tokenizer.json")
  add("--chat", action="store_true",
      help="with --tokenizer, prompts by its chat template")
  argument_parser.add_records_dir(show)
  add("--html", metavar="FILE", type=argument_parser.to_write,
      help="write a page, too")
  add("--json", action="store_true", help="print JSON")
  show.set_defaults(data_run=_show)


def run(args: argparse.Namespace) -> None:
  args.data_run(args)


def _list(args: argparse.Namespace) -> None:
  import json

  from stepdistill_jax.data import listing
  from stepdistill_jax.util import locations

  folder = args.records_dir or locations.records_dir()
  entries = listing.found(folder)
  if args.json:
    print(json.dumps(entries, indent=1))
    return
  print("\n".join(listing.lines(entries, folder)))


def _show(args: argparse.Namespace) -> None:
  from stepdistill_jax.data import show_command

  show_command.run(args)


def _lengths(args: argparse.Namespace) -> None:
  import json

  from stepdistill_jax.data import lengths as lengths_lib, tokenizer_files
  from stepdistill_jax.records import datasets, records
  from stepdistill_jax.teacher.audit import audit
  from stepdistill_jax.util import locations

  folder = pathlib.Path(args.records_dir or locations.records_dir())
  members = datasets.members(args.dataset)
  splits = [(member, split) for member in members
            for split in records.split_sizes(folder, member, args.teacher)]
  own = records.vocabulary_path(folder, members[0])  # A union has one.
  vocabulary = args.vocabulary or (
      own if own.is_file() else locations.t5_vocabulary_path())
  found = itertools.chain.from_iterable(
      records.read_records(folder, member, args.teacher, split)
      for member, split in splits)
  count = (tokenizer_files.token_counter(pathlib.Path(vocabulary))
           if str(vocabulary).endswith(".json")
           else audit.piece_counter(vocabulary))
  lengths = lengths_lib.measure(found, count)
  # Rows are filled with train records alone, but must hold all of them.
  row = lengths_lib.best_row(lengths)
  if args.json:
    print(json.dumps(lengths_lib.as_json(lengths, row), indent=1))
    return
  names = ", ".join(dict.fromkeys(split for _, split in splits))
  print(f"{args.dataset}/{args.teacher}: {len(lengths.inputs):,} records of "
        f"{names}, in pieces of {vocabulary}, prefix and EOS included")
  for name, values in lengths.table().items():
    print(f"  {name:<10} mean {values['mean']:6.1f}" + "".join(
        f"  {key} {value:4d}" for key, value in values.items()
        if key != "mean"))
  print(f"packed rows of {row.inputs} and {row.targets}: {row.pairs:.1f} pairs "
        f"a row, {row.filled:.0%} of the positions filled")
  print("for gin/datasets:")
  for line in lengths_lib.gin_lines(lengths, row):
    print(f"  {line}")


def _cache(args: argparse.Namespace) -> None:
  from stepdistill_jax.config import data_folder
  from stepdistill_jax.util import errors, runtime

  if args.shards < 1:
    raise errors.UserError(f"--shards is {args.shards}, expected 1 or more")
  names = [name.strip() for name in args.tasks.split(",") if name.strip()]
  if not names:
    raise errors.UserError(
        "--tasks names no task; pass for instance "
        "--tasks=svamp_step_gold_palm540b")
  runtime.configure()
  runtime.import_tensorflow()
  with data_folder.tfds_data_dir(args.records_dir or None):
    _write_caches(args, names)


def _write_caches(args: argparse.Namespace, names: Sequence[str]) -> None:
  from stepdistill_jax.data import (
    caching,
    preparation,
    record_check,
    vocabularies,
  )
  import stepdistill_jax.tasks  # noqa: F401
  from stepdistill_jax.util import errors

  found = caching.find_tasks(names)
  for task in found:  # Else training finds that there is nothing in them.
    if "train" in task.splits:
      record_check.check_records(task, task.name, "train")
  if args.output:
    if args.beam:
      caching.cache_with_beam(
          found, args.output, records_dir=vocabularies.records_dir(),
          shards=args.shards, overwrite=args.overwrite,
          pipeline_options=args.beam)
    for task in () if args.beam else found:
      written = caching.cache_task(
          task, args.output, shards=args.shards, overwrite=args.overwrite)
      print(f"{task.name} -> {pathlib.Path(args.output) / task.name}"
            + ("" if written else
               " (was there already; --overwrite writes it anew)"))
    print("use them: t5x train ... --gin.USE_CACHED_TASKS=True "
          f"--seqio_additional_cache_dirs={shlex.quote(args.output)}")
    return
  if args.beam or args.overwrite:
    raise errors.UserError(
        "--beam and --overwrite are of SeqIO's cache: pass its folder, "
        "--output=DIR")
  for task in found:
    if not preparation.first_step_of(task):
      raise errors.UserError(
          f"task {task.name} has preprocessors of its own: it is tokenized at "
          "every start, or with --output=DIR by SeqIO")
    files = preparation.prepared(task, "train")
    print(f"{task.name}: {files.count:,} train -> {files.folder}")
