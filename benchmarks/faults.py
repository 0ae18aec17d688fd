"""Kills, stops, moves and damages real runs, and compares what comes out.

    python benchmarks/faults.py                       # All; hours on 2 cores.
    python benchmarks/faults.py --kills=40 --only=kills
    python benchmarks/faults.py --only=damage,epochs  # Minutes.
    python benchmarks/faults.py --processes=command   # As a user starts them.

A training of the embedded benchmark (T5 with 1+1 layers, 24 steps, dropout,
evaluations, checkpoints at every 4th step) is killed in steps, in saving, in
writing the manifest, in evaluating, and restarted with the same command. It
must end with the parameters, the optimizer's state and all metrics of a run
that nothing happened to, bit by bit. Prints a table; the last line is the
headline.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import pathlib
import random
import shutil
import signal
import tempfile
import time

from stepdistill_jax import runtime

runtime.configure()

from stepdistill_jax.resilience import damage  # pylint: disable=g-import-not-at-top
from stepdistill_jax.resilience import fault_points  # pylint: disable=g-import-not-at-top
from stepdistill_jax.resilience import trial_processes  # pylint: disable=g-import-not-at-top
from stepdistill_jax.resilience import trials  # pylint: disable=g-import-not-at-top

PARTS = ("kills", "sigterms", "damage", "layouts", "epochs")
DATASETS = ("svamp", "cqa", "anli1", "esnli")


class Trials:
  """What the parts share: processes, data, the run nothing happened to."""

  def __init__(self, folder: pathlib.Path, launcher, seed: int):
    self.folder = folder
    self.launcher = launcher
    self.rng = random.Random(seed)
    self.records = trials.write_records(folder / "data")
    self.whole = folder / "whole"
    self.restarts = 0
    code, text = self.go_on(self.whole)
    if code:
      raise RuntimeError(text)

  def go_on(self, model_dir, fault="", bindings=(), devices=1, steps=None):
    self.restarts += 1
    return self.launcher.run(
        trials.arguments(model_dir, self.records, bindings,
                         steps or trials.STEPS),
        {fault_points.VARIABLE: fault, "XLA_FLAGS": (
            f"--xla_force_host_platform_device_count={devices}")})

  def run_with_faults(self, name: str, faults) -> tuple[int, collections.Counter]:
    """Runs until `faults` are over and then to the end; (metrics, codes)."""
    model_dir = self.folder / name
    codes = collections.Counter()
    for fault in (*faults, ""):
      code, text = self.go_on(model_dir, fault)
      codes[code] += 1
      if code not in (0, 75, -signal.SIGKILL):
        raise RuntimeError(f"exit code {code} after {fault}:\n{text[-3000:]}")
    compared = trials.assert_same_run(model_dir, self.whole)
    shutil.rmtree(model_dir)
    return compared, codes


def kills(t: Trials, count: int) -> str:
  """SIGKILL at random points; runs of up to 20 kills each."""
  done, runs, compared = 0, 0, 0
  while done < count:
    faults = [trials.random_fault(t.rng) for _ in range(min(20, count - done))]
    more, codes = t.run_with_faults(f"kills{runs}", faults)
    done += codes[-signal.SIGKILL]
    runs, compared = runs + 1, compared + more
  return (f"{done} kills in {runs} runs, each bit-equal to the whole run "
          f"({compared} metric values compared)")


def sigterms(t: Trials, count: int) -> str:
  done, runs = 0, 0
  while done < count:
    faults = [f"step:{t.rng.randint(1, 6)}:term" for _ in range(4)]
    _, codes = t.run_with_faults(f"terms{runs}", faults)
    done, runs = done + codes[75], runs + 1
  return f"{done} saved and left with code 75 in {runs} runs, bit-equal"


def damages(t: Trials, count: int) -> str:
  """Damage to all files of a run's checkpoints."""
  from stepdistill_jax.resilience import checkpoint_choice  # pylint: disable=g-import-not-at-top
  good = t.whole / f"checkpoint_{trials.STEPS}"
  found = collections.Counter()
  for i in range(count):
    kind = damage.KINDS[i % len(damage.KINDS)]
    bad = t.folder / "damaged" / f"checkpoint_{i}"
    shutil.copytree(good, bad)
    told = damage.inflict(kind, bad, t.rng)
    if not checkpoint_choice.problems(str(bad)):
      raise AssertionError(f"not found: {told}")
    found[kind] += 1
    shutil.rmtree(bad)
  assert checkpoint_choice.problems(str(good)) == []
  return f"{sum(found.values())} of {count} found: {dict(found)}"


