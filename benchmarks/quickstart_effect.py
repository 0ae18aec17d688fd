"""The quickstart's comparison with more stories and seeds; takes hours.

    python benchmarks/quickstart_effect.py --seeds=5 --output_dir=DIR

Prints the quickstart's table and, last, the difference over all sizes.
Interrupted and run again, it goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys

from stepdistill_jax.quickstart import command, plan as plan_lib, text
from stepdistill_jax.util import entry_points


@entry_points.command
def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--output_dir", required=True)
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--train_stories", type=int, default=8000)
  parser.add_argument("--test_stories", type=int, default=4000)
  parser.add_argument("--steps", type=int, default=2000)
  args = parser.parse_args()
  plan = dataclasses.replace(
      plan_lib.BUDGETS["full"], budget="benchmark",
      train_stories=args.train_stories, test_stories=args.test_stories,
      shares=(0.125, 0.25, 0.5, 1.0), seeds=tuple(range(args.seeds)),
      steps=args.steps)
  report = command.run_plan(pathlib.Path(args.output_dir), plan)
  print("step_by_step - finetune, " + list(text.difference_lines(report))[-1])


if __name__ == "__main__":
  sys.exit(main())
