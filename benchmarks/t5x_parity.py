"""The embedded engine against Google's T5X: parameters, losses, decodes.

    python benchmarks/t5x_parity.py                  # All, about 20 minutes.
    python benchmarks/t5x_parity.py --parts=1,3      # About 3 minutes.

Needs an environment where Google's T5X is importable. Each engine runs in
processes of its own, on the CPU in float32. Parts:

  1  initial parameters bit-equal, logical axes equal
  2  loss at each of 50 training steps, within 1e-5 relative
  3  decodes equal token for token, scores within 1e-4

The last line is the headline; the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parity import model_probe  # noqa: E402
from benchmarks.parity import run_probe  # noqa: E402
import numpy as np  # noqa: E402
from stepdistill_jax import t5x_finder  # noqa: E402

LOSS_TOLERANCE = 1e-5
ENGINES = ("embedded", "google")


def _run(engine: str, module: str, *arguments: str) -> None:
  paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
  environment = {
      **os.environ, "STEPDISTILL_ENGINE": engine, "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
  done = subprocess.run(
      [sys.executable, "-m", f"benchmarks.parity.{module}", *arguments],
      env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(
        f"{module} failed on the {engine} engine:\n{done.stderr[-3000:]}")


def _row(name: str, detail: str, good: bool) -> bool:
  print(f"{name:<34} {detail:<42} {'equal' if good else 'DIFFERENT'}",
        flush=True)
  return good


def models(folder: pathlib.Path, parts: set[str]) -> list[bool]:
  """Parts 1 and 3."""
  files = {e: folder / f"{e}.npz" for e in ENGINES}
  for engine, file in files.items():
    _run(engine, "model_probe", str(file))
  compared = model_probe.compare(
      *(dict(np.load(files[e])) for e in ENGINES))
  kinds = {"params": "1", "axes": "1", "decodes": "3", "scores": "3"}
  return [
      _row(f"{part} {kind}", f"{compared[kind][0]} arrays, greatest "
           f"difference {compared[kind][2]:.1e}", not compared[kind][1])
      for kind, part in kinds.items() if part in parts]


def losses(folder: pathlib.Path, steps: int) -> list[bool]:
  """Part 2: one process for each engine and number of devices."""
  good = []
  by_devices = {}
  for case, (devices, _, _) in run_probe.CASES.items():
    by_devices.setdefault(devices, []).append(case)
  for devices, cases in by_devices.items():
    results = []
    for engine in ENGINES:
      file = folder / f"{engine}{devices}.json"
      _run(engine, "run_probe", str(file), f"--cases={','.join(cases)}",
           f"--steps={steps}")
      results.append(json.loads(file.read_text()))
    for case, worst in run_probe.compare(*results).items():
      good.append(_row(
          f"2 {case}", f"{steps} losses, greatest relative {worst:.1e}",
          worst <= LOSS_TOLERANCE))
  return good


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--parts", default="1,2,3")
  parser.add_argument("--steps", type=int, default=run_probe.STEPS)
  args = parser.parse_args()
  parts = set(args.parts.split(","))
  if not t5x_finder.google_t5x_installed():
    print("error: Google's T5X is not importable here; install it with "
          "`pip install 'stepdistill_jax[t5x]'`", file=sys.stderr)
    return 2
  good = []
  with tempfile.TemporaryDirectory() as folder:
    if parts & {"1", "3"}:
      good += models(pathlib.Path(folder), parts)
    if "2" in parts:
      good += losses(pathlib.Path(folder), args.steps)
  print(f"parity with Google's T5X: {sum(good)} of {len(good)} comparisons "
        "equal")
  return 0 if all(good) else 1


if __name__ == "__main__":
  sys.exit(main())
