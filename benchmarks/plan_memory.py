"""Memory of a chip for a gin file's train step: ours against Google's T5X.

    python benchmarks/plan_memory.py --topology=v4-16 \
        --gin_file=gin/recipes/esnli_step_by_step_small.gin

Needs an environment where Google's T5X is importable, and libtpu. Each engine
compiles the same gin file in a process of its own, on this CPU, for the same
slice; what is compared is what XLA says a chip needs. (Google's T5X knows how
to arrange v4 chips; for later ones give model_parallel_submesh.) Both are
compiled as by `stepdistill plan --quick`.

The last line is the headline; the exit status is 1 if ours needs more.
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
ENGINES = ("embedded", "google")


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--topology", default="v4-16")
  parser.add_argument("--gin_file", action="append", metavar="FILE")
  parser.add_argument("--gin_bindings", action="append", default=[],
                      metavar="'NAME = VALUE'")
  arguments = parser.parse_args()
  files = arguments.gin_file or ["gin/recipes/esnli_step_by_step_small.gin"]
  print(f"{' '.join([*files, *arguments.gin_bindings])} on "
        f"{arguments.topology}, train step, GiB a chip\n"
        "engine     arguments  outputs  aliased  temporaries  program   total",
        flush=True)
  total = {}
  for engine in ENGINES:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
      done = subprocess.run(
          [sys.executable, "-m", "benchmarks.parity.memory_probe", file.name,
           arguments.topology, json.dumps(files),
           json.dumps(arguments.gin_bindings)],
          env={**os.environ, "STEPDISTILL_ENGINE": engine,
               "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
          cwd=ROOT, capture_output=True, text=True, check=False)
      if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr[-3000:]}")
      stats = json.loads(pathlib.Path(file.name).read_text("utf-8"))
    total[engine] = stats["total"]
    print(f"{engine:<10}" + "".join(
        f"{stats[kind] / 2**30:>{width}.3f}" for kind, width in (
            ("arguments", 10), ("outputs", 9), ("aliased", 9),
            ("temporaries", 13), ("program", 9), ("total", 8))), flush=True)
  good = total["embedded"] <= total["google"]
  print(f"a chip needs {total['embedded'] / total['google']:.1%} of what it "
        f"needs under Google's T5X {'' if good else 'MORE'}".rstrip())
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
