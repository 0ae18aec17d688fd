"""The looped network against the plain one: same parameters, same values."""

import jax
import numpy as np
import pytest
from t5x.examples.t5 import network as plain_network

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import layer_loop, scanned_network
from stepdistill_jax.util import errors
from tests.support import tiny_models

_BATCH = tiny_models.make_batch(0)


def _models(dtype="float32", remat_policy="minimal", **config):
  class _Looped:
    T5Config = plain_network.T5Config
    Transformer = lambda config: scanned_network.Transformer(
        config, remat_policy=remat_policy)

  config = {"dtype": dtype, **config}
  return (tiny_models.make_model(plain_network, config),
          tiny_models.make_model(_Looped, config))


def _loss_and_gradient(model, params, rng=None):
  return jax.jit(jax.value_and_grad(
      lambda p: model.loss_fn(p, _BATCH, rng)[0]))(params)


@pytest.mark.parametrize("remat_policy", layer_loop.REMAT_POLICIES)
def test_same_parameters_loss_and_gradient(remat_policy):
  plain, looped = _models(remat_policy=remat_policy)
  variables = tiny_models.initial_variables(plain)
  jax.tree.map(np.testing.assert_array_equal, variables["params"],
               tiny_models.initial_variables(looped)["params"])
  loss, gradient = _loss_and_gradient(plain, variables["params"])
  loss2, gradient2 = _loss_and_gradient(looped, variables["params"])
  # The same operations in float32; XLA fuses them otherwise in a loop.
  np.testing.assert_allclose(loss2, loss, rtol=1e-6)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5),
      gradient, gradient2)


def test_dropout_is_drawn_for_each_layer_and_step():
  _, looped = _models(dropout_rate=0.5)
  params = tiny_models.initial_variables(looped)["params"]
  losses = [
      float(_loss_and_gradient(looped, params, jax.random.PRNGKey(seed))[0])
      for seed in (0, 0, 1)]
  assert losses[0] == losses[1] != losses[2]


def test_decoding_answers_as_the_plain_network():
  plain, looped = _models()
  params = tiny_models.initial_variables(plain)["params"]
  np.testing.assert_array_equal(
      plain.predict_batch(params, _BATCH), looped.predict_batch(params, _BATCH))


def test_layers_are_in_a_loop_where_that_pays(monkeypatch):
  plain, _ = _models(num_encoder_layers=2, num_decoder_layers=2)
  params = tiny_models.initial_variables(plain)["params"]
  monkeypatch.setattr(layer_loop, "_MANY_LAYERS", 2)
  loops = {}
  for on_accelerators in (False, True):
    monkeypatch.setattr(
        device_mesh, "on_accelerators", lambda on=on_accelerators: on)
    for asked in (None, False, True):
      module = scanned_network.in_loop(plain.module, asked)
      program = jax.make_jaxpr(lambda p, m=module: m.apply(
          {"params": p}, *(_BATCH[name] for name in (
              "encoder_input_tokens", "decoder_input_tokens",
              "decoder_target_tokens")), enable_dropout=False))(params)
      loops[on_accelerators, asked] = str(program).count(" scan[")
  assert loops == {(False, None): 0, (False, False): 0, (False, True): 2,
                   (True, None): 2, (True, False): 0, (True, True): 2}
  # A network of someone's own is left alone.
  looped = scanned_network.Transformer(plain.module.config)
  assert scanned_network.in_loop(looped, None) is looped


def test_an_unknown_policy_is_reported():
  _, looped = _models(remat_policy="some")
  params = tiny_models.initial_variables(looped)["params"]
  with pytest.raises(errors.UserError, match="unknown remat_policy 'some'"):
    _loss_and_gradient(looped, params)
