"""Tests of Adafactor against closed forms and against itself."""

from flax.core import freeze
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest
from t5x import adafactor

import stepdistill_jax  # noqa: F401  Makes t5x importable.

ROW, COLUMN = adafactor.FactorDim.ROW, adafactor.FactorDim.COLUMN
BATCH, NONE = adafactor.FactorDim.BATCH, adafactor.FactorDim.NONE


def _params(**shapes):
  rng = np.random.default_rng(1)
  return {k: jnp.asarray(rng.normal(size=s), jnp.float32)
          for k, s in shapes.items()}


def _step(optimizer_def, params, grads, steps=1, **overrides):
  optimizer = optimizer_def.create(params)
  for _ in range(steps):
    optimizer = optimizer.apply_gradient(
        grads, **{"learning_rate": 0.1, **overrides})
  return optimizer


def test_first_step_of_a_vector_is_closed_form():
  params, grads = _params(b=(5,)), {"b": jnp.array([1., -2., 3., 0., 4.])}
  new = _step(adafactor.Adafactor(clipping_threshold=None), params, grads)
  # At the first step the second moment is g² alone: the update is sign(g).
  scale = np.sqrt(np.mean(params["b"] ** 2))
  np.testing.assert_allclose(
      new.target["b"], params["b"] - 0.1 * scale * np.sign(grads["b"]),
      rtol=1e-6)
  assert new.state.step == 1


def test_matrix_is_factored_into_row_and_column_means():
  params, grads = _params(k=(4, 6)), _params(k=(4, 6))
  optimizer_def = adafactor.Adafactor(
      min_dim_size_to_factor=2, clipping_threshold=None,
      multiply_by_parameter_scale=False)
  new = _step(optimizer_def, params, grads)
  square = np.asarray(grads["k"]) ** 2 + 1e-30
  state = new.state.param_states["k"]
  assert state.v.shape == (1,)
  # 6 is the column axis: v_row is the mean over it.
  np.testing.assert_allclose(state.v_row, square.mean(1), rtol=1e-6)
  np.testing.assert_allclose(state.v_col, square.mean(0), rtol=1e-6)
  v = np.outer(square.mean(1), square.mean(0)) / square.mean()
  np.testing.assert_allclose(
      new.target["k"], params["k"] - 0.1 * grads["k"] / np.sqrt(v), rtol=1e-5)


def test_rank_one_gradients_factor_without_loss():
  outer = jnp.outer(jnp.array([1., 2., 3.]), jnp.array([1., -1., 5., .5]))
  params = _params(k=(3, 4))
  factored = _step(
      adafactor.Adafactor(min_dim_size_to_factor=2), params, {"k": outer}, 3)
  full = _step(adafactor.Adafactor(factored=False), params, {"k": outer}, 3)
  np.testing.assert_allclose(
      factored.target["k"], full.target["k"], rtol=1e-5)


def test_stacked_layers_step_as_if_apart():
  """Scanned layers' parameters (axis 1) equal the layers one by one."""
  stacked = _params(k=(4, 3, 6))["k"]
  grads = _params(x=(1,), k=(4, 3, 6))["k"]
  optimizer_def = adafactor.Adafactor(
      min_dim_size_to_factor=2, beta1=0.9,
      factor_map=adafactor.HParamMap([("k", (ROW, BATCH, COLUMN))]))
  together = _step(optimizer_def, {"k": stacked}, {"k": grads}, 2).target["k"]
  for layer in range(3):
    alone = _step(
        adafactor.Adafactor(min_dim_size_to_factor=2, beta1=0.9),
        {"k": stacked[:, layer]}, {"k": grads[:, layer]}, 2).target["k"]
    np.testing.assert_allclose(together[:, layer], alone, rtol=1e-5)


