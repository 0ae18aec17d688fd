r"""Judge the answers of two systems, by a model and by people.

  stepdistill judge --first=finetune.jsonl --second=step_by_step.jsonl \
      --questions=questions.jsonl --output=judged \
      --base_url=http://localhost:8000/v1 --model=Qwen/Qwen3-32B
  stepdistill judge pairs.jsonl --output=judged --export_sheet=sheet.html
  stepdistill judge pairs.jsonl --output=judged --verdicts=verdicts_ann.csv \
      --verdicts=verdicts_bob.csv

A model sees every pair in both orders. People grade a page that says nothing
of who answered. What is in --output is judged once; run the same command again
to go on, or with more --verdicts to compare graders.
"""

import argparse
import json
import pathlib
from typing import Any

from stepdistill_jax.teacher.ask import command as ask_command
from stepdistill_jax.util import argument_parser, errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("pairs", nargs="?", metavar="PAIRS", type=argument_parser.existing,
      help="a file with a question and two answers a row")
  for name in ("first", "second"):
    add(f"--{name}", metavar="FILE", type=argument_parser.existing,
        help=f"instead: the {name} system's answers, rows of id and text")
  add("--questions", metavar="FILE", type=argument_parser.existing,
      help="rows of id and question, where the answers' files have none")
  add("--scores", metavar="DIR", type=argument_parser.existing,
      help="instead: an --output of stepdistill-eval, whose systems --names "
      "are compared")
  add("--names", metavar="FIRST,SECOND", help="of the two systems")
  add("--output", metavar="DIR", required=True,
      help="folder of verdicts.jsonl, judging.json, report.html")
  add("--prompt", default="pairwise",
      help="pairwise, score, either with _with_reference, or a .toml file "
      "(default: %(default)s)")
  add("--judge", default="", metavar="NAME",
      help="its name in tables (default: made from --model)")
  add("--trained_by", action="append", default=[], metavar="MODEL",
      help="a teacher of the systems, for warnings of self-preference")
  add("--min_success_ratio", type=float, default=0.7, metavar="SHARE",
      help="fail if fewer of the judge's completions end as they should "
      "(default: %(default)s)")
  people = parser.add_argument_group("people, and judgements from elsewhere")
  people.add_argument(
      "--export_sheet", metavar="FILE",
      help="write a page for people (HTML, and CSV beside it), and end")
  people.add_argument(
      "--verdicts", action="append", default=[], metavar="[NAME=]FILE",
      help="a filled sheet, or judgements of another form")
  people.add_argument(
      "--graders", metavar="NAME,...",
      help="only these graders of --verdicts; others are counted")
  add("--shuffle_seed", type=int, default=0, metavar="N",
      help="of the sheet's order and of bootstraps (default: 0)")
  ask_command.add_server_arguments(parser)
  parser.set_defaults(temperature="0", top_p="1")
  add("--json", action="store_true", help="print judging.json")


def run(args: argparse.Namespace) -> int | None:
  from stepdistill_jax.evaluation.judging import (
    report,
    sheet,
    verdicts as verdicts_lib,
  )
  from stepdistill_jax.teacher.importing import counts as import_counts

  pairs = _pairs(args)
  if args.export_sheet:
    table = sheet.write(pairs, pathlib.Path(args.export_sheet),
                        seed=args.shuffle_seed)
    print(f"{len(pairs.pairs):,} pairs -> {args.export_sheet} and {table}; "
          "give the filled table back with --verdicts=FILE")
    for line in import_counts.with_places("  pairs: ", pairs.dropped.as_json()):
      print(line)
    return None
  if not args.model and not args.verdicts:
    raise errors.UserError(
        "nobody judges: name a --model (with --base_url for a server of your "
        "own), give --verdicts=FILE, or write a page for people with "
        "--export_sheet=FILE")
  folder = pathlib.Path(args.output)
  folder.mkdir(parents=True, exist_ok=True)
  if args.model and args.dry_run:
    from stepdistill_jax.evaluation.judging import asking
    from stepdistill_jax.teacher.ask import dry_run

    return dry_run.show(asking.prepare(args, pairs, folder)[0], args.json)
  verdicts, scores, not_read, warnings, groups = [], [], {}, [], []
  prompt, exit_code = None, 0
  graders = tuple(filter(None, map(str.strip, (args.graders or "").split(","))))
  seen: set[str] = set()
  for given in args.verdicts:
    name, path = argument_parser.split_name(given)
    if not pathlib.Path(path).is_file():
      raise errors.UserError(f"there is no file --verdicts={path}")
    found, reasons = verdicts_lib.read_file(
        pathlib.Path(path), pairs, grader=name, graders=graders, seen=seen,
        earlier=verdicts)
    not_read[given] = reasons.as_json()
    verdicts += found
    groups.append(list(dict.fromkeys(said.grader for said in found)))
  for name in graders:
    errors.require_known("grader", name, seen, "(of --verdicts)")
  if args.model:
    from stepdistill_jax.evaluation.judging import asking, win_rates

    judged = asking.ask(args, pairs, folder, seen)
    verdicts += judged.verdicts
    scores, prompt = judged.scores, judged.prompt
    not_read[args.judge or args.model] = judged.reasons.as_json()
    warnings = win_rates.self_preference(args.model, {
        **dict.fromkeys(pairs.names, "system"),
        **dict.fromkeys(args.trained_by, "teacher")})
    if missing := judged.outcome.missing:
      warnings.append(
          f"{missing:,} of the judge's {judged.outcome.total:,} judgements are "
          "missing; run the same command again to go on")
    exit_code = judged.exit_code
  results = report.make(
      pairs, verdicts, scores, warnings=warnings, not_read=not_read,
      groups=groups, prompt=prompt, seed=args.shuffle_seed)
  page = report.write(folder, results, verdicts, scores)
  if args.json:
    print(json.dumps(results, ensure_ascii=False))
  else:
    print("\n".join([*report.lines(results), f"page: {page}"]))
  return exit_code


def _pairs(args: argparse.Namespace) -> Any:
  """The `pairs.Pairs` to judge."""
  from stepdistill_jax.evaluation.judging import pairs as pairs_lib

  names = None
  if args.names:
    given = [name.strip() for name in args.names.split(",")]
    if len(given) != 2 or not all(given) or given[0] == given[1]:
      raise errors.UserError(
          f"--names={args.names}; expected two names with a comma between")
    names = given[0], given[1]
  ways = [args.pairs, args.first or args.second, args.scores]
  if sum(map(bool, ways)) > 1:
    raise errors.UserError(
        "give one of PAIRS, --scores=DIR, or --first=FILE and --second=FILE")
  if args.scores:
    if names is None:
      raise errors.UserError(
          f"--scores={args.scores} may have many systems; say which two with "
          "--names=FIRST,SECOND")
    return pairs_lib.join_scored(pathlib.Path(args.scores), names)
  if args.pairs:
    return pairs_lib.read_pairs(pathlib.Path(args.pairs), names)
  if not (args.first and args.second):
    raise errors.UserError(
        "there is nothing to judge: give a file PAIRS, --scores=DIR, or "
        "--first=FILE and --second=FILE")
  return pairs_lib.join_predictions(
      pathlib.Path(args.first), pathlib.Path(args.second),
      pathlib.Path(args.questions) if args.questions else None, names)
