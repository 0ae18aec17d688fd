"""Arrangements that are tried, and the order of trying."""

from stepdistill_jax.scale import chips
from stepdistill_jax.scale import flops
from stepdistill_jax.scale import search

_XXL = flops.Sizes(32128, 4096, 64, 64, 10240, 2, 24, 24)
_V5E_64 = chips.parse("v5e-64")
_RUN = dict(topology=_V5E_64, sizes=_XXL, rows=32, inputs=1024, targets=256,
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


def test_sharding_and_recomputing_save_memory():
  memory = lambda **changes: search.estimate(_candidate(**changes), **_RUN)[0]  # pylint: disable=unnecessary-lambda-assignment
  assert memory() < memory(parameter_dims=1)
  assert memory() < memory(remat="minimal") < memory(remat="none")
  assert memory(model=8) > memory(model=8, microbatches=4)
  assert memory(activation_dims=2) < memory()


def test_recomputing_and_sending_cost_time():
  seconds = lambda **changes: search.estimate(_candidate(**changes), **_RUN)[1]  # pylint: disable=unnecessary-lambda-assignment
  assert seconds() > seconds(remat="none")
  assert seconds(microbatches=4) > seconds()


def test_names_and_changes_say_what_is_tried():
  candidate = _candidate(model=8, microbatches=2)
  assert candidate.name(64) == (
      "data 8 x model 8, fully sharded, 2 microbatches, remat full")
  assert "partitioning.PjitPartitioner.num_partitions = 8" in (
      candidate.changes())
