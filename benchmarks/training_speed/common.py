"""What both sides of `benchmarks/throughput.py` share."""

from __future__ import annotations

import argparse
import pathlib

from stepdistill_jax.plan import flops

# T5 v1.1 small. A decoder has as many layers in its one stack, heads by which
# transformers can divide its width, and queries share keys and values in twos.
EMBED, HEADS, HEAD, MLP, LAYERS, VOCABULARY = 512, 6, 64, 1024, 8, 32128
DECODER_HEADS, KV_HEADS = 8, 4
LEARNING_RATE = 5e-5
ALPHA = 0.5
SEED = 0


def parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  parser.add_argument("--dataset", required=True)
  parser.add_argument("--teacher", required=True)
  parser.add_argument("--pairs", type=int, required=True)
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--threads", type=int, required=True)
  parser.add_argument("--student", choices=("t5", "decoder"), required=True)
  return parser.parse_args()


def records_dir() -> pathlib.Path:
  from stepdistill_jax.util import locations

  return locations.records_dir()


def matmul_flops(
    student: str, rows: int, inputs: int, targets: int) -> float:
  """FLOPs of the matrix products of a train step (one forward, two backward).

  Args:
    student: `t5` or `decoder`.
    rows: sequences.
    inputs: their padded length.
    targets: the padded length of their targets.

  Returns:
    Multiplications and additions; attention counts all pairs of positions of
    a row, as both implementations compute them.
  """
  t5 = student == "t5"
  sizes = flops.Sizes(
      VOCABULARY, EMBED, HEADS if t5 else DECODER_HEADS, HEAD, MLP, 2,
      LAYERS if t5 else 0, LAYERS,
      None if t5 else KV_HEADS)
  return float(flops.train(sizes, rows, inputs, targets))
