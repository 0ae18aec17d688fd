"""A schedule of the tasks' weights that is your own function.

  python examples/weight_schedule.py /tmp/weight_schedule

A schedule maps a step to a weight. Here the rationale's grows at first: alpha,
the label's, falls from 1 to `least` as a parabola. A gin file registers it.
"""

import pathlib
import sys

import jax.numpy as jnp
import own_csv

GIN = """
from __gin__ import dynamic_registration
import weight_schedule

ALPHA = @weight_schedule.parabola()
weight_schedule.parabola.num_steps = %TRAIN_STEPS
"""


def parabola(num_steps: int, least: float = 0.5):
  """Returns alpha(step), float32, from 1 at step 0 to `least`."""
  def alpha(step):
    left = 1 - jnp.clip(step / num_steps, 0, 1)
    return least + (1 - least) * left ** 2
  return alpha


def main(folder, *bindings):
  gin_file = pathlib.Path(folder, "schedule.gin")
  gin_file.parent.mkdir(parents=True, exist_ok=True)
  gin_file.write_text(GIN)
  own_csv.main(folder, f"--gin_file={gin_file}", *bindings)


if __name__ == "__main__":
  main(*sys.argv[1:])
