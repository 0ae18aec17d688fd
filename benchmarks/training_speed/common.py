"""What both sides of `benchmarks/throughput.py` share."""

from __future__ import annotations

import argparse
import pathlib

# T5 v1.1 small.
EMBED, HEADS, HEAD, MLP, LAYERS, VOCABULARY = 512, 6, 64, 1024, 8, 32128
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
  return parser.parse_args()


def records_dir() -> pathlib.Path:
  from stepdistill_jax.util import locations

  return locations.records_dir()


def matmul_flops(encoder: tuple[int, int], decoder: tuple[int, int]) -> float:
  """FLOPs of the matrix products of a train step (one forward, two backward).

  Args:
    encoder: (sequences, their padded length) of the inputs.
    decoder: likewise of the targets.

  Returns:
    Multiplications and additions; attention counts all pairs of positions of
    a row, as both implementations compute them.
  """
  inner = HEADS * HEAD
  rows_in, length_in = encoder
  rows_out, length_out = decoder
  tokens_in, tokens_out = rows_in * length_in, rows_out * length_out
  projections = 4 * EMBED * inner
  feed_forward = 3 * EMBED * MLP
  forward = LAYERS * (
      tokens_in * (projections + feed_forward)  # encoder
      + tokens_in * 2 * length_in * inner
      + tokens_out * (projections + feed_forward)  # decoder
      + tokens_out * 2 * length_out * inner
      + tokens_out * 2 * EMBED * inner  # cross-attention's query and output
      + tokens_in * 2 * EMBED * inner  # its keys and values
      + tokens_out * 2 * length_in * inner)
  forward += tokens_out * EMBED * VOCABULARY
  return 3 * 2 * float(forward)
