"""What this machine's accelerator makes of a student, in one prepared check.

    python benchmarks/accelerator.py --minutes=8 --json=accelerator.json
    JAX_PLATFORMS=cpu python benchmarks/accelerator.py --sizes=tiny --steps=1

Trains T5 v1.1 by the recipes of SVAMP and ANLI on whatever device JAX finds, in
bfloat16 where the recipe has it, 64 pairs a step, packed (`PACK = 'pairs'`, the
default there) and not, without dropout; the papers' pattern in torch beside it
where torch is; and greedy decoding beside Hugging Face's `generate`
(benchmarks/decode.py) where also $STEPDISTILL_DATA has SVAMP and T5's
vocabulary. Prints

  first step   seconds from the process's start, with an empty compilation
               cache and with a full one
  pairs/s      of training, without the first steps
  of peak      FLOPs of the matrix products of real tokens alone, as a share of
               a plain bfloat16 product's rate on the same device
  kernels      the ten that take longest, by JAX's profiler

Training examples have the data sets' lengths, and tokens that mean nothing: no
data, no vocabulary and no network is needed. Each figure is of a process of its
own; what the minutes did not suffice for is named. The most wanted figures come
first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def plan(sizes: list[str], steps: int, pairs: int) -> list[dict]:
  """What to measure, the most wanted first."""
  wanted = []
  size = sizes[0]
  ours = lambda name, dataset, size, *flags, cache="full", steps=steps: dict(
      name=name, side="ours", cache=cache, arguments=[
          f"--dataset={dataset}", f"--size={size}", f"--pairs={pairs}",
          f"--steps={steps}", *flags])
  wanted.append(ours(f"{size} svamp packed, empty cache", "svamp", size,
                     "--packed", "--kernels", cache="empty"))
  wanted.append(ours(f"{size} svamp packed, full cache", "svamp", size,
                     "--packed"))
  for size in sizes:
    for dataset in ("svamp", "anli1"):
      wanted.append(ours(f"{size} {dataset} packed", dataset, size, "--packed"))
      wanted.append(dict(
          name=f"{size} {dataset} torch", side="reference", cache=None,
          arguments=[f"--dataset={dataset}", f"--size={size}",
                     f"--pairs={pairs}", f"--steps={steps}"]))
      wanted.append(ours(f"{size} {dataset} rows of one pair", dataset, size))
    wanted.append(ours(f"{size} svamp packed, layers unrolled", "svamp", size,
                       "--packed", "--plain"))
  return list({w["name"]: w for w in wanted
               if w["name"] != f"{sizes[0]} svamp packed"}.values())


def measure(wanted: dict, folder: str, seconds: float) -> dict:
  """Runs one in a process of its own; returns its figures or its `problem`."""
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [
      str(ROOT), os.environ.get("PYTHONPATH")]))}
  if wanted["cache"]:
    environment["JAX_COMPILATION_CACHE_DIR"] = folder
  command = [sys.executable, "-m", f"benchmarks.on_device.{wanted['side']}",
             *wanted["arguments"]]
  try:
    done = subprocess.run(command, env=environment, cwd=ROOT, text=True,
                          capture_output=True, timeout=seconds, check=False)
  except subprocess.TimeoutExpired:
    return {"problem": f"not done in the {seconds:.0f} s that were left"}
  if done.returncode:
    return {"problem": "\n".join(done.stderr.strip().splitlines()[-8:])}
  return json.loads(done.stdout.strip().splitlines()[-1])


def line(name: str, found: dict) -> str:
  """A row of the table."""
  if "problem" in found:
    return f"{name:<36} {found['problem']}"
  first = found.get("first_step_seconds")
  part = lambda value, form: "" if value is None else format(value, form)
  peak = (found["flops_per_second"] / found["matmul_flops_per_second"]
          if "flops_per_second" in found else None)
  memory = found["peak_bytes"] and found["peak_bytes"] / 2**30
  return (f"{name:<36} {part(first, '8.1f'):>8}   "
          f"{found['pairs_per_second']:>9.1f}   {part(peak, '.1%'):>6}   "
          f"{part(memory, '.1f'):>6}")


def decoding(seconds: float, has_torch: bool) -> str:
  """What benchmarks/decode.py prints, or why it was not run."""
  data = pathlib.Path(os.environ.get("STEPDISTILL_DATA", "none"))
  vocabulary = data / "vocab/spiece.model"
  if not has_torch or not vocabulary.is_file():
    return "not measured: decoding (needs transformers and $STEPDISTILL_DATA)"
  if seconds < 5:
    return "not measured: decoding (no time)"
  command = [sys.executable, "benchmarks/decode.py", f"--data={data}",
             f"--vocabulary={vocabulary}", "--size=base", "--batch=128"]
  try:
    done = subprocess.run(command, cwd=ROOT, text=True, timeout=seconds,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)},
                          check=False)
  except subprocess.TimeoutExpired:
    return f"not measured: decoding (not done in {seconds:.0f} s)"
  return "\n".join(done.stdout.strip().splitlines()[-8:])


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--minutes", type=float, default=8)
  parser.add_argument("--sizes", default="base,large")
  parser.add_argument("--steps", type=int, default=20, help="timed steps")
  parser.add_argument("--pairs", type=int, default=64)
  parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args()
  end = time.monotonic() + 60 * args.minutes
  sizes = args.sizes.split(",")
  has_torch = importlib.util.find_spec("transformers") is not None
  print(f"{'':<36} first step    pairs/s  of peak      GiB")
  results, missing = {}, []
  with tempfile.TemporaryDirectory() as folder:
    for wanted in plan(sizes, args.steps, args.pairs):
      name, left = wanted["name"], end - time.monotonic()
      if wanted["side"] == "reference" and not has_torch:
        missing.append(f"{name} (torch or transformers is not installed)")
      elif left < 5:
        missing.append(f"{name} (no time)")
      else:
        results[name] = measure(wanted, folder, left)
        print(line(name, results[name]), flush=True)
      if args.json:
        args.json.write_text(json.dumps(
            {"results": results, "not_measured": missing}, indent=1) + "\n")
  for name, found in results.items():
    for kernel, share in found.get("kernels") or ():
      print(f"  {share:6.1%}  {kernel}")
    base, packed, _ = name.partition(" packed")
    twin = results.get(f"{base} torch", {})
    if packed and "pairs_per_second" in twin and "pairs_per_second" in found:
      print(f"{name}: "
            f"{found['pairs_per_second'] / twin['pairs_per_second']:.1f} times "
            "torch's pairs/s")
  print(decoding(end - time.monotonic(), has_torch))
  devices = {f.get("device") for f in results.values()} - {None}
  print("devices:", ", ".join(sorted(devices)) or "none")
  for name in missing:
    print("not measured:", name)


if __name__ == "__main__":
  main()
