"""Kernels side by side: what is joined, and that nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x.examples.t5 import network as t5_network

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import joined_kernels, scanned_network
from tests.support import tiny_models


def _kernel(width):
  return {"kernel": jnp.arange(3.0 * width).reshape(3, width)}


def test_kernels_of_one_input_are_joined_and_come_back():
  layer = {
      "self_attention": {
          "query": _kernel(4), "key": _kernel(2), "value": _kernel(2),
          "out": _kernel(5)},
      "encoder_decoder_attention": {
          "query": _kernel(4), "key": _kernel(2), "value": _kernel(2)},
      "mlp": {"wi_0": _kernel(6), "wi_1": _kernel(6), "wo": _kernel(3)},
      "norm": {"scale": jnp.ones(3)}}
  joined = joined_kernels.join(layer)
  assert jax.tree.map(jnp.shape, joined) == {
      "self_attention": {"value+query+key": (3, 8), "out": {"kernel": (3, 5)}},
      "encoder_decoder_attention": {
          "query": {"kernel": (3, 4)}, "value+key": (3, 4)},
      "mlp": {"wi_0+wi_1": (3, 12), "wo": {"kernel": (3, 3)}},
      "norm": {"scale": (3,)}}
  jax.tree.map(np.testing.assert_array_equal,
               joined_kernels.separate(joined, layer), layer)


@pytest.mark.parametrize("odd", [
    {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    {"kernel": jnp.ones((3, 2, 2))}])
def test_biases_and_other_shapes_stay_apart(odd):
  layer = {"attention": {
      "query": _kernel(2), "key": odd, "value": _kernel(2)}}
  assert joined_kernels.join(layer) == layer


@pytest.mark.parametrize("devices", [1, 2])
def test_a_loop_gives_the_plain_network_s_loss_and_gradients(
    monkeypatch, devices):
  """Joined on one device, apart on several, where each has a part of each."""
  monkeypatch.setattr(
      device_mesh, "devices_here", lambda *unused: [None] * devices)
  joined, separate = [], joined_kernels.separate

  def spied(params, like):
    joined.append(params)
    return separate(params, like)

  monkeypatch.setattr(joined_kernels, "separate", spied)
  batch = tiny_models.make_batch(0)
  config = {"dtype": "float32"}
  model = tiny_models.make_model(t5_network, config)
  params = tiny_models.initial_variables(model)["params"]
  results = []
  for loop_layers in (False, True):
    model.module = scanned_network.in_loop(
        t5_network.Transformer(model.module.config), loop_layers)
    results.append(jax.value_and_grad(
        lambda p: model.loss_fn(p, batch, None)[0])(params))
  assert bool(joined) == (devices == 1)
  # The same products in float32, summed in another order.
  np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      b, a, rtol=1e-4, atol=1e-5), results[0][1], results[1][1])
