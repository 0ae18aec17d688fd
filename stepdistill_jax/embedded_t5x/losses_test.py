"""Tests of losses: equalities between two ways of computing them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import losses

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from tests.support import tiny_models

# float32 sums of tens of terms in another order.
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def _logits_and_tokens(vocab=11):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 5, vocab)).astype(np.float32) * 4
  return logits, rng.integers(0, vocab, (3, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_token_cross_entropy_equals_dense_targets(smoothing, z_loss):
  logits, tokens = _logits_and_tokens()
  vocab = logits.shape[-1]
  targets = jnp.where(
      jax.nn.one_hot(tokens, vocab) > 0, 1 - smoothing,
      smoothing / (vocab - 1))
  dense = lambda x: losses.cross_entropy_with_logits(x, targets, z_loss)
  sparse = lambda x: losses.token_cross_entropy(x, tokens, smoothing, z_loss)
  for a, b in zip(dense(logits), sparse(logits)):
    np.testing.assert_allclose(a, b, **TOLERANCE)
  grad = lambda f: jax.grad(lambda x: jnp.sum(f(x)[0] ** 2))(logits)
  np.testing.assert_allclose(grad(dense), grad(sparse), rtol=1e-4, atol=1e-4)


def test_z_loss_is_logged_not_differentiated_twice():
  logits, tokens = _logits_and_tokens()
  # Only the total carries a gradient, as in T5X.
  grad = jax.grad(
      lambda x: jnp.sum(losses.token_cross_entropy(x, tokens, 0.0, 0.1)[1]))
  np.testing.assert_array_equal(grad(logits), 0)


def test_certain_tokens_keep_their_digits():
  # log(1 + e^-20): computed as log Z - logit it would be 0 or 1e-7 noise.
  logits = jnp.array([[[100.0, 80.0]]])
  loss, _ = losses.token_cross_entropy(logits, jnp.array([[1]]))
  np.testing.assert_allclose(loss, 20.0, rtol=1e-6)
  loss, _ = losses.token_cross_entropy(logits, jnp.array([[0]]))
  assert 0 <= float(loss[0, 0]) < 1e-7


def test_token_outside_vocabulary_is_an_empty_target():
  logits, tokens = _logits_and_tokens()
  tokens[0, 0] = logits.shape[-1]
  dense, _ = losses.cross_entropy_with_logits(
      logits, jax.nn.one_hot(tokens, logits.shape[-1]), 0.0)
  sparse, _ = losses.token_cross_entropy(logits, tokens)
  np.testing.assert_allclose(dense, sparse, **TOLERANCE)
  assert sparse[0, 0] == 0


def test_perfect_model_has_no_loss_under_smoothing():
  vocab, smoothing = 7, 0.2
  tokens = np.array([[1, 2]])
  targets = np.full((1, 2, vocab), smoothing / (vocab - 1))
  np.put_along_axis(targets, tokens[..., None], 1 - smoothing, -1)
  loss, _, weight_sum = losses.compute_weighted_cross_entropy(
      jnp.log(targets), tokens, label_smoothing=smoothing)
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  assert weight_sum == 2


def test_weights_and_factor():
  logits, tokens = _logits_and_tokens()
  weights = (tokens > 3).astype(np.float32)
  per_token, z = losses.token_cross_entropy(logits, tokens, 0.0, 0.1)
  loss, z_loss, weight_sum = losses.compute_weighted_cross_entropy(
      logits, tokens, weights, z_loss=0.1, loss_normalizing_factor=5.0)
  np.testing.assert_allclose(loss, np.sum(per_token * weights) / 5, rtol=1e-6)
  np.testing.assert_allclose(z_loss, np.sum(z * weights) / 5, rtol=1e-6)
  assert weight_sum == weights.sum()


def test_ranks_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="one axis more"):
    losses.compute_weighted_cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 3)))


@pytest.mark.parametrize("name", ["num_real_target_tokens",
                                  "NUM_TOTAL_TARGET_TOKENS"])
def test_factors_of_names(name):
  batch = tiny_models.make_batch(0)
  factor, weights = losses.get_loss_normalizing_factor_and_weights(name, batch)
  targets = batch["decoder_target_tokens"]
  expected = np.sum(targets > 0) if "real" in name else targets.size
  assert factor == expected
  np.testing.assert_array_equal(weights, targets > 0)


def test_numbers_and_none_pass_through():
  batch = tiny_models.make_batch(0)
  for given in (None, 12, 3.5):
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
        given, batch)
    assert factor == given
    assert weights is batch["decoder_loss_weights"]


def test_unknown_factor_lists_the_known():
  with pytest.raises(ValueError, match="AVERAGE_PER_SEQUENCE"):
    losses.convert_special_loss_normalizing_factor_to_enum("per_token")


def test_average_per_sequence_is_the_same_packed_and_unpacked():
  packed = tiny_models.make_batch(3, packed=True)
  unpacked = tiny_models.unpack(packed)
  name = "AVERAGE_PER_SEQUENCE"
  factor_p, weights_p = losses.get_loss_normalizing_factor_and_weights(
      name, packed)
  factor_u, weights_u = losses.get_loss_normalizing_factor_and_weights(
      name, unpacked)
  assert factor_u == pytest.approx(len(unpacked["decoder_target_tokens"]))
  assert factor_p == pytest.approx(factor_u)
  np.testing.assert_allclose(
      weights_p[packed["decoder_target_tokens"] > 0],
      weights_u[unpacked["decoder_target_tokens"] > 0], rtol=1e-6)


def test_average_per_sequence_without_weight_counts_nothing():
  batch = tiny_models.make_batch(0)
  batch["decoder_loss_weights"][2:] = 0
  factor, weights = losses.get_loss_normalizing_factor_and_weights(
      "AVERAGE_PER_SEQUENCE", batch)
  assert factor == pytest.approx(2)
  assert np.isfinite(weights).all()


def test_weights_on_padding_of_a_packed_row_count_nothing():
  batch = {
      "decoder_target_tokens": np.array([[3, 4, 5, 0, 0]]),
      "decoder_positions": np.array([[0, 1, 0, 0, 0]]),
      "decoder_segment_ids": np.array([[1, 1, 2, 0, 0]]),
      "decoder_loss_weights": np.array([[1.0, 3.0, 2.0, 5.0, 7.0]])}
  factor, weights = losses.get_loss_normalizing_factor_and_weights(
      "AVERAGE_PER_SEQUENCE", batch)
  np.testing.assert_allclose(weights, [[0.25, 0.75, 1.0, 0.0, 0.0]])
  assert float(factor) == 2.0
