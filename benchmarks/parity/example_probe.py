"""Trains T5X's public example gin files, made small; prints their losses.

`python -m benchmarks.parity.example_probe OUTPUT.json --gin_search_paths=DIR`
runs on the engine that $STEPDISTILL_ENGINE names. The files are those of the
engine, or of a folder that holds `t5x/examples/...`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import tempfile

from benchmarks.parity import run_probe
from stepdistill_jax.util import runtime

_SMALL_RUN = os.path.join(os.path.dirname(__file__), "small_run.gin")
_DIMENSIONS = (
    "vocab_size = 384", "dtype = 'float32'", "emb_dim = 16", "num_heads = 2",
    "head_dim = 8", "mlp_dim = 32", "num_encoder_layers = 2",
    "num_decoder_layers = 2")

# name -> (model file, run file)
EXAMPLES: Mapping[str, tuple[str, str]] = {
    f"{family}/{size} {run}": (
        f"t5x/examples/{family}/{size}.gin", f"t5x/configs/runs/{run}.gin")
    for family, size, run in (
        ("t5/t5_1_1", "tiny", "pretrain"), ("t5/t5_1_1", "small", "finetune"),
        ("t5/t5_1_0", "small", "finetune"), ("t5/mt5", "small", "finetune"),
        ("t5/byt5", "small", "pretrain"),
        ("scalable_t5/t5_1_1", "small", "finetune"))}


def losses(name: str, steps: int, search_paths: Sequence[str]
           ) -> dict[int, float]:
  """The loss at each step of an example."""
  from stepdistill_jax.runs import t5x_command

  model_file, run_file = EXAMPLES[name]
  with tempfile.TemporaryDirectory() as folder:
    t5x_command.run(
        "train", [model_file, run_file, _SMALL_RUN],
        [f"MODEL_DIR = {folder!r}", f"TRAIN_STEPS = {steps}",
         *(f"network.T5Config.{d}" for d in _DIMENSIONS)],
        gin_search_paths=search_paths)
    return run_probe.read_losses(folder)


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("output")
  parser.add_argument(
      "--examples", required=True,
      help="comma-separated; not of several networks in one process, as their "
      "names are the same, which gin would call ambiguous")
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--gin_search_paths", default="")
  args = parser.parse_args(argv)
  runtime.configure()
  paths = [p for p in args.gin_search_paths.split(",") if p]
  pathlib.Path(args.output).write_text(json.dumps(
      {name: losses(name, args.steps, paths)
       for name in args.examples.split(",")}))
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
