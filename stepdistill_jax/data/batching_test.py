"""Tests of batching: every example once, whatever the sizes."""

from hypothesis import given, strategies as st
import pytest

from stepdistill_jax.data import batching


@given(st.lists(st.integers(1, 3000), max_size=80),
       st.one_of(st.just("auto"), st.integers(1, 40)),
       st.sampled_from([1, 3, 8]), st.sampled_from(["cpu", "tpu"]))
def test_every_example_is_in_one_batch(lengths, batch_size, multiple, platform):
  batches = batching.plan(lengths, batch_size, platform, multiple)
  placed = [i for batch in batches for i in batch.indices]
  assert sorted(placed) == list(range(len(lengths)))
  for batch in batches:
    assert 1 <= len(batch.indices) <= batch.rows
    assert batch.rows % multiple == 0
    assert all(lengths[i] <= batch.length for i in batch.indices)
  # Only the last batch may have room left.
  assert all(len(b.indices) == b.rows for b in batches[:-1])


@pytest.mark.parametrize("length, bucket", [
    (1, 16), (16, 16), (17, 32), (2048, 2048), (2049, 4096)])
def test_buckets(length, bucket):
  assert batching.bucket_length(length) == bucket


def test_few_examples_make_a_small_batch():
  (batch,) = batching.plan([20] * 3, "auto")
  assert batch.rows == 4


def test_a_last_batch_of_few_is_small():
  """The longest inputs are in it: empty rows would cost most there."""
  batches = batching.plan([10] * 8 + [70] * 3, 8)
  assert [(len(b.indices), b.rows, b.length) for b in batches] == [
      (8, 8, 16), (3, 4, 80)]


def test_leftovers_move_up():
  batches = batching.plan([10] * 5 + [40] * 5, 4)
  assert [(len(b.indices), b.length) for b in batches] == [
      (4, 16), (4, 48), (2, 48)]


def test_a_ladder_of_one_s_own():
  batches = batching.plan([3, 1, 4, 9, 2, 5], 2, ladder=[4, 8, 12, 16])
  assert [(b.indices, b.length) for b in batches] == [
      ((1, 4), 4), ((0, 2), 4), ((5, 3), 12)]
