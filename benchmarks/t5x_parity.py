"""The embedded engine against Google's T5X: parameters, losses, decodes.

    python benchmarks/t5x_parity.py                  # All, about 30 minutes.
    python benchmarks/t5x_parity.py --parts=1,3      # About 3 minutes.

Needs an environment where Google's T5X is importable. Each engine runs in
processes of its own, on the CPU in float32. Parts:

  1  initial parameters bit-equal, logical axes equal: T5 1.0 and 1.1, the
     scanned network, the decoder-only one
  2  loss at each of 50 training steps, within 1e-5 relative
  3  decodes equal token for token, scores within 1e-4
  4  a checkpoint of either engine's step 25, optimizer included, goes on in
     both: losses of steps 26 to 50 as in 2
  5  T5X's public example gin files, made small, train on both: losses as in 2,
     by Google's own files on both engines and by the embedded ones

The last line is the headline; the exit status is 1 if anything differs.
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

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.parity import example_probe, model_probe, run_probe
from stepdistill_jax.util import t5x_finder

LOSS_TOLERANCE = 1e-5
ENGINES = ("embedded", "google")
_EXCHANGED = ("packed_dropout", "adamw_packed")


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


def exchange(folder: pathlib.Path, steps: int, saved_step: int,
             savers: list[str]) -> list[bool]:
  """Part 4."""
  good = []
  saved = f"--saved_step={saved_step}"
  cases = f"--cases={','.join(_EXCHANGED)}"
  for saver in savers:
    kept = folder / f"saved_by_{saver}"
    _run(saver, "run_probe", str(folder / "unused.json"), cases, saved,
         f"--steps={saved_step}", f"--keep={kept}")
    results = []
    for engine in ENGINES:
      file = folder / f"{saver}_{engine}.json"
      _run(engine, "run_probe", str(file), cases, saved,
           f"--steps={steps}", f"--begin_from={kept}")
      results.append(json.loads(file.read_text()))
    for case, worst in run_probe.compare(*results).items():
      found = sorted(int(step) for step in results[0][case])
      good.append(_row(
          f"4 {case}, saved by {saver}",
          f"losses of steps {found[0]} to {found[-1]} within {worst:.1e}",
          worst <= LOSS_TOLERANCE and found[0] == saved_step + 1))
  return good


def examples(folder: pathlib.Path) -> list[bool]:
  """Part 5."""
  (google_folder,) = importlib.util.find_spec(
      "t5x").submodule_search_locations
  root = str(pathlib.Path(google_folder).parent)
  results = {}
  for name, engine, paths in (
      ("google", "google", root), ("embedded, Google's files", "embedded",
                                   root), ("embedded", "embedded", "")):
    results[name] = {}
    for network in ("t5/", "scalable_t5/"):
      file = folder / "examples.json"
      chosen = [e for e in example_probe.EXAMPLES if e.startswith(network)]
      _run(engine, "example_probe", str(file), f"--gin_search_paths={paths}",
           f"--examples={','.join(chosen)}")
      results[name].update(json.loads(file.read_text()))
  google = results.pop("google")
  good = []
  for name, result in results.items():
    for example, worst in run_probe.compare(result, google).items():
      good.append(_row(
          f"5 {example}", f"{name}: losses within {worst:.1e}",
          worst <= LOSS_TOLERANCE))
  return good


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--parts", default="1,2,3,4,5")
  parser.add_argument("--steps", type=int, default=run_probe.STEPS)
  parser.add_argument("--saved_step", type=int, default=run_probe.SAVED_STEP)
  parser.add_argument("--savers", default=",".join(ENGINES),
                      help="engines whose checkpoints part 4 takes")
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
    if "4" in parts:
      good += exchange(
          pathlib.Path(folder), args.steps, args.saved_step,
          args.savers.split(","))
    if "5" in parts:
      good += examples(pathlib.Path(folder))
  print(f"parity with Google's T5X: {sum(good)} of {len(good)} comparisons "
        "equal")
  return 0 if all(good) else 1


if __name__ == "__main__":
  sys.exit(main())
