"""Pairs a second of training, against the papers' reference pattern in torch.

    python benchmarks/throughput.py                       # about 30 minutes
    python benchmarks/throughput.py --datasets=svamp --rounds=1 --steps=3
    python benchmarks/throughput.py --student=decoder --datasets=svamp

Both sides train T5 v1.1 small, or a decoder of Llama's kind and of its size,
in float32 on the same records (label and rationale of each, PaLM's), with
AdamW, from random parameters, on the CPU:

  ours       packed rows through the SeqIO pipeline, StepDistillModel (or
             StepDistillDecoder) and StepDistillTrainer, one compiled step
  reference  Hugging Face's T5ForConditionalGeneration (or LlamaForCausalLM) as
             the papers' code uses it: each batch padded to its longest, two
             forward passes, one backward pass of α·loss + (1−α)·loss, AdamW

Each round runs both in processes of their own, one after the other; the
median of the rounds' ratios counts. Compilation and the first step are left
out on both sides. Needs records of the data sets (`stepdistill teacher
import`, $STEPDISTILL_RECORDS) and T5's vocabulary. The last line is the
headline.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDES = ("ours", "reference")
GOAL = 4.0


def measure(side: str, dataset: str, args) -> dict:
  """Runs one side in a process of its own; returns what it printed last."""
  command = [
      sys.executable, "-m", f"benchmarks.training_speed.{side}",
      f"--dataset={dataset}", f"--teacher={args.teacher}",
      f"--pairs={args.pairs}", f"--steps={args.steps}",
      f"--student={args.student}",
      f"--threads={args.threads}"]
  environment = {
      **os.environ, "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(filter(None, [
          str(ROOT), os.environ.get("PYTHONPATH")]))}
  done = subprocess.run(command, env=environment, cwd=ROOT, text=True,
                        capture_output=True, check=False)
  if done.returncode:
    raise SystemExit(f"{side} failed on {dataset}:\n{done.stderr[-3000:]}")
  return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--datasets", default="svamp,cqa,anli1")
  parser.add_argument("--teacher", default="palm540b")
  parser.add_argument("--student", choices=("t5", "decoder"), default="t5")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=8, help="timed steps")
  parser.add_argument(
      "--pairs", type=int, default=64, help="pairs a step (ours: about)")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  args = parser.parse_args()

  student = "T5 v1.1 small" if args.student == "t5" else "a decoder"
  print(f"{student}, float32, {args.threads} CPU threads, {args.pairs} "
        f"pairs a step, {args.steps} steps, {args.rounds} rounds")
  print(f"{'data':<8} {'reference':>10} {'ours':>10} {'ratio':>6}  "
        f"{'of peak: ref':>12} {'ours':>6}  {'filled: ref':>11} {'ours':>6}  "
        f"{'data wait':>9}")
  ratios = {}
  for dataset in args.datasets.split(","):
    rounds = [{side: measure(side, dataset, args) for side in SIDES}
              for _ in range(args.rounds)]
    middle = lambda side, key, rounds=rounds: statistics.median(
        r[side][key] for r in rounds)
    ratios[dataset] = statistics.median(
        r["ours"]["pairs_per_second"] / r["reference"]["pairs_per_second"]
        for r in rounds)
    peak = middle("ours", "matmul_flops_per_second")
    print(f"{dataset:<8} {middle('reference', 'pairs_per_second'):>8.2f}/s "
          f"{middle('ours', 'pairs_per_second'):>8.2f}/s "
          f"{ratios[dataset]:>6.2f}  "
          f"{middle('reference', 'flops_per_second') / peak:>12.0%} "
          f"{middle('ours', 'flops_per_second') / peak:>6.0%}  "
          f"{middle('reference', 'filled'):>11.0%} "
          f"{middle('ours', 'filled'):>6.0%}  "
          f"{middle('ours', 'data_wait'):>9.2%}", flush=True)
    for key in ("matmul_flops_per_second", "torch_matmul_flops_per_second"):
      side = "reference" if key.startswith("torch") else "ours"
      print(f"         a plain matmul, {side}: "
            f"{middle(side, key) / 1e9:.0f} GFLOP/s")
  print("of peak: FLOPs of the matrix products on real and padded tokens, as a "
        "share of a plain jitted matmul; filled: share of token positions "
        "that hold one")
  worst = min(ratios.values())
  print(f"throughput of {student}: {worst:.2f} to "
        f"{max(ratios.values()):.2f} times the reference's pairs per second "
        f"(goal {GOAL:g}: {'reached' if worst >= GOAL else 'not reached'})")


if __name__ == "__main__":
  main()
