"""Layouts, microbatches, meshes and scanned layers give the plain formula.

All cases run in one process with 8 virtual devices; see `exactness_cases`.
"""

import dataclasses
import json
import os
import subprocess

import pytest

import stepdistill_jax  # noqa: F401
from stepdistill_jax.util import t5x_finder
from tests.support import exactness_cases, forking, trial_processes

# Float32 sums of some hundred terms, in another order: about 2e-7, relative.
TOLERANCE = 1e-6
# Sharded matrix products are summed over devices, and scanned layers are
# compiled into other fusions: gradients differ by a few more roundings. So they
# do where attention's sums go over prompts, too, of all that a row holds.
SHARDED_TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def results():
  if t5x_finder.current_engine() == "google":
    pytest.skip("on a CPU, Google's T5X gives all devices to the model axis")
  process = subprocess.run(
      [forking.python(), "-m", exactness_cases.__name__], text=True,
      capture_output=True, env={
          **os.environ, "JAX_PLATFORMS": "cpu", **trial_processes.devices(8)})
  assert process.returncode == 0, process.stderr[-3000:]
  lines = [json.loads(line) for line in process.stdout.splitlines()
           if line.startswith("{")]
  return {exactness_cases.Case(**{
      field.name: r[field.name] for field in dataclasses.fields(
          exactness_cases.Case)}): r for r in lines}


@pytest.mark.parametrize(
    "case", exactness_cases.CASES, ids=lambda c: "-".join(
        map(str, dataclasses.astuple(c))))
def test_equals_the_plain_formula(results, case):
  result = results[case]
  tolerance = (SHARDED_TOLERANCE if case.mesh or case.scanned
               or case.family == "decoder" else TOLERANCE)
  for name in ("loss", "loss/label", "loss/rationale"):
    assert result[name] < TOLERANCE, name
  assert result["gradient"] < tolerance
