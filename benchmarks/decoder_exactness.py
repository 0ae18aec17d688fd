"""What must not change a decoder's numbers does not: a table.

  python benchmarks/decoder_exactness.py    # two minutes

Loss and gradient of step-by-step, packed and unpacked, whole and in
microbatches, on 1 and on 8 (virtual) devices, against the plain formula: each
pair alone, in float32. And the parameters of a run that was interrupted against
those of the whole run, bit by bit. The last line is the headline.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
GOAL = 2e-6  # Of gradients; see tests/exactness_test.py.


def cases() -> list[dict]:
  """Each way of computing the loss with its differences."""
  done = subprocess.run(
      [sys.executable, "-m", "tests.support.exactness_cases", "decoder"],
      cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True, env={
          **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
          "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
          "--xla_backend_optimization_level=0"})
  return [json.loads(line) for line in done.stdout.splitlines()
          if line.startswith("{")]


def changed_after_interruption(*more: str) -> int:
  """Parameters of an interrupted run that differ from the whole run's."""
  import stepdistill_jax  # noqa: F401
  from tests.support import decoder_runs

  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    decoder_runs.write_data(folder)
    os.environ["STEPDISTILL_RECORDS"] = str(folder / "records")
    whole, part = folder / "whole", folder / "part"
    decoder_runs.train(folder, whole, "step_by_step", *more)
    shutil.copytree(whole, part)
    shutil.rmtree(part / f"checkpoint_{decoder_runs.STEPS}")
    decoder_runs.train(folder, part, "step_by_step", *more)
    first, second = map(decoder_runs.parameters, (whole, part))
    return int((first != second).sum())


def main() -> int:
  print(f"{'rows':<8} {'microbatches':>12} {'devices':>8} {'sharded':<13} "
        f"{'layers':<6} {'loss':>8} {'gradient':>9}")
  worst = 0.0
  for case in cases():
    worst = max(worst, case["loss"], case["gradient"])
    print(f"{case['layout']:<8} {case['microbatches']:>12} "
          f"{8 if case['mesh'] else 1:>8} {case['mesh'] or '':<13} "
          f"{'loop' if case['scanned'] else 'plain':<6} {case['loss']:>8.1e} "
          f"{case['gradient']:>9.1e}", flush=True)
  changed = {
      name: changed_after_interruption(*more) for name, more in {
          "all parameters": (), "LoRA": (
              "--gin_file=gin/runs/lora.gin", "--gin.LORA_RANK=2")}.items()}
  for name, count in changed.items():
    print(f"interrupted at step 2 of 4 against whole, {name}: {count} "
          "parameters differ")
  met = worst < GOAL and not any(changed.values())
  print(f"largest relative difference {worst:.1e} (goal: below {GOAL:.0e}), "
        f"after interruptions {max(changed.values())} parameters (goal: 0): "
        f"{'met' if met else 'missed'}")
  return int(not met)


if __name__ == "__main__":
  sys.exit(main())
