"""Arrangements that are tried, and the order of trying."""

import pytest

from stepdistill_jax.interop import architecture
from stepdistill_jax.plan import chips, search, text as plan_text
from stepdistill_jax.util import errors

_XXL = architecture.Architecture(
    32128, 4096, 64, 64, 10240, 24, 24, ("gelu", "linear"), False)
_V5E_64 = chips.parse("v5e-64")
_RUN = dict(topology=_V5E_64, config=_XXL, rows=32, inputs=1024, targets=256,
            num_parameters=11.1e9, optimizer_bytes=8 * 11.1e9)


def _candidate(**changes):
  return search.Candidate(**{**dict(
      model=4, parameter_dims=2, activation_dims=1, microbatches=1,
      remat="full"), **changes})


def test_all_candidates_divide_chips_heads_and_batch():
  found = search.candidates(num_chips=64, heads=12, batch_size=32)
  assert found
  for candidate in found:
    assert 64 % candidate.model == 12 % candidate.model == 0
    assert 32 // candidate.microbatches % (64 // candidate.model) == 0
  assert len(set(found)) == len(found)
  assert not search.candidates(num_chips=64, heads=12, batch_size=1)
  assert max(c.model for c in search.candidates(16, 64, 32)) == 16
  assert max(c.model for c in search.candidates(16, 64, 32, slices=4)) == 4


def test_sharding_and_recomputing_save_memory():
  memory = lambda **changes: search.estimate(_candidate(**changes), **_RUN)[0]
  assert memory() < memory(parameter_dims=1)
  assert memory() < memory(remat="minimal") < memory(remat="none")
  assert memory(model=8) > memory(model=8, microbatches=4)
  assert memory(activation_dims=2) < memory()


def test_recomputing_and_sending_cost_time():
  seconds = lambda **changes: search.estimate(_candidate(**changes), **_RUN)[1]
  assert seconds() > seconds(remat="none")
  assert seconds(microbatches=4) > seconds()


def test_names_and_changes_say_what_is_tried():
  candidate = _candidate(model=8, microbatches=2)
  assert candidate.name(64) == (
      "data 8 x model 8, fully sharded, 2 microbatches, remat full")
  assert "partitioning.PjitPartitioner.num_partitions = 8" in (
      candidate.changes(_XXL))


def test_decoders_are_arranged_and_estimated_as_one_sequence():
  config = architecture.DecoderArchitecture(
      128384, 4096, 32, 8, 128, 14336, 32)
  changes = _candidate(microbatches=2).changes(config)
  assert changes[0] == "LOOP_LAYERS = True"
  assert not any("scanned.gin" in change for change in changes)
  run = dict(_RUN, config=config, num_parameters=8e9, optimizer_bytes=8 * 8e9)
  memory, seconds = search.estimate(_candidate(), **run)
  more_prompt = search.estimate(_candidate(), **{**run, "inputs": 2048})
  more_target = search.estimate(
      _candidate(), **{**run, "targets": 256 + 1024})
  assert memory < more_prompt[0] < more_target[0]  # Which has logits.
  assert seconds < more_prompt[1] < more_target[1]


def _search(monkeypatch, outcome, **bounds):
  """Searches with `outcome(request)` in the compiler's place."""
  made = []

  def make(request):
    made.append(request)
    return {"fits": "bound" in (train := outcome(len(made))),
            "programs": {"train": train}}

  monkeypatch.setattr(search.planning, "make", make)
  monkeypatch.setattr(search, "_facts", lambda request: (
      _XXL, 32, 1024, 256, 11.1e9, 8 * 11.1e9, 32))
  found = search.search(
      search.planning.Request(_V5E_64, ["a.gin"], ["B = 1"]), **bounds)
  return found, made


def _fitting(seconds):
  return {"bound": {"seconds": seconds, "limited_by": "compute"},
          "hbm_bytes": {"total": 1e9}, "compile_seconds": 1}


_TOO_LARGE = {"hbm_bytes": {"total": 2e10}, "missing_bytes": 3 * 2**30,
              "compile_seconds": 1}


def test_the_fastest_that_fits_is_recommended(monkeypatch):
  outcomes = {1: _TOO_LARGE, 2: _fitting(0.3), 3: _fitting(0.2)}
  found, made = _search(monkeypatch, lambda i: outcomes[i], limit=3)
  assert [c["steps_per_second"] for c in found["candidates"]] == [
      5, pytest.approx(1 / 0.3), None]
  assert found["recommended"] == found["candidates"][0]["name"]
  # Each was compiled as it is named, after the user's own bindings.
  assert all(r.gin_bindings[0] == "B = 1" and len(r.gin_bindings) == 6
             for r in made)
  lines = plan_text.search_lines(found)
  best, runner_up, too_large = (
      next(line for line in lines if line.startswith(word))
      for word in ("recommended", "runner-up 1", "does not fit"))
  assert "at most 5 steps/s (compute)" in best
  assert "at most 3.33 steps/s" in runner_up
  assert "3.00 GiB a chip too much" in too_large


def test_number_and_time_are_bounded_and_impossible_shapes_are_passed(
    monkeypatch):
  def outcome(index):
    if index == 1:
      raise errors.UserError("no such mesh")
    return _TOO_LARGE

  found, made = _search(monkeypatch, outcome, limit=4)
  assert len(made) == 4 and not found["out_of_time"]
  assert found["recommended"] is None
  lines = "\n".join(plan_text.search_lines(found))
  assert "no such mesh" in lines and "none of those tried fits" in lines
  clock = iter(range(0, 1000, 10))
  found, made = _search(monkeypatch, outcome, limit=9, seconds=25,
                        now=lambda: next(clock))
  assert len(made) == 3 and found["out_of_time"]