def test_several_column_axes_equal_their_product():
  """[embed, heads, kv] factors like the matrix [embed, heads * kv]."""
  params, grads = _params(k=(4, 2, 3)), _params(x=(1,), k=(4, 2, 3))
  optimizer_def = adafactor.Adafactor(
      min_dim_size_to_factor=2,
      logical_factor_rules=adafactor.standard_logical_factor_rules())
  optimizer_def.set_param_axes({"k": PartitionSpec("embed", "heads", "kv")})
  nd = _step(optimizer_def, params, {"k": grads["k"]}, 2).target["k"]
  matrix = _step(
      adafactor.Adafactor(min_dim_size_to_factor=2),
      {"k": params["k"].reshape(4, 6)}, {"k": grads["k"].reshape(4, 6)}, 2
  ).target["k"]
  np.testing.assert_allclose(nd.reshape(4, 6), matrix, rtol=1e-5)


def test_clipping_bounds_the_update():
  params = _params(b=(100,))
  grads = {"b": jnp.full((100,), 3.0).at[0].set(1e4)}
  optimizer_def = adafactor.Adafactor(
      multiply_by_parameter_scale=False, clipping_threshold=0.5)
  update = params["b"] - _step(optimizer_def, params, grads).target["b"]
  assert np.sqrt(np.mean(update ** 2)) <= 0.1 * 0.5 * 1.0001


def test_parameter_scale_is_bounded_both_ways():
  grads = {"b": jnp.ones(4)}
  step = lambda params, **kw: params["b"] - _step(
      adafactor.Adafactor(**kw), params, grads).target["b"]
  tiny, huge = {"b": jnp.full(4, 1e-6)}, {"b": jnp.full(4, 50.0)}
  np.testing.assert_allclose(step(tiny), 0.1 * 1e-3, rtol=1e-5)
  np.testing.assert_allclose(
      step(huge, max_parameter_scale=2.0), 0.1 * 2.0, rtol=1e-4)


def test_parameter_scale_by_name():
  params = {"a": jnp.full(4, 2.0), "b": jnp.full(4, 2.0)}
  relative = adafactor.HParamMap([("a", True), (".*", False)])
  new = _step(
      adafactor.Adafactor(multiply_by_parameter_scale=relative), params,
      jax.tree.map(jnp.ones_like, params)).target
  np.testing.assert_allclose(new["a"], 2.0 - 0.2, rtol=1e-6)
  np.testing.assert_allclose(new["b"], 2.0 - 0.1, rtol=1e-6)


def test_weight_decay():
  params, zero = {"b": jnp.full(4, 2.0)}, {"b": jnp.zeros(4)}
  decayed = lambda **kw: _step(adafactor.Adafactor(**kw), params, zero).target
  np.testing.assert_allclose(
      decayed(weight_decay_rate=0.01)["b"], 2.0 * 0.99, rtol=1e-6)
  # learning_rate ** 2, times the rate.
  np.testing.assert_allclose(
      decayed(weight_decay_rate=0.5, weight_decay_rate_lr_exponent=2.0)["b"],
      2.0 * (1 - 0.5 * 0.01), rtol=1e-6)


def test_momentum_dtype_and_average():
  params, grads = _params(b=(4,)), {"b": jnp.ones(4)}
  optimizer_def = adafactor.Adafactor(
      beta1=0.9, dtype_momentum="bfloat16", multiply_by_parameter_scale=False)
  new = _step(optimizer_def, params, grads)
  assert new.state.param_states["b"].m.dtype == jnp.bfloat16
  # A tenth of the update, 0.1.
  np.testing.assert_allclose(new.target["b"], params["b"] - 0.01, rtol=1e-5)


def test_global_norm_clipping_scales_all_gradients():
  params = _params(a=(3,), b=(4,))
  grads = {"a": jnp.full(3, 3.0), "b": jnp.full(4, 4.0)}
  norm = np.sqrt(3 * 9 + 4 * 16)
  optimizer_def = adafactor.Adafactor(global_norm_clip_threshold=1.0)
  clipped = _step(optimizer_def, params, grads, 2)
  scaled = _step(
      adafactor.Adafactor(), params,
      jax.tree.map(lambda g: g / norm, grads), 2)
  for name in params:
    np.testing.assert_allclose(
        clipped.state.param_states[name].v, scaled.state.param_states[name].v,
        rtol=1e-5)


