"""Tests of the optax wrapper and the MultiOptimizer."""

import importlib.util
import sys

from flax import traverse_util
from flax.core import freeze
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest
from t5x import adafactor, optimizers

from stepdistill_jax.util import errors  # Makes t5x importable.

# As a run has it: pytest resets the filter that `optimizers` sets.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.flax.traverse_util.Traversal.:DeprecationWarning")
PARAMS = freeze({
    "dense": {"kernel": jnp.arange(6.0).reshape(2, 3) / 6},
    "scale": jnp.ones(3)})
GRADS = jax.tree.map(lambda x: jnp.cos(x), PARAMS)
AXES = freeze({
    "dense": {"kernel": PartitionSpec("embed", "mlp")},
    "scale": PartitionSpec("mlp")})


def _decay_mask(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)


WRAPPED = {
    "adamw": (optimizers.adamw, optax.adamw, dict(
        learning_rate=optax.linear_schedule(0.1, 0.0, 3),
        mask=_decay_mask)),
    "sgd": (optimizers.sgd, optax.sgd, dict(learning_rate=0.1, momentum=0.9)),
    "lion": (optimizers.lion, optax.lion, dict(learning_rate=0.1)),
    "chain": (optimizers.chain, lambda transformations: optax.chain(
        *transformations), dict(transformations=[
            optax.clip_by_global_norm(1.0), optax.adafactor(0.1)])),
}


def three_steps_equal(optimizer, rule):
  """The optimizer after three steps, each parameter as the rule has it."""
  params, state = PARAMS, rule.init(PARAMS)
  for _ in range(3):
    # The trainer gives a learning rate; optax keeps its own.
    optimizer = optimizer.apply_gradient(GRADS, learning_rate=123.0)
    updates, state = rule.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
  jax.tree.map(np.testing.assert_array_equal, optimizer.target, params)
  return optimizer


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_equals_optax(name):
  ours, theirs, arguments = WRAPPED[name]
  optimizer = three_steps_equal(
      ours(**arguments).create(PARAMS), theirs(**arguments))
  assert optimizer.state.step == 3


@pytest.mark.parametrize("name", WRAPPED)
def test_state_dict_has_arrays_only_and_restores(name):
  ours, _, arguments = WRAPPED[name]
  optimizer_def = ours(**arguments)
  optimizer = optimizer_def.create(PARAMS).apply_gradient(GRADS)
  state_dict = optimizer.state_dict()
  flat = traverse_util.flatten_dict(state_dict, keep_empty_nodes=True)
  assert not any(v is traverse_util.empty_node for v in flat.values())
  restored = optimizer_def.create(
      jax.tree.map(jnp.zeros_like, PARAMS)).restore_state(state_dict)
  jax.tree.map(np.testing.assert_array_equal, optimizer, restored)


def test_state_of_another_optimizer_is_refused():
  saved = optimizers.sgd(0.1).create(PARAMS).state_dict()
  with pytest.raises(ValueError, match="no param_states/0/.*another"):
    optimizers.adam(0.1).create(PARAMS).restore_state(saved)


@pytest.mark.parametrize("name", WRAPPED)
def test_logical_axes_follow_parameters(name):
  ours, _, arguments = WRAPPED[name]
  optimizer_def = ours(**arguments)
  optimizer = optimizer_def.create(PARAMS)
  logical = optimizer_def.derive_logical_axes(optimizer, AXES)
  assert logical.target == AXES
  arrays = jax.tree_util.tree_leaves(optimizer.state)
  axes = jax.tree_util.tree_structure(optimizer.state).flatten_up_to(
      logical.state)
  for array, names in zip(arrays, axes):
    if names is not None:
      assert len(names) == jnp.ndim(array)
    else:  # Counts and factors are replicated.
      assert jnp.shape(array) not in [(2, 3)]


def test_logical_axes_of_adam():
  optimizer_def = optimizers.adamw(0.1)
  logical = optimizer_def.derive_logical_axes(
      optimizer_def.create(PARAMS), AXES)
  adam = logical.state.param_states[0]
  assert adam.count is None and adam.mu == AXES and adam.nu == AXES


def test_overrides_replace_hyper_params():
  optimizer_def = adafactor.Adafactor(learning_rate=0.5)
  assert optimizer_def.update_hyper_params().learning_rate == 0.5
  new = optimizer_def.update_hyper_params(learning_rate=0.1, beta1=0.9)
  assert (new.learning_rate, new.beta1) == (0.1, 0.9)
  again = optimizer_def.update_hyper_params(hyper_params=new, beta1=None)
  assert (again.learning_rate, again.beta1) == (0.1, None)


def test_amos_names_the_package_it_needs(monkeypatch):
  monkeypatch.setitem(sys.modules, "jestimator", None)
  with pytest.raises(errors.UserError, match="pip install jestimator"):
    optimizers.amos(learning_rate=0.01, eta_fn=lambda name, shape: 1.0)


@pytest.mark.interop
@pytest.mark.skipif(importlib.util.find_spec("jestimator") is None,
                    reason="jestimator is not installed")
def test_amos_equals_jestimator():
  arguments = dict(learning_rate=0.01, eta_fn=lambda name, shape: 1.0,
                   shape_fn=lambda name, shape: ())
  ours = optimizers.amos(**arguments)
  # Only now: jestimator alone cannot be imported beside today's JAX.
  from jestimator import amos
  optimizer = three_steps_equal(
      ours.create(PARAMS), amos.amos(**arguments))
  optimizer.optimizer_def.derive_logical_axes(optimizer, AXES)


def _selecting(word):
  return traverse_util.ModelParamTraversal(lambda path, _: word in path)


def test_multi_optimizer_equals_its_parts():
  kernels = adafactor.Adafactor(0.1)
  scales = adafactor.Adafactor(0.1, multiply_by_parameter_scale=False)
  multi = optimizers.MultiOptimizer(
      [(_selecting("kernel"), kernels), (_selecting("scale"), scales)])
  together = multi.create(PARAMS)
  apart = [d.create(PARAMS) for d in (kernels, scales)]
  for _ in range(2):
    together = together.apply_gradient(GRADS, learning_rate=0.2)
    apart = [o.apply_gradient(GRADS, learning_rate=0.2) for o in apart]
  np.testing.assert_array_equal(
      together.target["dense"]["kernel"], apart[0].target["dense"]["kernel"])
  np.testing.assert_array_equal(
      together.target["scale"], apart[1].target["scale"])
  restored = multi.create(PARAMS).restore_state(together.state_dict())
  jax.tree.map(np.testing.assert_array_equal, together, restored)
  logical = multi.derive_logical_axes(together, AXES)
  assert logical.state.param_states["scale"].v == AXES["scale"]


def test_multi_optimizer_leaves_the_rest_alone():
  multi = optimizers.MultiOptimizer(
      [(_selecting("kernel"), adafactor.Adafactor(0.1))])
  new = multi.create(PARAMS).apply_gradient(GRADS)
  np.testing.assert_array_equal(new.target["scale"], PARAMS["scale"])
  assert new.state.param_states["scale"] is None
  assert not np.array_equal(
      new.target["dense"]["kernel"], PARAMS["dense"]["kernel"])


def test_multi_optimizer_refuses_overlap_and_optax():
  both = [(_selecting("kernel"), adafactor.Adafactor(0.1))] * 2
  with pytest.raises(ValueError, match="0 and 1 .*dense/kernel"):
    optimizers.MultiOptimizer(both).create(PARAMS)
  with pytest.raises(ValueError, match="multi_transform"):
    optimizers.MultiOptimizer([(_selecting("a"), optimizers.adam(0.1))])
