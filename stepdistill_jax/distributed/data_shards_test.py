"""Global batches do not depend on the number of hosts."""

import types

import numpy as np
import pytest
from t5x import utils
import tensorflow as tf

from stepdistill_jax.distributed import data_shards
from stepdistill_jax.util import errors
from tests.support import testing_tasks

_TASK = "t5x_testing_reverse"


def _cfg(batch_size=8, **changes):
  return utils.DatasetConfig(**{**dict(
      mixture_or_task_name=_TASK,
      task_feature_lengths={"inputs": 12, "targets": 12}, split="train",
      batch_size=batch_size, shuffle=True, seed=3), **changes})


def _layout(host, hosts):
  return types.SimpleNamespace(shard_id=host, num_shards=hosts)


def _global_batches(num_shards, hosts, num_batches=3):
  """[batch, length] of each batch: the hosts' shares, one after the other."""
  import seqio
  shares = [
      list(data_shards.get_dataset(
          utils.get_dataset, _cfg(), _layout(host, hosts), num_shards,
          seqio.EncDecFeatureConverter)[0].take(
              num_batches).as_numpy_iterator())
      for host in range(hosts)]
  return [np.concatenate([share[i]["encoder_input_tokens"]
                          for share in shares]) for i in range(num_batches)]


@pytest.mark.parametrize("num_shards, hosts", [
    (2, 1), (2, 4), (1, 2), (4, 2), (4, 8)])
def test_batches_are_those_of_as_many_hosts_as_shards(num_shards, hosts):
  expected = _global_batches(num_shards, num_shards)
  got = _global_batches(num_shards, hosts)
  np.testing.assert_array_equal(got, expected)
  assert len({batch.tobytes() for batch in got}) == len(got)


def test_an_order_that_knows_no_hosts_is_left_alone():
  made = types.SimpleNamespace(same_on_any_hosts=True)
  asked = []

  def get_dataset(unused_cfg, *share_and_converter):
    asked.append(share_and_converter)
    return made

  assert data_shards.get_dataset(
      get_dataset, _cfg(), _layout(1, 4), 3, None) == (made, 4)
  assert asked == [(1, 4, None)]


def test_fewer_records_than_hosts_are_read_by_all():
  count = testing_tasks.SIZES["train"]
  assert data_shards.choose(_cfg(), _layout(0, 2)) == 2
  assert data_shards.choose(_cfg(), _layout(0, count + 1)) == 1


def test_a_run_keeps_its_number_or_says_why_it_cannot():
  assert data_shards.choose(_cfg(), _layout(0, 4), recorded=2) == 2
  with pytest.raises(errors.UserError, match="in 3 shards"):
    data_shards.choose(_cfg(), _layout(0, 1), recorded=3)


def test_a_host_without_examples_is_reported():
  batches = utils.prepare_train_iter(
      tf.data.Dataset.from_tensor_slices({"x": np.zeros([0, 1])}).batch(1)
      .repeat(), partitioner=types.SimpleNamespace(shard_batch=lambda x: x))
  with pytest.raises(errors.UserError, match="share 1 of 2 .* no example"):
    data_shards.check_first_batch(batches, _layout(1, 2))
