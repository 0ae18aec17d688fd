"""Dropout of one draw a layer against flax's of a draw each."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x.examples.t5 import network

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import layer_dropout

_X = jnp.ones((2, 64, 512))


class _Layer(nn.Module):
  rates: tuple[float, float]

  @nn.compact
  def __call__(self, x, deterministic=False):
    y = nn.Dropout(self.rates[0], broadcast_dims=(-2,))(
        x, deterministic=deterministic)
    z = nn.Dropout(self.rates[1])(x, deterministic=deterministic)
    return jnp.stack([y, z])


def _applied(rates, seed=0):
  layer = _Layer(rates)
  return layer_dropout.apply(
      lambda params, x: layer.apply({"params": params}, x), {}, _X,
      jax.random.PRNGKey(seed))


@pytest.mark.parametrize("devices", [1, 2])
def test_rates_shapes_and_scales_are_those_of_each_dropout(
    monkeypatch, devices):
  """From one draw on one device, from a draw each on several."""
  monkeypatch.setattr(device_mesh, "devices_here", lambda: [None] * devices)
  program = str(jax.make_jaxpr(lambda: _applied((0.5, 0.5)))())
  assert program.count("random_bits") == devices
  for rates in [(0.25, 0.25), (0.5, 0.125)]:
    out = np.asarray(_applied(rates))
    for got, rate in zip(out, rates, strict=True):
      # What is kept is divided by how often it is.
      np.testing.assert_allclose(got[got > 0], 1 / (1 - rate), rtol=1e-6)
    # 1,024 and 65,536 draws: six standard deviations are 0.094 and 0.012.
    assert abs(np.mean(out[0] == 0) - rates[0]) < 0.094
    assert abs(np.mean(out[1] == 0) - rates[1]) < 0.012
    # One draw serves all positions of a row, and another one the next row.
    assert (out[0] == out[0][:, :1]).all()
    assert (out[0][0, 0] != out[0][1, 0]).any()
    assert (out[1] != out[1][:, :1]).any()


def test_the_key_decides():
  np.testing.assert_array_equal(_applied((0.5, 0.5)), _applied((0.5, 0.5)))
  assert (_applied((0.5, 0.5), 1) != _applied((0.5, 0.5))).any()


def test_layers_of_t5_draw_nothing_else():
  """With the same bits given to both, a layer of T5 gives the same numbers."""
  cfg = network.T5Config(
      vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
      mlp_activations=("gelu", "linear"), dropout_rate=0.5)
  layer = network.EncoderLayer(cfg)
  x = jax.random.normal(jax.random.PRNGKey(1), (3, 5, 16))
  params = layer.init(jax.random.PRNGKey(0), x, deterministic=True)["params"]
  masks = []
  bernoulli = jax.random.bernoulli

  def without_rngs(params, x):
    return layer.apply({"params": params}, x)  # Would fail to draw.

  got = layer_dropout.apply(without_rngs, params, x, jax.random.PRNGKey(2))
  # The draws in their order: attention, its residual, the hidden layer, its
  # residual.
  shapes = [(3, 2, 1, 5), (3, 1, 16), (3, 1, 32), (3, 1, 16)]
  drawn = bernoulli(jax.random.PRNGKey(2), 0.5, (sum(map(np.prod, shapes)),))
  for shape in shapes:
    masks.append(drawn[:np.prod(shape)].reshape(shape))
    drawn = drawn[np.prod(shape):]

  jax.random.bernoulli = lambda key, p, shape: masks.pop(0).reshape(shape)
  try:
    want = layer.apply({"params": params}, x, rngs={
        "dropout": jax.random.PRNGKey(3)})
  finally:
    jax.random.bernoulli = bernoulli
  assert not masks
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_without_dropout_a_layer_is_itself():
  layer = _Layer((0.5, 0.5))
  with layer_dropout._kept_by(lambda rate, shape: 1 / 0):
    np.testing.assert_array_equal(
        layer.apply({}, _X, deterministic=True), jnp.stack([_X, _X]))
