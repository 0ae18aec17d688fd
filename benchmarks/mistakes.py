"""How soon ten mistakes of users are told, each in a cold process.

  python benchmarks/mistakes.py [--rounds=5]

Prints the median of each, and whether all are told within two seconds with
exit code 2 and one line; and the same of all commands' --help, which should
take 0.3 s.
"""

from __future__ import annotations

import argparse
import pathlib
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
_HELP = ("stepdistill", "stepdistill quickstart", "stepdistill teacher",
         "stepdistill teacher import", "stepdistill data", "stepdistill plan",
         "stepdistill checkpoint", "stepdistill predict", "stepdistill report",
         "stepdistill-eval", "t5x train")


def _seconds(command: str, expected: int) -> float:
  """Runs a command; its exit code must be this one."""
  program, *words = shlex.split(command)
  module = program.replace("-", "_")
  start = time.perf_counter()
  result = subprocess.run(
      [sys.executable, "-m", f"stepdistill_jax.cli.{module}", *words],
      cwd=_ROOT, capture_output=True, text=True, check=False)
  seconds = time.perf_counter() - start
  if result.returncode != expected or (
      expected and len(result.stderr.splitlines()) != 1):
    sys.exit(f"{command}: exit code {result.returncode}\n{result.stderr}")
  return seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5, metavar="N",
                      help="processes of each (default: %(default)s)")
  args = parser.parse_args()
  slowest = {}
  for title, commands, code in (
      ("mistake", MISTAKES, 2),
      ("help", {name: f"{name} --help" for name in _HELP}, 0)):
    medians = {}
    for name, command in commands.items():
      medians[name] = statistics.median(
          _seconds(command, code) for _ in range(args.rounds))
      print(f"{title:<8} {name:<28} {medians[name]:6.2f} s", flush=True)
    slowest[title] = max(medians.values())
  met = slowest["mistake"] <= _GOAL and slowest["help"] <= _HELP_GOAL
  print(f"slowest of {len(MISTAKES)} mistakes: {slowest['mistake']:.2f} s "
        f"(goal: {_GOAL:g} s); slowest help: {slowest['help']:.2f} s "
        f"(goal: {_HELP_GOAL:g} s); {'met' if met else 'not met'}")


if __name__ == "__main__":
  main()
