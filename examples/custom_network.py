"""A student with a network of your own: T5 whose logits are capped.

  python examples/custom_network.py /tmp/custom_network

Its parameters' names decide which checkpoints it reads: here T5's.
"""

import pathlib
import sys

import jax.numpy as jnp
import own_csv
from t5x.examples.t5 import network

GIN = """
from __gin__ import dynamic_registration
import custom_network
from stepdistill_jax import models as students
from t5x.examples.t5 import network
students.StepDistillModel.module = @custom_network.Transformer()
custom_network.Transformer.config = @network.T5Config()
"""


class Transformer(network.Transformer):
  """T5 with logits between -cap and cap, as in Gemma 2."""
  cap: float = 30.0

  def decode(self, *arguments, **options):
    return self.cap * jnp.tanh(super().decode(*arguments, **options) / self.cap)


def main(folder, *bindings):
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  pathlib.Path(folder, "network.gin").write_text(GIN)
  own_csv.main(folder, f"--gin_file={folder}/network.gin", *bindings)


if __name__ == "__main__":
  main(*sys.argv[1:])
