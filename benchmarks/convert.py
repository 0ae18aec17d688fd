"""Memory and speed of converting checkpoints, on a synthetic T5 v1.1 XL.

Writes Hugging Face checkpoints of random weights in bfloat16, runs `import-hf`
and `export-hf` on each as a user would, in processes of their own, measures
each one's peak of resident memory, and compares what came back bit by bit.
`xl` has 3B parameters (5.7 GB); `wide` is one block of mT5 XXL, with its
embedding of 2 GB, the largest array of any published T5.

    python benchmarks/convert.py --folder=/tmp/convert [--sizes=base,xl,wide]

Ends with code 1 if a peak is above 1.3 times the largest array and 256 MB.
Needs about three times the checkpoint's size on disk. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import xxhash

from stepdistill_jax.interop import architecture, streaming
from stepdistill_jax.interop.hf import (
  config as hf_config,
  names as hf_names,
  safetensors_files,
)
from tests.support import hf_fixtures as fixtures

_GATED = ("gelu", "linear")
SIZES = {  # Those of T5 v1.1.
    "tiny": architecture.Architecture(
        384, 16, 2, 8, 24, 2, 2, _GATED, False),
    "base": architecture.Architecture(
        32128, 768, 12, 64, 2048, 12, 12, _GATED, False),
    "large": architecture.Architecture(
        32128, 1024, 16, 64, 2816, 24, 24, _GATED, False),
    "xl": architecture.Architecture(
        32128, 2048, 32, 64, 5120, 24, 24, _GATED, False),
    "xxl": architecture.Architecture(
        32128, 4096, 64, 64, 10240, 24, 24, _GATED, False),
    "wide": architecture.Architecture(
        250112, 4096, 64, 64, 10240, 1, 1, _GATED, False),
}
_LARGEST_ARRAYS, _CONSTANT_BYTES = 1.3, 256e6
DTYPE = np.dtype(ml_dtypes.bfloat16)
# Runs the command line and tells the process's own peak, in bytes.
_MEASURED = """
import re, sys
from stepdistill_jax.cli import stepdistill as cli
code = cli.main(sys.argv[1:])
# Not getrusage's: that begins with the memory of the parent process.
status = open("/proc/self/status").read()
print("peak", 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]))
sys.exit(code)
"""


def write_checkpoint(folder: pathlib.Path, arch) -> tuple[int, int]:
  """Writes random weights, block by block; returns (all, largest) bytes."""
  fixtures.write_folder(folder, "t5_v1_1")  # For its tokenizer.
  (folder / hf_config.CONFIG_FILE).write_text(json.dumps(
      hf_config.from_architecture(arch, dtype=DTYPE.name)))
  tensors = {}
  for name, shape in architecture.parameter_shapes(arch).items():
    counterpart = hf_names.hf_tensor(name)
    tensors[counterpart.name] = (counterpart.shape(shape), DTYPE)
  writer = safetensors_files.Writer(folder / "model.safetensors", tensors)
  rng = np.random.default_rng(0)
  block = (0.05 * rng.standard_normal(2**24, np.float32)).astype(DTYPE)
  for name, slot in writer.slots.items():
    step = streaming.rows_per_block(slot.shape[0], slot.row_bytes)
    for start, stop in streaming.row_ranges(slot.shape[0], step):
      shape = (stop - start, *slot.shape[1:])
      writer.write_rows(
          name, start, block[:int(np.prod(shape))].reshape(shape))
  writer.close()
  sizes = [slot.nbytes for slot in writer.slots.values()]
  return sum(sizes), max(sizes)


def digest(folder: pathlib.Path) -> dict[str, str]:
  """Tensor's name -> checksum, over all files of weights."""
  digests = {}
  for file in folder.glob("*.safetensors"):
    for name, slot in safetensors_files.read_header(file).items():
      rows = xxhash.xxh3_128(repr((slot.shape, slot.dtype)).encode())
      step = streaming.rows_per_block(slot.shape[0], slot.row_bytes)
      for start, stop in streaming.row_ranges(slot.shape[0], step):
        rows.update(safetensors_files.read_rows(
            file, slot, start, stop).view(np.uint8))
      digests[name] = rows.hexdigest()
  return digests


def measure(*arguments: str) -> tuple[float, int]:
  """Runs `stepdistill ...`; returns seconds and peak resident bytes."""
  start = time.perf_counter()
  done = subprocess.run(
      [sys.executable, "-c", _MEASURED, *arguments], check=True,
      stdout=subprocess.PIPE, text=True)
  return time.perf_counter() - start, int(done.stdout.split()[-1])


def convert(folder: pathlib.Path, dtype: str):
  """Converts there and back; yields (what, seconds, peak) of each."""
  yield ("import-hf", *measure(
      "checkpoint", "import-hf", str(folder / "hf"),
      f"--output={folder / 't5x'}", f"--dtype={dtype}"))
  yield ("export-hf", *measure(
      "checkpoint", "export-hf", str(folder / "t5x"),
      f"--output={folder / 'out'}"))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True,
                      help="is emptied before and after")
  parser.add_argument("--sizes", default="base,xl,wide",
                      help=f"of {', '.join(SIZES)}")
  parser.add_argument("--dtype", choices=("source", "float32"),
                      default="source", help="of the T5X checkpoint")
  args = parser.parse_args()
  # In float32 the largest array is the parameter, not the tensor.
  scale = 2 if args.dtype == "float32" else 1
  print(f"{'size':6}{'GB':>6}{'largest array':>15}  {'command':10}"
        f"{'seconds':>9}{'MB/s':>7}{'peak memory':>13}{'allowed':>10}",
        flush=True)
  lines, within = [], True
  for size in args.sizes.split(","):
    shutil.rmtree(args.folder, ignore_errors=True)
    total, largest = write_checkpoint(args.folder / "hf", SIZES[size])
    largest *= scale
    allowed = _LARGEST_ARRAYS * largest + _CONSTANT_BYTES
    peaks = []
    for what, seconds, peak in convert(args.folder, args.dtype):
      peaks.append(peak)
      print(f"{size:6}{total / 1e9:6.1f}{largest / 1e6:12.0f} MB  "
            f"{what:10}{seconds:9.0f}{total / seconds / 1e6:7.0f}"
            f"{peak / 1e6:10.0f} MB{allowed / 1e6:7.0f} MB", flush=True)
    if digest(args.folder / "hf") != digest(args.folder / "out"):
      raise SystemExit("the weights that came back differ")
    within &= max(peaks) <= allowed
    lines.append(f"{max(peaks) / 1e6:.0f} MB for {size} ({total / 1e9:.1f} GB, "
                f"largest array {largest / 1e6:,.0f} MB)")
  shutil.rmtree(args.folder)
  print(f"headline: all came back bit by bit; peak memory {', '.join(lines)}")
  if not within:
    raise SystemExit("that is more memory than is allowed")


if __name__ == "__main__":
  main()