def test_nan_updates_are_skipped():
  params = {"b": jnp.ones(3)}
  grads = {"b": jnp.array([1.0, np.nan, 1.0])}
  optimizer_def = adafactor.Adafactor(
      skip_nan_updates=True, clipping_threshold=None)
  new = _step(optimizer_def, params, grads)
  assert new.target["b"][1] == 1.0 and new.target["b"][0] < 1.0
  assert np.isfinite(new.state.param_states["b"].v).all()


def test_step_offset_restarts_the_decay():
  params, grads = _params(b=(4,)), {"b": jnp.ones(4)}
  late = adafactor.Adafactor(step_offset=1000).create(params)
  late = late.replace(state=late.state.replace(step=jnp.asarray(1000)))
  late = late.apply_gradient(grads, learning_rate=0.1)
  fresh = _step(adafactor.Adafactor(), params, grads)
  np.testing.assert_array_equal(late.target["b"], fresh.target["b"])


def test_factor_rules_of_logical_axes():
  optimizer_def = adafactor.Adafactor(
      logical_factor_rules={
          "embed": "row", "mlp": "column", "layers": "batch", "odd": "none"})
  optimizer_def.set_param_axes(freeze({"wi": {"kernel": PartitionSpec(
      "embed", "layers", "mlp")}, "scale": PartitionSpec("embed")}))
  factor_map = optimizer_def.hyper_params.factor_map
  assert factor_map["wi/kernel"] == (ROW, BATCH, COLUMN)
  assert factor_map["scale"] == (NONE,)  # Rows alone don't factor.
  with pytest.raises(ValueError, match="unfactored beside"):
    optimizer_def.set_param_axes({"k": PartitionSpec("embed", "odd", "mlp")})


@pytest.mark.parametrize("arguments, error", [
    (dict(factored=False, factor_map=adafactor.HParamMap([])), ValueError),
    (dict(multiply_by_parameter_scale=1.0), TypeError),
    (dict(factor_map={"a": None}), TypeError),
])
def test_arguments_are_checked(arguments, error):
  with pytest.raises(error):
    adafactor.Adafactor(**arguments)


def test_messages_name_the_parameter():
  grads = {"deep": {"kernel": jnp.ones((2, 2, 2))}}
  with pytest.raises(ValueError, match="deep/kernel.*standard_logical"):
    adafactor.Adafactor().create(grads)
  with pytest.raises(ValueError, match="learning_rate_fn"):
    _step(adafactor.Adafactor(), {"b": jnp.ones(2)}, {"b": jnp.ones(2)},
          learning_rate=None)
  with pytest.raises(KeyError, match="deep/kernel"):
    adafactor.HParamMap([("other", 1)])(grads)
  rules = adafactor.Adafactor(logical_factor_rules={"embed": "row"})
  with pytest.raises(KeyError, match="'mlp'"):
    rules.set_param_axes({"k": PartitionSpec("embed", "mlp")})
  with pytest.raises(ValueError, match="rows.*mean: row"):
    adafactor.factor_name_to_factordim("rows")


def test_state_dict_and_logical_axes():
  params = freeze(_params(k=(8, 16), b=(8,)))
  axes = freeze({"k": PartitionSpec("embed", "mlp"),
                 "b": PartitionSpec("embed")})
  optimizer_def = adafactor.Adafactor(min_dim_size_to_factor=4)
  optimizer = optimizer_def.create(params)
  restored = optimizer_def.create(
      jax.tree.map(jnp.zeros_like, params)).restore_state(
          optimizer.state_dict())
  jax.tree.map(np.testing.assert_array_equal, optimizer, restored)
  assert set(optimizer.state_dict()["state"]["param_states"]["k"]) == {
      "v_row", "v_col", "v", "m"}
  logical = optimizer_def.derive_logical_axes(optimizer, axes)
  assert logical.target == axes
  states = logical.state.param_states
  assert states["k"].v is None and states["k"].v_row is None
  assert states["b"].v == PartitionSpec("embed")
  assert logical.state.step is None
