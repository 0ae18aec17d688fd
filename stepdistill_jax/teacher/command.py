"""Teacher outputs: import them, collect them, audit them.

  stepdistill teacher import --format=published --dataset=svamp \\
      --rows=data/svamp --outputs=data/svamp/palm --teacher=palm540b
  stepdistill teacher audit --dataset=svamp --teacher=palm540b
"""

import argparse

from stepdistill_jax.util import argument_parser

# name -> (module with add_arguments(parser) and run(args), summary).
_SUBCOMMANDS = {
    "import": (
        "stepdistill_jax.teacher.importing.command",
        "join teacher outputs with rows into distillation records"),
    "prompt": (
        "stepdistill_jax.teacher.prompt_command",
        "list the prompts, show one with a row in it"),
    "collect": (
        "stepdistill_jax.teacher.ask.command",
        "ask a live teacher, into a cache"),
    "audit": (
        "stepdistill_jax.teacher.audit.command",
        "count what is in records, and what is wrong with them"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  argument_parser.add_commands(
      parser, _SUBCOMMANDS, dest="teacher_command", run="teacher_run")


def run(args: argparse.Namespace) -> int | None:
  return args.teacher_run(args)
