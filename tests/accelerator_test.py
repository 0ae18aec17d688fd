"""The prepared check of an accelerator, in miniature on the CPU."""

import pytest

from benchmarks import accelerator


@pytest.mark.interop
def test_both_sides_in_miniature(tmp_path):
  """Ours and torch's, each in a process of its own, as on an accelerator."""
  first, again, torch, *_ = accelerator.plan(["tiny"], 1, 2)
  assert (again["cache"], torch["side"]) == ("full", "reference")
  found = accelerator.measure(first, str(tmp_path), 600)
  assert "problem" not in found, found["problem"]
  assert found["device"] == "1 x cpu" and len(found["kernels"]) == 10
  assert 0 < found["flops_per_second"] < found["matmul_flops_per_second"]
  assert found["first_step_seconds"] > 0
  theirs = accelerator.measure(torch, str(tmp_path), 600)
  assert theirs["pairs_per_second"] > 0
  assert accelerator.line("x", theirs).split()[1]


def test_what_fails_says_why_and_what_has_no_time_is_named(tmp_path):
  wanted = {"name": "x", "side": "ours", "cache": "empty", "arguments": [
      "--dataset=nothing", "--size=tiny", "--steps=1"]}
  found = accelerator.measure(wanted, str(tmp_path), 60)
  assert "invalid choice: 'nothing'" in found["problem"]
  assert "invalid choice" in accelerator.line("x", found)
  names = [w["name"] for w in accelerator.plan(["base", "large"], 1, 64)]
  assert len(set(names)) == len(names) == 15
  assert names[0] == "base svamp packed, empty cache"
