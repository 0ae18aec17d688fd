"""Bounds of a study: which programs are compiled, and what follows of others.
"""

import pathlib

import pytest

from stepdistill_jax.study import definition, estimates, resolving

# TFLOPs of a step, seconds of one that is compiled.
FLOPS = {"finetune": 1.0, "step_by_step": 3.0, "pinto": 2.0}
SECONDS = 1.5


@pytest.mark.parametrize("too_large, compiled, seconds", [
    ((), ["step_by_step"], {"step_by_step": 1.5, "pinto": 1.0,
                            "finetune": 0.5}),
    (("step_by_step",), ["step_by_step", "pinto"], {
        "pinto": 1.5, "finetune": 0.75})])
def test_the_largest_that_fits_is_compiled(
    tmp_path, monkeypatch, too_large, compiled, seconds):
  (tmp_path / "mine.toml").write_text("""
datasets = ["svamp"]
methods = ["finetune", "step_by_step", "pinto"]
sizes = ["base", "large"]
seeds = [0]
[students]
base = "random"
large = "random"
""")
  resolved = resolving.resolve(
      definition.read(tmp_path / "mine.toml"),
      resolving.Options(pathlib.Path("none")))
  jobs = resolving.jobs(
      resolved, {}, resolving.Options(pathlib.Path("none")), None)
  asked = []

  def plan(self, row, programs):
    method = row.cell.cell.method
    if programs:
      asked.append((row.cell.cell.size, method))
      if method in too_large:
        return {"error": "does not fit"}
    return {"fits": True, "chips": 8, "batch_size": 64,
            "flops": FLOPS[method] * 1e12,
            "seconds": SECONDS if programs else None}

  monkeypatch.setattr(estimates._Planner, "plan", plan)
  rows = estimates.with_costs(
      estimates.rows(tmp_path, resolved, jobs), "v5e-8", price=2.0)
  assert sorted(asked) == sorted(
      (size, method) for size in ("base", "large") for method in compiled)
  for row in rows:
    assert row.steps == 10_000
    method = row.cell.cell.method
    if method in seconds:
      hours = 10_000 * 8 * seconds[method] / 3600
      assert row.chip_hours == pytest.approx(hours)
      assert row.cost == pytest.approx(2 * hours) and not row.note
    else:
      assert (row.chip_hours, row.note) == (None, "does not fit")
