"""What a data set's records look like to training.

example:
  stepdistill data lengths --dataset=svamp --teacher=palm540b
"""

from __future__ import annotations

import itertools
import pathlib

SUMMARY = "lengths of a data set's sequences, and what recipes should state"


def add_arguments(parser) -> None:
  subparsers = parser.add_subparsers(
      dest="data_command", metavar="COMMAND", required=True)
  lengths = subparsers.add_parser(
      "lengths", help="lengths in pieces, with lines for a gin file")
  lengths.add_argument("--dataset", required=True, help="such as svamp")
  lengths.add_argument("--teacher", required=True, help="such as palm540b")
  lengths.add_argument(
      "--records", metavar="DIR",
      help="folder of records (default: $STEPDISTILL_RECORDS)")
  lengths.add_argument(
      "--vocabulary", metavar="FILE",
      help="SentencePiece model (default: the data set's own, else T5's)")
  lengths.add_argument("--json", action="store_true", help="print JSON")


def run(args) -> None:
  import json

  from stepdistill_jax import locations
  from stepdistill_jax.data import lengths as lengths_lib
  from stepdistill_jax.teacher import audit
  from stepdistill_jax.teacher import records

  folder = pathlib.Path(args.records or locations.records_dir())
  splits = records.split_sizes(folder, args.dataset, args.teacher)
  own = records.vocabulary_path(folder, args.dataset)
  vocabulary = args.vocabulary or (
      own if own.is_file() else locations.t5_vocabulary_path())
  read = lambda names: itertools.chain.from_iterable(
      records.read_records(folder, args.dataset, args.teacher, split)
      for split in names)
  count = audit.piece_counter(vocabulary)
  lengths = lengths_lib.measure(read(splits), count)
  # Rows are filled with train records alone, but must hold all of them.
  row = lengths_lib.best_row(lengths)
  if args.json:
    print(json.dumps(lengths_lib.as_json(lengths, row), indent=1))
    return
  print(f"{args.dataset}/{args.teacher}: {len(lengths.inputs):,} records of "
        f"{', '.join(splits)}, in pieces of {vocabulary}, prefix and EOS "
        "included")
  for name, values in lengths.table().items():
    print(f"  {name:<10} mean {values['mean']:6.1f}" + "".join(
        f"  {key} {value:4d}" for key, value in values.items()
        if key != "mean"))
  print(f"packed rows of {row.inputs} and {row.targets}: {row.pairs:.1f} pairs "
        f"a row, {row.filled:.0%} of the positions filled")
  print("for gin/datasets:")
  for line in lengths_lib.gin_lines(lengths, row):
    print(f"  {line}")
