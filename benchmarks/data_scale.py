"""What a data set of many records costs a run's start, memory and pipeline.

    python benchmarks/data_scale.py                        # 720 and 500,000
    python benchmarks/data_scale.py --records=720,10000000

Trains a tiny student on generated records of e-SNLI's size, by the command
line, for each number of records:

  first    a run on records that were never tokenized
  later    runs on them after it, of each number in turn

Of each: seconds from the start to the first step (in brackets: more than with
the first number of records, a median of differences), and the memory that the
process held at its end, and at most. Then of the pipeline alone, in one
process: the seconds to the first batch and to that of step 100,000, as a
resumed run reads it, of rows of one pair and of packed rows; and pairs a second
of CPU time. Needs T5's vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import psutil

ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORDS = (
    "the a man woman is playing with dog in park while two people are standing "
    "outside near building child wearing red shirt jumps over small fence on "
    "sunny day because not all men who sit eat food at table just rides bike "
    "does mean they go to work young girl blue holding guitar crowd").split()
_DIFFERENT = 500_000  # Records.
_LABELS = ("entailment", "neutral", "contradiction")
_FLAGS = ("--gin_file=gin/recipes/esnli_step_by_step.gin",
          "--gin.TRAIN_STEPS=8", "--gin.CHECKPOINT_PERIOD=8",
          "--gin.train_script.train.train_eval_dataset_cfg=None",
          "--gin.train_script.train.infer_eval_dataset_cfg=None")
_PIPELINE = """
import os
import time
import psutil
import stepdistill_jax
from stepdistill_jax import tasks
from t5x import utils
from stepdistill_jax.data import exact_order, feature_converter

def first_batch(step, pack):
  start = time.perf_counter()
  lengths = ({"inputs": 1024, "targets": 288} if pack else
             {"inputs": 136, "targets": 8, "rationale_targets": 80})
  batches = exact_order.get_dataset(
      utils.DatasetConfig(
          mixture_or_task_name="esnli_step_gold_palm540b", split="train",
          task_feature_lengths=lengths, batch_size=64, shuffle=True, seed=0,
          pack=pack), 0, 1, feature_converter.StepDistillFeatureConverter
      ).starting_at(step).as_numpy_iterator()
  next(batches)
  return batches, time.perf_counter() - start

first_batch(0, False)  # What TensorFlow does once in a process.
found = {}
for pack in (False, True):
  for step in (0, 100_000):
    batches, found[pack, step] = first_batch(step, pack)
    if not pack:
      start = time.process_time()
      for _ in range(300):
        next(batches)
      pairs = 300 * 64 / (time.process_time() - start)
print(f"first batch {found[False, 0]:.1f} s, of step 100,000 "
      f"{found[False, 100_000]:.1f} s; packed {found[True, 0]:.1f} s and "
      f"{found[True, 100_000]:.1f} s; {pairs:,.0f} pairs a second of CPU time, "
      f"{psutil.Process().memory_info().rss / 1e9:.2f} GB", flush=True)
os._exit(0)  # TensorFlow may wait for its generators at the end.
"""


def sentence(rng: random.Random, words: int) -> str:
  return " ".join(rng.choices(_WORDS, k=words)).capitalize() + "."


def write_records(folder: pathlib.Path, count: int) -> None:
  """Writes records; from 500,000 on their shards are linked over and over."""
  from stepdistill_jax.records import record_writer, records

  rng = random.Random(0)
  written = record_writer.write_records(folder, "esnli", "palm540b", {
      "train": (records.Record(
          id=f"esnli/train/{i:016x}", label=_LABELS[i % 3],
          inputs=f"{sentence(rng, 14)}</s>{sentence(rng, 8)}",
          teacher_label=_LABELS[i % 3], rationale=sentence(rng, 15))
                for i in range(min(count, _DIFFERENT)))})
  times = count // _DIFFERENT
  if times < 2:
    return
  shards = sorted(written.glob("*.tfrecord*"))
  for i in range(times * len(shards)):
    os.link(shards[i % len(shards)], written / records.shard_name(
        "stepdistill_esnli-train", i, times * len(shards)))
  for shard in shards:
    shard.unlink()
  info = json.loads((written / "dataset_info.json").read_text())
  info["splits"][0]["shardLengths"] *= times
  (written / "dataset_info.json").write_text(json.dumps(info))


def run(records: pathlib.Path, model_dir: pathlib.Path
        ) -> tuple[float, float, float]:
  """Trains; returns (seconds to the first step, GB at the end, at most)."""
  command = [sys.executable, "-m", "stepdistill_jax.cli.t5x", "train", *_FLAGS,
             f"--records_dir={records}", f"--gin.MODEL_DIR='{model_dir}'"]
  process = psutil.Popen(
      command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True,
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
  held = [0]  # A process that has ended, and is waited for, holds nothing.

  def watch() -> None:
    while process.poll() is None:
      try:
        held.append(process.memory_info().rss)
      except psutil.Error:
        return
      time.sleep(0.1)

  watcher = threading.Thread(target=watch)
  watcher.start()
  said = process.stderr.read()
  watcher.join()
  found = re.search(r"first step done (\S+) s after", said)
  if process.wait() or not found:
    raise SystemExit(f"{' '.join(command)} failed:\n{said[-3000:]}")
  return float(found[1]), [size for size in held if size][-1] / 1e9, (
      max(held) / 1e9)


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--records", default="720,500000",
                      help="numbers of records, the first to compare with")
  parser.add_argument("--folder", help="keep the records here")
  parser.add_argument("--rounds", type=int, default=3, metavar="N",
                      help="later runs of each (default: %(default)s)")
  args = parser.parse_args()
  folder = pathlib.Path(args.folder or tempfile.mkdtemp(prefix="data-scale-"))
  counts = list(map(int, args.records.split(",")))
  found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}

  def measure(kind: str, count: int) -> None:
    model_dir = folder / f"run-{count}"
    shutil.rmtree(model_dir, ignore_errors=True)
    found.setdefault((kind, count), []).append(
        run(folder / str(count), model_dir))

  for count in counts:
    records = folder / str(count)
    if not records.is_dir():
      write_records(records, count)
    shutil.rmtree(records / "stepdistill_esnli/palm540b/1.0.0/tokens",
                  ignore_errors=True)
    measure("first", count)
  for _ in range(args.rounds):  # In turn, as machines are noisy.
    for count in counts:
      measure("later", count)
  for (kind, count), values in found.items():
    seconds, held, most = map(statistics.median, zip(*values))
    first = found[kind, counts[0]]
    more = statistics.median(
        one[0] - other[0] for one, other in zip(values, first))
    base = statistics.median(one[1] for one in first)
    print(f"{count:>11,} records, {kind} runs: first step after {seconds:6.1f} "
          f"s ({more:+6.1f}), {held:5.2f} GB ({held - base:+5.2f}), at most "
          f"{most:5.2f} GB; median of {len(values)}", flush=True)
  for count in counts:
    done = subprocess.run(
        [sys.executable, "-c", _PIPELINE], cwd=ROOT, text=True, check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "STEPDISTILL_RECORDS": str(folder / str(count))})
    print(f"{count:>11,} records, {done.stdout.strip()}", flush=True)
  if not args.folder:
    shutil.rmtree(folder)


if __name__ == "__main__":
  main()
