"""The embedded benchmark from nothing to a report, in one command.

Generates short stories, lets a simulated teacher explain them, trains small
students by `finetune`, `distill` and `step_by_step`, scores them on unseen
stories, and writes report.html, report.json, learning_curve.png and the
checkpoints to the output folder. Interrupted and run again, it goes on; what
is done is skipped.

  stepdistill quickstart                   three methods, two sizes of data
  stepdistill quickstart --budget=small    two methods, all stories; 6 minutes
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import shlex
import time
from typing import Any

from stepdistill_jax.quickstart import plan as plan_lib
from stepdistill_jax.util import durable_files, errors, runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--budget", choices=plan_lib.BUDGETS, default="full",
      help="small: two methods, one size, fewer steps (default: "
      "%(default)s)")
  add("--seed", type=int, default=0, metavar="N",
      help="other stories and students for each N (default: %(default)s)")
  add("--student", choices=plan_lib.STUDENTS, default="t5",
      help="a small T5, or a decoder of the Llama family (default: "
      "%(default)s)")
  add("--output_dir", metavar="DIR",
      help="folder of everything it writes (default: quickstart_output, "
      "quickstart_output_small, quickstart_output_decoder, ...)")
  add("--workers", type=int, metavar="N",
      help="students that train beside each other, each on one processor "
      "(default: 2; 1 with one processor, or where JAX_PLATFORMS names an "
      "accelerator)")
  add("--json", action="store_true", help="print report.json instead of tables")


def run(args: argparse.Namespace) -> int | None:
  if args.workers is not None and args.workers < 1:
    raise errors.UserError(f"--workers={args.workers}: must be at least 1")
  if args.seed < 0:
    raise errors.UserError(f"--seed={args.seed}: must be at least 0")
  plan = dataclasses.replace(
      plan_lib.BUDGETS[args.budget].with_seed(args.seed), student=args.student)
  default = "_".join([
      "quickstart_output", *([args.student] if args.student != "t5" else []),
      *([args.budget] if args.budget != "full" else []),
      *([f"seed{args.seed}"] if args.seed else [])])
  report = run_plan(
      pathlib.Path(args.output_dir or default), plan, quiet=args.json,
      workers=args.workers)
  if args.json:
    print(json.dumps(report, indent=1))


def run_plan(
    output_dir: pathlib.Path, plan: plan_lib.Plan, *, quiet: bool = False,
    workers: int | None = None) -> dict[str, Any]:
  """Does a plan, or what is left of it, and writes its report.

  Args:
    output_dir: the quickstart's folder.
    plan: what to train.
    quiet: print nothing.
    workers: how many processes train; None chooses.

  Returns:
    The contents of `report.json`.

  Raises:
    errors.UserError: the folder is another plan's, or cannot be written.
  """
  import rich.console

  console = rich.console.Console(quiet=quiet, highlight=False)
  output_dir = output_dir.absolute()
  with errors.reported(OSError, lambda error: (
      f"cannot write to {output_dir}: {error.strerror}; choose another folder "
      "with --output_dir=DIR")):
    plan_lib.claim_folder(output_dir, plan)
  try:
    return _run_stages(output_dir, plan, console, workers)
  except KeyboardInterrupt:
    console.print("stopped; the same command goes on from here", style="yellow")
    raise


def _run_stages(output_dir, plan, console, num_workers) -> dict[str, Any]:
  start = time.monotonic()
  from stepdistill_jax.quickstart import runs
  from stepdistill_jax.study import display, places, workers as workers_lib
  from stepdistill_jax.util import progress

  say = functools.partial(console.print, markup=False, soft_wrap=True)
  say(f"quickstart ({plan.budget}) -> {output_dir}")
  runtime.configure()
  place = places.of_small_students(num_workers)
  jobs = runs.jobs(output_dir, plan)
  with workers_lib.Workers(output_dir, jobs, place) as workers:
    runtime.import_tensorflow()
    from stepdistill_jax.quickstart import benchmark_data, summary, text

    data = benchmark_data.prepare(output_dir, plan)
    say(_data_line(plan, data))
    kind = "decoders " if plan.student == "decoder" else ""
    say(f"students: {len(list(plan.runs()))} {kind}of {plan.steps:,} steps "
        f"each on {place}; "
        f"accuracy on {plan.test_stories:,} unseen stories [95% interval]")
    with display.Display(jobs, console) as watcher:
      workers.run(watcher)
  report = summary.summarize(
      output_dir, plan, data, seconds=time.monotonic() - start)
  write_report(output_dir, report)
  text.print_report(report, console)
  say(f"\nreport: {output_dir / 'report.html'} (this took "
      f"{progress.duration(report['seconds'])}; checkpoints are in "
      f"{output_dir / 'runs'}, the teacher's audit is {data.audit_page})")
  if plan.shows:
    say(f"this can show {plan.shows}")
  if report["examples"]:
    example = report["examples"][0]
    say("next: ask a student for an answer and its reason, or bring your own "
        f"data (docs/own_data.md)\n  echo {shlex.quote(example['input'])} | "
        "stepdistill predict "
        f"{shlex.quote(str(output_dir / 'runs' / example['run']))} - --explain")
  return report


def _data_line(plan, data) -> str:
  train = data.import_info["sources"]["train"]
  counts = train["rules"][data.import_info["rules"]]
  unusable = train["completions"] - counts["statuses"]["ok"]["count"]
  return (
      f"data: {plan.train_stories:,} stories to train on, "
      f"{plan.validation_stories:,} to watch, {plan.test_stories:,} to test; "
      f"of the teacher's {train['completions']:,} train completions "
      f"{counts['correct']:,} are right and {unusable:,} unusable"
      + ("" if data.made else " (made earlier)"))


def write_report(output_dir: pathlib.Path, report: dict[str, Any]) -> None:
  """Writes `learning_curve.png`, `report.html` and, last, `report.json`."""
  from stepdistill_jax.quickstart import page

  curve = page.learning_curve(report)
  curve.save(output_dir)
  for name, content in (
      ("report.html", page.render(report, curve)),
      ("report.json", json.dumps(report, indent=1) + "\n")):
    durable_files.replace(output_dir / name, content)
