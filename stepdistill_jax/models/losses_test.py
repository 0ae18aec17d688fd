"""Tests of the token losses and of sums by task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from t5x import losses as t5x_losses

from stepdistill_jax.models import losses


@pytest.fixture
def logits_and_targets():
  rng = np.random.default_rng(0)
  return (jnp.asarray(rng.normal(0, 3, (2, 5, 11)), jnp.float32),
          jnp.asarray(rng.integers(0, 11, (2, 5)), jnp.int32))


def test_cross_entropy_equals_optax(logits_and_targets):
  got = losses.token_loss(*logits_and_targets)
  np.testing.assert_allclose(
      got.cross_entropy,
      optax.softmax_cross_entropy_with_integer_labels(*logits_and_targets),
      rtol=1e-6)  # Float32 rounding.
  assert not np.any(got.z_loss)


@pytest.mark.parametrize("smoothing,z_loss", [(0, 0), (0.1, 0), (0.1, 1e-2)])
def test_value_and_gradient_equal_t5x(logits_and_targets, smoothing, z_loss):
  logits, targets = logits_and_targets
  weights = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (2, 5)))

  def ours(logits):
    loss = losses.token_loss(
        logits, targets, label_smoothing=smoothing, z_loss=z_loss)
    return jnp.sum(weights * (loss.cross_entropy + loss.z_loss))

  def t5x(logits):
    return t5x_losses.compute_weighted_cross_entropy(
        logits, targets, weights, smoothing, z_loss)[0]

  for mine, theirs in zip(jax.value_and_grad(ours)(logits),
                          jax.value_and_grad(t5x)(logits)):
    # Sums in another order.
    np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32(logits_and_targets):
  logits, targets = logits_and_targets
  low = logits.astype(jnp.bfloat16)
  got = losses.token_loss(low, targets).cross_entropy
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(
      got, losses.token_loss(low.astype(jnp.float32), targets).cross_entropy)


def test_padding_may_hold_anything():
  values = jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]])
  ids = jnp.array([[1, 0], [0, 2]])
  np.testing.assert_array_equal(losses.task_sums(values, ids, 2), [1, 2])


def test_division_by_no_tokens_is_zero_with_zero_gradient():
  f = lambda s: jnp.sum(losses.safe_divide(s, jnp.array([0.0, 4.0])))
  value, gradient = jax.value_and_grad(f)(jnp.array([3.0, 2.0]))
  assert value == 0.5
  np.testing.assert_array_equal(gradient, [0, 0.25])
