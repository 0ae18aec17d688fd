"""Time and memory of importing and auditing e-SNLI's 549,367 completions.

Makes rows and completions of that number and size by repeating the published
validation and test rows with their PaLM completions, then runs `stepdistill
teacher import` and `audit` as a user would. The same with a quarter of them
tells how much of the memory is a constant.

    python benchmarks/import_size.py --data=DIR [--folder=/tmp/import_size]

DIR holds `esnli/esnli_test.json[.gz]` and `esnli/palm/test_CoT_0.json[.gz]` …
Needs 1 GB on disk. Times are as on an idle machine only where it is idle: the
CPU seconds beside them do not depend on that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

COMPLETIONS = 549_367
BATCH = 5500  # As published.
LIMIT_SECONDS, LIMIT_MB = 90, 600
# Runs the command line and tells peak and CPU time: of the process and of the
# largest that it started, taken together though not reached at one time.
_MEASURED = """
import os, re, resource, sys
from stepdistill_jax.cli import stepdistill as cli
code = cli.main(sys.argv[1:])
own = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("\\npeak_kb", int(own) + others, "cpu_s", sum(os.times()[:4]))
sys.exit(code)
"""


def read(path: pathlib.Path) -> str:
  if path.is_file():
    return path.read_text("utf-8")
  return gzip.open(f"{path}.gz", "rt", encoding="utf-8").read()


def write_source(
    data: pathlib.Path, folder: pathlib.Path, count: int) -> int:
  """Writes `count` rows and completions; returns the completions' bytes."""
  rows, outputs = [], []
  for split in ("valid", "test"):
    rows += read(data / "esnli" / f"esnli_{split}.json").splitlines()
    for number in (0, 1):
      outputs += json.loads(
          read(data / "esnli" / "palm" / f"{split}_CoT_{number}.json"))
  assert len(rows) == len(outputs)
  (folder / "palm").mkdir(parents=True)
  with (folder / "esnli_train.json").open("w", encoding="utf-8") as file:
    for i in range(count):
      # A number of its own, so that no row is a repetition of another.
      row = json.loads(rows[i % len(rows)])
      row["hypothesis"] += f" {i // len(rows)}"
      file.write(json.dumps(row) + "\n")
  size = 0
  for batch in range(-(-count // BATCH)):
    texts = [outputs[i % len(outputs)] for i in range(
        batch * BATCH, min(count, (batch + 1) * BATCH))]
    size += (folder / "palm" / f"train_CoT_{batch}.json").write_text(
        json.dumps(texts), "utf-8")
  return size


def measure(*arguments: str) -> tuple[float, float, float]:
  """Runs `stepdistill ARGUMENTS`; returns seconds, CPU seconds and peak MB."""
  start = time.monotonic()
  done = subprocess.run(
      [sys.executable, "-c", _MEASURED, *arguments], check=True,
      capture_output=True, text=True)
  seconds = time.monotonic() - start
  found = re.search(r"peak_kb (\d+) cpu_s ([\d.]+)", done.stdout)
  return seconds, float(found[2]), int(found[1]) * 1024 / 1e6


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--folder", type=pathlib.Path,
                      default=pathlib.Path("/tmp/import_size"))
  parser.add_argument("--vocabulary", default=None,
                      help="SentencePiece model of the audit (default: words)")
  args = parser.parse_args()
  print(f"{'completions':>11} {'MB':>6}  {'command':<8}{'seconds':>8}"
        f"{'CPU s':>8}{'peak MB':>9}")
  total = {}
  for count in (COMPLETIONS // 4, COMPLETIONS):
    shutil.rmtree(args.folder, ignore_errors=True)
    size = write_source(args.data, args.folder, count)
    records = str(args.folder / "records")
    commands = {
        "import": ("teacher", "import", "--format=published",
                   "--dataset=esnli", f"--rows={args.folder}",
                   f"--outputs={args.folder / 'palm'}",
                   "--teacher=palm540b", f"--output={records}"),
        "audit": ("teacher", "audit", records, *(
            [f"--vocabulary={args.vocabulary}"] if args.vocabulary else [])),
    }
    for name, command in commands.items():
      total[name] = measure(*command)
      seconds, cpu, peak = total[name]
      print(f"{count:11,} {size / 1e6:6.1f}  {name:<8}{seconds:8.1f}"
            f"{cpu:8.1f}{peak:9.0f}", flush=True)
  shutil.rmtree(args.folder)
  seconds = sum(values[0] for values in total.values())
  peak = max(values[2] for values in total.values())
  print(f"{COMPLETIONS:,} completions imported and audited in {seconds:.0f} s "
        f"(limit {LIMIT_SECONDS}), peak {peak:.0f} MB (limit {LIMIT_MB})")


if __name__ == "__main__":
  main()
