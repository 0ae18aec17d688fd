r"""One page on a distillation: quality, cost, and what to doubt.

  stepdistill-eval --teacher=palm540b --checkpoint=untrained=runs/start \
      --checkpoint=runs/svamp --benchmarks=svamp --latency=20 --output=scores
  stepdistill judge ... --output=judged
  stepdistill scorecard --scores=scores --judged=judged --output=card \
      --price=svamp=0.05,0.10

It measures nothing itself: what a row lacks was not measured by those calls.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from stepdistill_jax.util import argument_parser, errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--scores", metavar="DIR", action="append", required=True,
      type=argument_parser.existing, help="an --output of stepdistill-eval")
  add("--judged", metavar="DIR", action="append", default=[],
      type=argument_parser.existing, help="an --output of stepdistill judge")
  add("--teacher", metavar="NAME",
      help="the system that quality is a share of (default: the one teacher)")
  add("--price", metavar="NAME=IN,OUT", action="append", default=[],
      help="a system's dollars per million prompt and completion tokens")
  add("--made", metavar="NAME", action="append", default=[],
      help="a system whose answers, or whose teacher's, were made up (by a "
      "stand-in), or such a judge: no quality is shown of it")
  add("--output", metavar="DIR", required=True,
      help="folder of scorecard.json, report.html, report.md")
  add("--json", action="store_true", help="print scorecard.json")


def run(args: argparse.Namespace) -> int | None:
  from stepdistill_jax.evaluation.report import outputs, tables, text
  from stepdistill_jax.evaluation.scorecard import card, pitfalls
  from stepdistill_jax.util import durable_files

  scores = [card.read(pathlib.Path(path), "results.json")
            for path in args.scores]
  judged = [card.read(pathlib.Path(path), "judging.json")
            for path in args.judged]
  graders = {g["grader"] for r in judged for g in r["graders"]}
  made = [name for name in args.made if name not in graders]
  rows = card.rows_of(scores, args.teacher, _prices(args.price), made)
  found = card.tables(rows)
  wins = tables.make(
      "Judged", [(r, g) for r in judged for g in r["graders"]
                 if g["grader"] not in args.made], {
          "grader": lambda pair: pair[1]["grader"],
          "of": lambda pair: " over ".join(reversed(pair[0]["systems"])),
          "win rate %": lambda pair: tables.percent(pair[1]["win_rate"]),
          "95%": lambda pair: tables.interval(pair[1]["ci95"]),
          "pairs": lambda pair: pair[1]["pairs"]})
  doubts = pitfalls.find(scores, judged, args.made)
  found += [table for table in (
      card.differences(scores, args.made), wins, tables.make(
          "What to doubt", doubts, {"pitfall": lambda line: line}))
            if table.rows]
  folder = pathlib.Path(args.output)
  folder.mkdir(parents=True, exist_ok=True)
  values = {"code_version": outputs.code_version(),
            "rows": [dataclasses.asdict(row) for row in rows],
            "made_up": args.made,
            "differences": [p for r in scores for p in r["comparisons"]
                            if not {p["first"], p["second"]} & set(args.made)],
            "pitfalls": doubts}
  page = outputs.write_tables(
      folder, "Scorecard", [f"By stepdistill_jax {outputs.code_version()}"],
      [] if doubts else ["No pitfall was found by the rules."], found)
  durable_files.replace(folder / "scorecard.json",
                        json.dumps(values, indent=2) + "\n")
  if args.json:
    print(json.dumps(values))
    return None
  for table in found:
    text.print_table(table)
  print(f"page: {page}")
  return None


def _prices(given: Sequence[str]) -> dict[str, Any]:
  """Each system's `card.Price`."""
  prices: dict[str, Any] = {}
  for name, price in map(_price, given):
    if prices.setdefault(name, price) != price:
      raise errors.UserError(
          f"--price={name} is given twice, as {prices[name].prompt:g},"
          f"{prices[name].completion:g} and as {price.prompt:g},"
          f"{price.completion:g}; expected one for each system")
  return prices


def _price(given: str) -> tuple[str, Any]:
  """A system's name and its `card.Price`."""
  from stepdistill_jax.evaluation.scorecard import card

  name, _, prices = given.rpartition("=")
  try:
    prompt, completion = map(float, prices.split(","))
  except ValueError:
    prompt = completion = math.nan
  if not name or not all(
      0 <= price < math.inf for price in (prompt, completion)):
    raise errors.UserError(
        f"--price={given}: expected NAME=IN,OUT, dollars per million prompt "
        "and completion tokens, such as svamp=0.05,0.10")
  return name, card.Price(prompt, completion)
