"""Tests that scanning and rematerialization change no number."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from stepdistill_jax.embedded_t5x.examples.scalable_t5 import network
from stepdistill_jax.embedded_t5x.examples.t5 import network as t5_network
from stepdistill_jax.util import errors
from tests.support import tiny_models

BATCH = tiny_models.make_batch(4, packed=True)


def _model(**config):
  return tiny_models.make_model(network, config)


@functools.cache
def _scanned_variables():
  return tiny_models.initial_variables(_model())


def _unstack(params):
  """Scanned parameters as those of layers one by one."""
  params = jax.tree.map(lambda x: x, params)  # A copy to take apart.
  for side in ("encoder", "decoder"):
    stacked = params[side].pop(side)
    for i in range(tiny_models.SIZES[f"num_{side}_layers"]):
      params[side][f"layers_{i}"] = jax.tree.map(
          lambda x, i=i: jnp.take(x, i, axis=1), stacked)
  return params


def _loss_and_grad(model, params):
  fn = lambda params: model.loss_fn(params, BATCH, None)[0]
  return jax.jit(jax.value_and_grad(fn))(params)


def test_stacked_parameters_have_an_axis_of_layers():
  variables = _scanned_variables()
  kernel = variables["params"]["encoder"]["encoder"]["attention"]["query"]
  assert kernel["kernel"].shape == (16, 2, 2, 6)
  axes = variables["params_axes"]["encoder"]["encoder"]["attention"]["query"]
  assert axes["kernel_axes"].names == ("embed", "layers", "heads", "kv")


def test_scanned_equals_unrolled():
  params = _scanned_variables()["params"]
  loss, grads = _loss_and_grad(_model(), params)
  unrolled_loss, unrolled_grads = _loss_and_grad(
      _model(scan_layers=False), _unstack(params))
  np.testing.assert_allclose(loss, unrolled_loss, rtol=1e-6)
  # Gradients are sums of hundreds of float32 terms of size 10.
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
      _unstack(grads), unrolled_grads)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("policy", ["minimal", "full", "dots_saveable"])
def test_rematerialization_changes_nothing(policy, scan):
  params = _scanned_variables()["params"]
  params = params if scan else _unstack(params)
  forward = jax.jit(lambda model_params: jax.grad(
      lambda p: _model(scan_layers=scan, remat_policy=policy).loss_fn(
          p, BATCH, None)[0])(model_params)["token_embedder"])
  _, expected = _loss_and_grad(_model(scan_layers=scan), params)
  np.testing.assert_allclose(
      forward(params)["embedding"], expected["token_embedder"]["embedding"],
      rtol=1e-4, atol=1e-4)


def test_full_rematerialization_keeps_less():
  params = _scanned_variables()["params"]

  def kept(policy):
    """Bytes that the forward pass keeps for the backward pass."""
    model = _model(remat_policy=policy)
    _, pullback = jax.eval_shape(
        lambda p: jax.vjp(lambda q: model.loss_fn(q, BATCH, None)[0], p),
        params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))

  assert kept("full") < kept("minimal") < kept("none")


def test_unknown_policy_lists_the_known():
  with pytest.raises(ValueError, match="'some'.*minimal.*dots_saveable"):
    network.checkpoint_policy("some")
  with pytest.raises(ValueError, match="known: none, minimal"):
    network.checkpoint_policy("save_only_these_names")  # Makes policies.


def test_configurations_that_cannot_work_are_refused():
  for config in (network.T5Config, t5_network.T5Config):
    with pytest.raises(errors.UserError, match="dtype 'float33' is none"):
      config(vocab_size=8, dtype="float33")
  with pytest.raises(ValueError, match="must be 0 or 1, .* got 2"):
    network.T5Config(vocab_size=8, param_scan_axis=2)


def test_decoding_equals_unrolled():
  params = _scanned_variables()["params"]
  batch = tiny_models.make_batch(6)
  decode = lambda model, params: jax.jit(
      lambda p: model.predict_batch_with_aux(
          p, batch, num_decodes=3, return_all_decodes=True))(params)
  tokens, aux = decode(_model(), params)
  expected, expected_aux = decode(
      _model(scan_layers=False), _unstack(params))
  np.testing.assert_array_equal(tokens, expected)
  np.testing.assert_allclose(
      aux["scores"], expected_aux["scores"], atol=1e-4)


def test_frozen_parameters_work_too():
  params = flax.core.freeze(_scanned_variables()["params"])
  assert np.isfinite(jax.jit(_model().score_batch)(
      params, tiny_models.make_batch(1))).all()
