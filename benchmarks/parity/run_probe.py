"""Trains tiny T5s through gin files on one T5X engine; prints their losses.

`python -m benchmarks.parity.run_probe OUTPUT.json --cases=a,b` runs on the
engine that $STEPDISTILL_ENGINE names. Two such files, one of each engine, are
compared by `compare`. The data is generated, the vocabulary is bytes: nothing
is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import glob
import json
import os
import pathlib
import sys
import tempfile

from stepdistill_jax.util import runtime

STEPS = 50
SAVED_STEP = 25
_HERE = pathlib.Path(__file__).resolve().parent
# The run and network of the engine's own file; the rest is ours, by paths that
# both engines find.
_GIN_FILES = (
    "t5x/configs/runs/finetune.gin",
    str(_HERE.parents[1] / "tests" / "support" / "testing_model.gin"),
    str(_HERE / "parity_run.gin"))
_ADAMW = str(_HERE / "adamw.gin")
# Google's engine on a CPU spreads the model over all devices, so that every
# sharded axis must be divisible by 8.
_DIVISIBLE = ("network.T5Config.num_heads = 8", "network.T5Config.head_dim = 4")

_PACK = "train/utils.DatasetConfig.pack = True"
_DROPOUT = "DROPOUT_RATE = 0.1"
_FOUR_MICROBATCHES = "trainer.Trainer.num_microbatches = 4"
_TWO_PARTITIONS = "partitioning.PjitPartitioner.num_partitions = 2"

# name -> (virtual devices, gin files, bindings)
CASES: Mapping[str, tuple[int, Sequence[str], Sequence[str]]] = {
    "plain": (1, [], []),
    "packed_dropout": (1, [], [_PACK, _DROPOUT]),
    "microbatches": (1, [], [_PACK, _FOUR_MICROBATCHES]),
    "microbatches_dropout_adamw": (
        1, [_ADAMW], [_FOUR_MICROBATCHES, _DROPOUT]),
    "adamw_packed": (1, [_ADAMW], [_PACK]),
    "devices8": (8, [], [_PACK, _DROPOUT]),
    "devices8_adamw": (8, [_ADAMW], []),
    "devices8_partitions2": (8, [], [
        _TWO_PARTITIONS, _DROPOUT,
        "trainer.Trainer.num_microbatches = 2"]),
    "devices8_partitions2_adamw": (8, [_ADAMW], [_TWO_PARTITIONS, _PACK]),
}


def train(
    model_dir: str, gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (), steps: int = STEPS,
    saved_step: int = SAVED_STEP) -> None:
  """Trains in this process, with metrics of every step."""
  from stepdistill_jax.runs import t5x_command
  t5x_command.run("train", [*_GIN_FILES, *gin_files], [
      f"MODEL_DIR = {model_dir!r}", f"TRAIN_STEPS = {steps}",
      f"utils.SaveCheckpointConfig.period = {saved_step}", *bindings])


def read_losses(model_dir: str, tag: str = "loss") -> dict[int, float]:
  """step -> value, from the event files of a run folder."""
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.util import tensor_util
  values = {}
  for path in sorted(glob.glob(f"{model_dir}/train/events*")):
    for event in event_file_loader.EventFileLoader(path).Load():
      for value in event.summary.value:
        if value.tag == tag:
          values[event.step] = float(tensor_util.make_ndarray(value.tensor))
  return values


def compare(ours: Mapping[str, Mapping[str, float]],
            theirs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """case -> greatest relative difference of the loss at any step."""
  result = {}
  for case, losses in theirs.items():
    if set(losses) != set(ours[case]):
      raise ValueError(f"{case}: the engines have losses of other steps")
    result[case] = max(
        abs(ours[case][step] - loss) / abs(loss)
        for step, loss in losses.items())
  return result


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("output")
  parser.add_argument("--cases", required=True)
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--saved_step", type=int, default=SAVED_STEP)
  parser.add_argument("--keep", help="folder to leave the runs in")
  parser.add_argument(
      "--begin_from", help="folder of runs whose --saved_step to begin from")
  args = parser.parse_args(argv)
  cases = args.cases.split(",")
  devices = {CASES[case][0] for case in cases}
  if len(devices) != 1:
    raise SystemExit("cases of one process have one number of devices")
  os.environ["XLA_FLAGS"] = (
      f"--xla_force_host_platform_device_count={devices.pop()}")
  runtime.configure()
  losses = {}
  for case in cases:
    _, gin_files, bindings = CASES[case]
    bindings = [*_DIVISIBLE, *bindings]
    if args.begin_from:
      bindings.append("INITIAL_CHECKPOINT_PATH = " + repr(
          f"{args.begin_from}/{case}/checkpoint_{args.saved_step}"))
    with tempfile.TemporaryDirectory() as temporary:
      folder = f"{args.keep or temporary}/{case}"
      train(folder, gin_files, bindings, args.steps, args.saved_step)
      losses[case] = read_losses(folder)
  pathlib.Path(args.output).write_text(json.dumps(losses, indent=1))
  return 0


if __name__ == "__main__":
  sys.exit(main())
