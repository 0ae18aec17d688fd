"""Google's T5X and the embedded engine give the same numbers.

The comparisons of `benchmarks/t5x_parity.py`, over fewer steps, where Google's
T5X is importable.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from stepdistill_jax.util import t5x_finder

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not t5x_finder.google_t5x_installed(),
    reason="Google's T5X is not importable here")


@pytest.mark.parametrize("parts", [
    "1,3",  # Parameters and axes; tokens and scores.
    "2",  # Losses.
    "4",  # Checkpoints of either go on in both.
    "5",  # T5X's public example gin files.
])
def test_engines_agree(parts):
  paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
  done = subprocess.run(
      [sys.executable, str(ROOT / "benchmarks" / "t5x_parity.py"),
       f"--parts={parts}", "--steps=6", "--saved_step=3"], cwd=ROOT,
      capture_output=True, text=True, check=False, env={
          **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  assert "equal" in done.stdout and "DIFFERENT" not in done.stdout
