"""What a data set of many records costs a run's start, memory and pipeline.

    python benchmarks/data_scale.py                        # 720 and 500,000
    python benchmarks/data_scale.py --records=720,10000000

Trains a tiny student on generated records of e-SNLI's size, by the command
line, for each number of records:

  first    a run on records that were never tokenized
  later    another run on them

Of each: seconds from the start to the first step, and the memory that the
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
      f"{psutil.Process().memory_info().rss / 1e9:.2f} GB")
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
  held = [0]

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
  return float(found[1]), held[-3 if len(held) > 3 else -1] / 1e9, (
      max(held) / 1e9)


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--records", default="720,500000",
                      help="numbers of records, the first to compare with")
  parser.add_argument("--folder", help="keep the records here")
  args = parser.parse_args()
  folder = pathlib.Path(args.folder or tempfile.mkdtemp(prefix="data-scale-"))
  base: dict[str, tuple[float, float, float]] = {}
  for count in map(int, args.records.split(",")):
    records = folder / str(count)
    tokens = records / "stepdistill_esnli/palm540b/1.0.0/tokens"
    if not records.is_dir():
      write_records(records, count)
    for kind in ("first", "later"):
      if kind == "first":
        shutil.rmtree(tokens, ignore_errors=True)
      model_dir = folder / f"run-{count}"
      shutil.rmtree(model_dir, ignore_errors=True)
      found = run(records, model_dir)
      first = base.setdefault(kind, found)
      print(f"{count:>11,} records, {kind:<7} first step after {found[0]:6.1f} "
            f"s ({found[0] - first[0]:+6.1f}), {found[1]:5.2f} GB "
            f"({found[1] - first[1]:+5.2f}), at most {found[2]:5.2f} GB",
            flush=True)
    done = subprocess.run(
        [sys.executable, "-c", _PIPELINE], cwd=ROOT, text=True, check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "STEPDISTILL_RECORDS": str(records)})
    print(f"{count:>11,} records, {done.stdout.strip()}", flush=True)
  if not args.folder:
    shutil.rmtree(folder)


if __name__ == "__main__":
  main()
