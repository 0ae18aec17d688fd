"""The network's layers against plainer ways to the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x.examples.t5 import (
  attention,
  linear,
  position_bias,
)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("lengths", [(1, 1), (5, 9), (200, 150), (300, 300)])
def test_position_biases_are_those_of_each_pair_s_bucket(
    lengths, bidirectional):
  biases = position_bias.RelativePositionBiases(
      num_buckets=32, max_distance=128, num_heads=3, dtype=jnp.bfloat16)
  params = biases.init(jax.random.PRNGKey(0), *lengths, bidirectional)
  got = biases.apply(params, *lengths, bidirectional)
  position = np.arange(lengths[1])[None, :] - np.arange(lengths[0])[:, None]
  bucket = position_bias.relative_position_bucket(position, bidirectional)
  table = jnp.asarray(params["params"]["rel_embedding"], jnp.bfloat16)
  np.testing.assert_array_equal(got, table[:, bucket][None])


def test_no_array_of_all_pairs_is_in_the_program():
  biases = position_bias.RelativePositionBiases(
      num_buckets=32, max_distance=128, num_heads=3, dtype=jnp.float32)
  params = biases.init(jax.random.PRNGKey(0), 1, 1)
  program = jax.make_jaxpr(lambda p: biases.apply(p, 50, 60))(params)
  assert all(np.size(constant) <= 32 for constant in program.consts)


def test_gradient_of_embeddings_by_product_equals_the_scatter():
  rng = np.random.default_rng(0)
  ids = jnp.asarray([[1, 3, 3, -1], [0, 10, 11, 3]])  # Two are outside.
  rows = jnp.asarray(rng.integers(-9, 9, (2, 4, 5)), jnp.float32)  # Exact.
  table = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
  expected = linear._sums_by_scatter(ids, rows, 11)
  np.testing.assert_array_equal(
      linear._sums_by_product(ids, rows, 11), expected)
  looked_up, vjp = jax.vjp(
      lambda t: linear._look_up(t, ids, 11, jnp.float32), table)
  np.testing.assert_array_equal(vjp(rows)[0], expected)
  np.testing.assert_array_equal(
      looked_up, linear._one_hot(ids, 11, jnp.float32) @ table)


@pytest.mark.parametrize("sums", [
    linear._sums_by_product, linear._sums_by_scatter])
def test_gradients_of_embeddings_are_summed_in_float32(sums):
  # bfloat16 has no odd numbers above 256.
  ids, rows = jnp.ones(603, jnp.int32), jnp.ones((603, 2), jnp.bfloat16)
  got = jax.jit(lambda i, r: sums(i, r, 3))(ids, rows)
  np.testing.assert_array_equal(got, [[0, 0], [603, 603], [0, 0]])


@pytest.mark.parametrize("from_cache", [False, True])
def test_dropout_of_attention_drops_weights(from_cache):
  """What acts on the values here is, in the paper, dropout of the weights."""
  rng = np.random.default_rng(0)
  query, key, value = (jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32)
                       for n in (5, 6, 6))
  dropout_rng = jax.random.PRNGKey(1)
  orders = (0, 2, 1, 3) if from_cache else (0, 1, 2, 3)
  got = attention.dot_product_attention(
      query, key.transpose(orders), value.transpose(orders),
      dropout_rng=dropout_rng, dropout_rate=0.5, from_cache=from_cache)
  weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key))
  keep = jax.random.bernoulli(dropout_rng, 0.5, (2, 3, 1, 6))
  assert 0 < np.mean(keep) < 1
  expected = jnp.einsum("bhqk,bkhd->bqhd", weights * keep / 0.5, value)
  # Products in another order.
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_numpy_s_embeddings_are_looked_up():
  table = np.arange(6, dtype=np.float32).reshape(3, 2)
  got = linear.Embed(3, 2).apply(
      {"params": {"embedding": table}}, np.array([[2, 0]]))
  np.testing.assert_array_equal(got, table[[[2, 0]]])
