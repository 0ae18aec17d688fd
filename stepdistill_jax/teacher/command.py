"""Teacher outputs: import them, collect them, audit them.

  stepdistill teacher import --format=published --dataset=svamp \\
      --rows=data/svamp --outputs=data/svamp/palm --teacher=palm540b
  stepdistill teacher audit --dataset=svamp --teacher=palm540b
"""

import argparse

from stepdistill_jax.util import argument_parser

SUMMARY = "import, collect and audit teacher outputs"

# name -> module with SUMMARY, add_arguments(parser) and run(args).
_SUBCOMMANDS = {
    "import": "stepdistill_jax.teacher.importing.command",
    "prompt": "stepdistill_jax.teacher.prompt_command",
    "collect": "stepdistill_jax.teacher.ask.command",
    "audit": "stepdistill_jax.teacher.audit.command",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  argument_parser.add_commands(
      parser, _SUBCOMMANDS, dest="teacher_command", run="teacher_run")


def run(args: argparse.Namespace) -> int | None:
  return args.teacher_run(args)
