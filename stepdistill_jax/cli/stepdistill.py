"""The `stepdistill` command: a table of subcommands, imported when asked for.

A subcommand's module defines `add_arguments(parser)` and
`run(args) -> int | None`. Help must stay instant, so a module is imported when
its command is given, and imports jax, tensorflow and the like inside `run`.
"""

import argparse
import sys

from stepdistill_jax.config import gin_arguments
from stepdistill_jax.util import argument_parser, entry_points

# name -> (module, summary); the order is the order of `stepdistill --help`.
COMMANDS = {
    "quickstart": (
        "stepdistill_jax.quickstart.command",
        "embedded benchmark: train three methods, score, report"),
    "teacher": (
        "stepdistill_jax.teacher.command",
        "import, collect and audit teacher outputs"),
    "data": (
        "stepdistill_jax.data.command",
        "which data sets, teachers and tasks there are; a task's examples "
        "and lengths; tasks tokenized beforehand"),
    "checkpoint": (
        "stepdistill_jax.interop.command",
        "checkpoints: import-hf, export-hf, import-t5x, inspect, verify"),
    "predict": (
        "stepdistill_jax.evaluation.predict",
        "a trained student's answers to new texts"),
    "judge": (
        "stepdistill_jax.evaluation.judging.command",
        "judge answers of two systems, by a model and by people"),
    "scorecard": (
        "stepdistill_jax.evaluation.scorecard.command",
        "one page on quality, cost and pitfalls of a distillation"),
    "plan": (
        "stepdistill_jax.plan.command",
        "memory, FLOPs, speed bound and cost of a run on a TPU slice"),
    "study": (
        "stepdistill_jax.study.command",
        "every run of a table or figure: planned, run, scored, compared"),
    "report": (
        "stepdistill_jax.evaluation.report.command",
        "tables, learning curves and size curves of many runs"),
}


def build_parser() -> argparse.ArgumentParser:
  """Returns the parser of `stepdistill` with all its subcommands."""
  parser = argument_parser.Parser(
      prog="stepdistill",
      description="Distilling step-by-step in JAX: teacher outputs in, "
      "a scored T5 student out.",
      epilog="Training runs with `t5x train --gin_file=...`, scoring with "
      "`stepdistill-eval`.")
  argument_parser.add_commands(parser, COMMANDS, dest="command", run="run")
  return parser


@entry_points.command
def main(argv: list[str] | None = None) -> int:
  """Entry point of the `stepdistill` console script."""
  argv = sys.argv[1:] if argv is None else argv
  args = build_parser().parse_args(gin_arguments.rewrite(argv))
  return args.run(args) or 0


if __name__ == "__main__":
  sys.exit(main())
