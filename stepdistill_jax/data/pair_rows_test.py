"""Rows that several pairs share hold them all, in one shape for a run."""

import time

import numpy as np
import pytest

from stepdistill_jax.data import example_order, pair_rows


def random_sizes(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return np.stack([rng.integers(10, 60, shape), rng.integers(2, 30, shape)])


def used(sizes, rows, count):
  """Tokens in each row: `[2, batches, rows]`."""
  here = rows[:, :, None] == np.arange(count)
  return np.einsum("kbp,bpr->kbr", sizes, here)


def test_rows_hold_what_is_placed_in_them():
  sizes = random_sizes(50, 16)
  shape = pair_rows.Shape(9, 72, 40)
  rows = pair_rows.place(sizes, shape)
  assert rows.min() == -1  # Some are too full.
  assert (used(sizes, rows, 9) <= np.array([72, 40])[:, None, None]).all()
  # Each batch is placed for itself.
  np.testing.assert_array_equal(
      np.concatenate([pair_rows.place(sizes[:, i:i + 1], shape)
                      for i in range(50)]), rows)


def test_pairs_begin_where_those_before_them_end():
  sizes = np.array([[5, 7, 3, 4], [1, 2, 3, 4]])
  np.testing.assert_array_equal(
      pair_rows.starts(sizes, np.array([1, 0, 1, 1], np.int32)),
      [[1, 0, 1, 1], [0, 0, 5, 8], [0, 0, 1, 4], [0, 0, 1, 2]])


@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_a_shape_holds_all_batches(multiple):
  sizes = random_sizes(1500, 16)
  shape = pair_rows.shape_of(
      lambda at: sizes[:, at], 1500, (59, 29), multiple)
  rows = pair_rows.place(sizes, shape)
  assert rows.min() == 0 and shape.rows % multiple == 0
  assert min(shape[1:]) >= 29 and shape.inputs % 8 == 0
  if multiple < 16:
    assert shape.cost < 0.9 * pair_rows.Shape(16, 64, 32).cost
    # The fullest batch is a third fuller than their mean.
    assert sizes.mean() * 16 * 2 / (shape.rows * sum(shape[1:])) > 0.6
  # It is kept while it fits, though another may be cheaper.
  larger = shape._replace(inputs=shape.inputs + 16)
  few = lambda recorded, batches=9: pair_rows.shape_of(
      lambda at: sizes[:, at], batches, (59, 29), multiple, recorded)
  assert few(larger) == larger
  assert few(larger._replace(rows=shape.rows + 1)) != larger or multiple == 1
  assert few(larger._replace(targets=8)) != larger._replace(targets=8)


def test_half_a_million_records_and_20_000_steps_take_seconds():
  sizes = random_sizes(500_000)
  order = example_order.ExampleOrder(500_000, 0)

  def sizes_of(batches):
    at = batches[:, None] * 64 + np.arange(64)
    return sizes[:, order.at(at.reshape(-1))].reshape(2, *at.shape)

  start = time.process_time()
  shape = pair_rows.shape_of(sizes_of, 20_000, (59, 29), 8)
  assert time.process_time() - start < 60  # 8 s, alone on a core.
  assert shape.rows * shape.inputs < 0.7 * 64 * 64
