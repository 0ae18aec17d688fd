"""Tables and figures of many runs: by method, size, share of data and seed.

Reads run folders (MODEL_DIR), outputs of stepdistill-eval, or folders that
hold them. Test accuracies come from stepdistill-eval; a run without them is
shown with its own last validation accuracy. Runs that have not ended are listed
too, with their state, step and best score.

example:
  stepdistill-eval --checkpoint=runs/svamp_a --checkpoint=runs/svamp_b \\
    --teacher=palm540b --benchmarks=svamp --output=runs/scores
  stepdistill report runs --output=report
"""

import pathlib


def add_arguments(parser) -> None:
  add = parser.add_argument
  add("runs", nargs="+", metavar="RUN",
      help="run folder, output of stepdistill-eval, or folder of these")
  add("--output", default="report", metavar="DIR",
      help="where report.html, report.md, report.json and the figures go "
      "(default: report)")
  add("--json", action="store_true", help="print report.json, no tables")


def run(args) -> None:
  from stepdistill_jax.evaluation.report import (
    outputs,
    run_report,
    text as text_report,
  )

  report = run_report.make(args.runs)
  folder = pathlib.Path(args.output)
  result = run_report.write(report, folder)
  if args.json:
    print(outputs.dump_json(result), end="")
    return
  for table in run_report.terminal_tables(report):
    text_report.print_table(table)
  for line in report.skipped:
    print(f"skipped: {line}")
  for name in (*result["figures"], "report.html"):
    print(f"wrote {folder / name}")
