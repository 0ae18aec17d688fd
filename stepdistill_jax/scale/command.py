"""What a training run needs on a TPU slice, without a TPU.

Compiles the train, eval and decode programs of a gin file for a named slice
on this CPU, and prints what they need and how fast they could be at best.
Records, vocabularies and checkpoints are not needed.

example:
  stepdistill plan --gin_file=gin/recipes/esnli_step_by_step_xxl.gin \\
      --topology=v5e-64 --price=1.2
"""

from __future__ import annotations

import argparse
import json
import sys

from stepdistill_jax import errors
from stepdistill_jax import gin_arguments

SUMMARY = "memory, FLOPs, speed bound and cost of a run on a TPU slice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of `stepdistill plan`."""
  gin_arguments.add(parser)
  parser.add_argument(
      "--topology", required=True, metavar="NAME",
      help="slice: v5e-16, v5litepod-16, v5e:4x4, v4-32, v5p-8, v6e-8")
  parser.add_argument(
      "--programs", default="train,eval,decode", metavar="NAME,...",
      help="which to compile (train,eval,decode)")
  parser.add_argument(
      "--price", type=float, metavar="X",
      help="of a chip for an hour, for the cost")
  parser.add_argument(
      "--search", action="store_true",
      help="try shardings, microbatches and remat policies, and recommend")
  parser.add_argument(
      "--search_limit", type=int, default=6, metavar="N",
      help="how many to compile at most (6)")
  parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
  """Prints the plan; 0 if all fits, else 1."""
  from stepdistill_jax.scale import chips  # pylint: disable=g-import-not-at-top
  from stepdistill_jax.scale import planning  # pylint: disable=g-import-not-at-top
  from stepdistill_jax.scale import programs  # pylint: disable=g-import-not-at-top
  topology = chips.parse(args.topology)
  if not args.gin_file:
    raise errors.UserError("stepdistill plan needs at least one --gin_file")
  if args.price is not None and args.price < 0 or args.search_limit < 1:
    raise errors.UserError("--price must not be negative, --search_limit at "
                           "least 1")
  names = [name for name in args.programs.split(",") if name]
  planning.check_programs(names)
  programs.prepare_process()
  from stepdistill_jax import runtime  # pylint: disable=g-import-not-at-top
  from stepdistill_jax import t5x_finder  # pylint: disable=g-import-not-at-top
  from stepdistill_jax.scale import plan_text  # pylint: disable=g-import-not-at-top
  from stepdistill_jax.scale import search  # pylint: disable=g-import-not-at-top
  runtime.configure()
  if "t5x" not in sys.modules:
    t5x_finder.install("embedded")
  runtime.import_tensorflow()
  request = planning.Request(
      topology, args.gin_file, args.gin_bindings,
      [p for p in args.gin_search_paths.split(",") if p], names, args.price)
  say = lambda text: print(text, file=sys.stderr, flush=True)
  if args.search:
    found = search.search(request, args.search_limit, say)
    print(json.dumps({"candidates": found}, indent=2) if args.json
          else "\n".join(plan_text.search_lines(found)))
    return 0 if any(c["fits"] for c in found) else 1
  plan = planning.make(request, say)
  print(json.dumps(plan, indent=2) if args.json
        else "\n".join(plan_text.lines_of(plan)))
  return 0 if plan["fits"] else 1
