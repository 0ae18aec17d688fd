"""What a training run needs of a TPU slice or of GPUs, without them.

Compiles the train, eval and decode programs of a gin file for a named slice
on this CPU, and prints what they need and how fast they could be at best.
Records, vocabularies and checkpoints are not needed. GPUs need no driver, but
the compiler of the extra `plan-gpu`.

example:
  stepdistill plan --gin_file=gin/recipes/esnli_step_by_step_xxl.gin \\
      --topology=v5e-64 --price=1.2
"""

import argparse
import dataclasses
import json
import sys

from stepdistill_jax.config import gin_arguments
from stepdistill_jax.util import errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of `stepdistill plan`."""
  gin_arguments.add(parser)
  add = parser.add_argument
  add("--topology", required=True, metavar="NAME",
      help="slice: v5e-16, v5litepod-16, v5e:4x4, v4-32, v5p-8, v6e-8; GPUs: "
      "a100-8, h100-1, h100-16 (two hosts), h200-8, b200-8")
  add("--num_slices", type=int, default=1, metavar="N",
      help="so many of them, joined by the data-center network, or by "
      "InfiniBand (1)")
  add("--programs", default="train,eval,decode", metavar="NAME,...",
      help="which to compile (train,eval,decode)")
  add("--quick", action="store_true",
      help="compile in a fraction of the time; memory may differ a little")
  add("--price", type=float, metavar="X",
      help="of a chip for an hour, for the cost")
  add("--search", action="store_true",
      help="try shardings, microbatches and remat policies, and recommend")
  add("--search_limit", type=int, default=6, metavar="N",
      help="how many to compile at most (6)")
  add("--search_minutes", type=float, default=30, metavar="M",
      help="begin no other compilation after so long (30)")
  add("--json", action="store_true", help="print JSON")


def _check(args: argparse.Namespace) -> None:
  """Raises UserError for what no plan can be made of."""
  if not args.gin_file:
    raise errors.UserError(
        "stepdistill plan needs the gin files of a run, such as "
        "--gin_file=gin/recipes/esnli_step_by_step_base.gin")
  for name, value, least in (
      ("num_slices", args.num_slices, 1),
      ("search_limit", args.search_limit, 1),
      ("search_minutes", args.search_minutes, 0), ("price", args.price, 0)):
    if value is not None and not least <= value < float("inf"):
      raise errors.UserError(f"--{name}={value:g}: expected {least} or more")


def run(args: argparse.Namespace) -> int:
  """Prints the plan; 0 if all fits, else 1."""
  from stepdistill_jax.plan import chips, planning, programs

  _check(args)
  topology = chips.parse(args.topology)
  topology = dataclasses.replace(
      topology, slices=topology.slices * args.num_slices)
  names = [name for name in args.programs.split(",") if name]
  planning.check_programs(names)
  from stepdistill_jax.config import gin_config
  gin_config.check_early(
      args.gin_file, [*programs.STAYS_OPEN, *args.gin_bindings],
      args.gin_search_paths, ["train"])
  programs.prepare_process(topology)
  from stepdistill_jax.plan import search, text as plan_text
  request = planning.Request(
      topology, args.gin_file, args.gin_bindings, args.gin_search_paths, names,
      args.price, args.quick)
  say = lambda text: print(text, file=sys.stderr, flush=True)
  if args.search:
    found = search.search(
        request, args.search_limit, 60 * args.search_minutes, say)
    print(json.dumps(found, indent=2) if args.json
          else "\n".join(plan_text.search_lines(found)))
    return 0 if any(c["fits"] for c in found["candidates"]) else 1
  plan = planning.make(request, say)
  print(json.dumps(plan, indent=2) if args.json
        else "\n".join(plan_text.lines_of(plan)))
  return 0 if plan["fits"] else 1
