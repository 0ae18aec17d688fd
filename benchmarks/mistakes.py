"""How soon ten mistakes of users are reported, each in a cold process.

  python benchmarks/mistakes.py [--rounds=5]

Prints the median of each, and whether all are reported within two seconds,
with exit code 2 and one line; and the same of all commands' --help, which
should take 0.3 s. The processor's time is what a quiet machine would show.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import shlex
import statistics
import subprocess
import sys
import time

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_GOAL, _HELP_GOAL = 2.0, 0.3
_TRAIN = ("t5x train --gin_file=gin/recipes/svamp_step_by_step.gin "
          "--gin.MODEL_DIR='\"/tmp/run\"' ")
MISTAKES = {
    "a macro's name": _TRAIN + "--gin.BATCHSIZE=3",
    "an argument's name": _TRAIN + "--gin.students.StepDistillModel.zloss=1",
    "a configurable's name": _TRAIN + "--gin.ALPHA='@students.linaer()'",
    "a text without quotes": _TRAIN + "--gin.TEACHER=palm540b",
    "a macro that is not set":
        "t5x train --gin_file=gin/recipes/svamp_step_by_step.gin",
    "records that are not there": _TRAIN + "--records_dir=/nowhere",
    "a gin file": "t5x train --gin_file=gin/recipes/svamp_step.gin",
    "a checkpoint": "stepdistill-eval --checkpoint=/nowhere/run "
                    "--benchmarks=svamp",
    "a folder of records": "stepdistill data lengths --dataset=svamp "
                           "--teacher=palm540b --records_dir=/nowhere",
    "a file of texts": "stepdistill predict runs/nowhere nowhere.txt",
}
_HELP = (
    "stepdistill", "stepdistill quickstart", "stepdistill teacher",
    *(f"stepdistill teacher {name}"
      for name in ("import", "prompt", "collect", "audit")),
    "stepdistill data", *(f"stepdistill data {name}" for name in (
        "list", "show", "lengths", "cache")),
    "stepdistill checkpoint", *(f"stepdistill checkpoint {name}" for name in (
        "import-hf", "export-hf", "import-t5x", "inspect", "verify")),
    "stepdistill predict", "stepdistill judge", "stepdistill scorecard",
    "stepdistill plan", "stepdistill report", "stepdistill-eval",
    *(f"t5x {name}" for name in (
        "train", "eval", "infer", "precompile", "export")))


def _seconds(command: str, expected: int) -> tuple[float, float]:
  """Runs a command; returns its wall time and its processor's time.

  Its exit code must be this one, and a mistake's message one line.
  """
  program, *words = shlex.split(command)
  module = program.replace("-", "_")
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  start = time.perf_counter()
  result = subprocess.run(
      [sys.executable, "-m", f"stepdistill_jax.cli.{module}", *words],
      cwd=_ROOT, capture_output=True, text=True, check=False)
  seconds = time.perf_counter() - start
  if result.returncode != expected or (
      expected and len(result.stderr.splitlines()) != 1):
    sys.exit(f"{command}: exit code {result.returncode}\n{result.stderr}")
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  return seconds, (after.ru_utime - used.ru_utime
                   + after.ru_stime - used.ru_stime)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5, metavar="N",
                      help="processes of each (default: %(default)s)")
  args = parser.parse_args()
  print(f"{'':<8} {'median of':<34} {'wall':>8} {'processor':>10}")
  met, lines = True, []
  for title, commands, code, goal in (
      ("mistake", MISTAKES, 2, _GOAL),
      ("help", {name: f"{name} --help" for name in _HELP}, 0, _HELP_GOAL)):
    slowest = [0.0, 0.0]
    for name, command in commands.items():
      found = zip(*(_seconds(command, code) for _ in range(args.rounds)))
      medians = [statistics.median(values) for values in found]
      slowest = list(map(max, slowest, medians))
      print(f"{title:<8} {name:<34} {medians[0]:6.2f} s {medians[1]:8.2f} s",
            flush=True)
    met &= slowest[0] <= goal
    lines.append(f"slowest {title} of {len(commands)}: {slowest[0]:.2f} s, of "
                 f"the processor {slowest[1]:.2f} s (goal: {goal:g} s)")
  load = os.getloadavg()[0]
  print("; ".join(lines) + f"; {'met' if met else 'not met'}, at load "
        f"{load:.1f} of {os.cpu_count()} cores")


if __name__ == "__main__":
  main()