def layouts(t: Trials) -> str:
  """Stopped and killed on 1, 2, 8 devices, packed or not, microbatches or not.

  The same layout must be bit-equal; other layouts within 2e-4 relative in
  float32, as sums are taken in another order and 16 steps add up.
  """
  worst, runs = 0.0, 0
  for packed, micro in itertools.product((False, True), repeat=2):
    bindings = (*trials.NO_EVALUATION, *(trials.PACKED if packed else ()),
                *(trials.MICROBATCHES if micro else ()))
    for devices in (1, 2, 8):
      if micro and devices == 8:
        continue  # A microbatch of 4 rows has no 8 shares.
      whole, cut = t.folder / "lw", t.folder / "lc"
      t.go_on(whole, "", bindings, devices, 16)
      for fault in ("step:7:term", "step:6:kill", ""):
        code, text = t.go_on(cut, fault, bindings, devices, 16)
        if code not in (0, 75, -signal.SIGKILL):
          raise RuntimeError(text[-3000:])
      trials.assert_same_run(cut, whole, 16)
      moved = t.folder / "moved"
      t.go_on(moved, "step:7:term", bindings, devices, 16)
      t.go_on(moved, "", bindings, 2 if devices == 1 else 1, 16)
      worst = max(worst, trials.largest_difference(moved, whole, 16))
      trials.assert_same_examples(moved, whole)
      runs += 1
      for folder in (whole, cut, moved):
        shutil.rmtree(folder)
  return (f"{runs} layouts bit-equal; moved to other device counts within "
          f"{worst:.1e} of the largest parameter")


def epochs(seed: int) -> str:
  """Every example once per epoch under kills, and the time to step 100,000."""
  import stepdistill_jax  # pylint: disable=g-import-not-at-top,unused-import
  import seqio  # pylint: disable=g-import-not-at-top
  import tasks  # pylint: disable=g-import-not-at-top,unused-import
  from stepdistill_jax.data import exact_order  # pylint: disable=g-import-not-at-top
  from stepdistill_jax.data import feature_converter  # pylint: disable=g-import-not-at-top
  from t5x import utils  # pylint: disable=g-import-not-at-top
  rng, lines = random.Random(seed), []
  for name in DATASETS:
    try:
      task = seqio.get_mixture_or_task(f"{name}_step_gold_palm540b")
      task.source.num_input_examples("train")
    except Exception:  # pylint: disable=broad-exception-caught
      lines.append(f"{name}: no records here")
      continue

    def make():
      return exact_order.get_dataset(
          utils.DatasetConfig(
              mixture_or_task_name=task, split="train", batch_size=64,
              task_feature_lengths={"inputs": 1024, "targets": 256},
              shuffle=True, seed=3), 0, 1,
          feature_converter.StepDistillFeatureConverter)

    dataset = make()
    start = time.perf_counter()
    next(iter(dataset.take(1)))
    first = time.perf_counter() - start
    start = time.perf_counter()
    next(iter(dataset.starting_at(100_000).take(1)))
    later = time.perf_counter() - start
    # Killed after random numbers of steps, in one and a bit epochs.
    seen, step = collections.Counter(), 0
    size, batch = dataset.batches.num_examples(), 64
    steps = -(-size // batch)
    while step < steps:
      stretch = rng.randint(1, max(1, steps // 4))
      saved = step + rng.randint(1, stretch)  # The last checkpoint's step.
      seen.update(dataset.batches.examples_of_steps(step, min(saved, steps)))
      step = saved
    counts = collections.Counter(
        seen[i] for i in range(size))
    assert set(counts) <= {1, 2} and sum(seen.values()) == steps * batch
    assert counts[2] == steps * batch - size
    lines.append(f"{name}: {size} examples, each once; first batch "
                 f"{first:.1f} s, step 100,000 after {later:.2f} s more")
  if all(line.endswith("no records here") for line in lines):
    return "NOT RUN: import the records first (`stepdistill teacher import`)"
  return "; ".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=200)
  parser.add_argument("--sigterms", type=int, default=40)
  parser.add_argument("--damage", type=int, default=1000)
  parser.add_argument("--only", default=",".join(PARTS))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", choices=("fork", "command"),
                      default="fork", help="fork: import once, fork each run")
  args = parser.parse_args()
  parts = args.only.split(",")
  if unknown := set(parts) - set(PARTS):
    parser.error(f"--only knows {PARTS}, got {sorted(unknown)}")
  started, results = time.time(), {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    if set(parts) - {"epochs"}:
      with trial_processes.Launcher(
          folder / "log", fork=args.processes == "fork") as launcher:
        t = Trials(folder, launcher, args.seed)
        for name, trial in (
            ("kills", lambda: kills(t, args.kills)),
            ("sigterms", lambda: sigterms(t, args.sigterms)),
            ("damage", lambda: damages(t, args.damage)),
            ("layouts", lambda: layouts(t))):
          if name in parts:
            results[name] = trial()
            print(f"{name:9} {results[name]}", flush=True)
        restarts = t.restarts
    else:
      restarts = 0
  if "epochs" in parts:
    results["epochs"] = epochs(args.seed)
    print(f"{'epochs':9} {results['epochs']}", flush=True)
  passed = sum(not line.startswith("NOT RUN") for line in results.values())
  print(f"faults: {passed} of {len(results)} parts passed, {restarts} processes, "
        f"{time.time() - started:.0f} s")


if __name__ == "__main__":
  main()
