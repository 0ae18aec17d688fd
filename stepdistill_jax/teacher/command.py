"""Teacher outputs: import them, collect them, audit them.

  stepdistill teacher import --format=published --dataset=svamp \\
      --rows=data/svamp --outputs=data/svamp/palm --teacher=palm540b
  stepdistill teacher audit --dataset=svamp --teacher=palm540b
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util

SUMMARY = "import, collect and audit teacher outputs"

# name -> module with SUMMARY, add_arguments(parser) and run(args).
_SUBCOMMANDS = {
    "import": "stepdistill_jax.teacher.importing.command",
    "prompt": "stepdistill_jax.teacher.prompt_command",
    "collect": "stepdistill_jax.teacher.ask.command",
    "audit": "stepdistill_jax.teacher.audit.command",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  subparsers = parser.add_subparsers(
      dest="teacher_command", metavar="COMMAND", required=True,
      parser_class=type(parser))
  for name, module_name in _SUBCOMMANDS.items():
    if importlib.util.find_spec(module_name) is None:
      continue
    module = importlib.import_module(module_name)
    subparser = subparsers.add_parser(
        name, help=module.SUMMARY, description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(subparser)
    subparser.set_defaults(teacher_run=module.run)


def run(args: argparse.Namespace) -> int | None:
  return args.teacher_run(args)
