"""Initial states are the same, however they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.util import equations
from tests.support import exactness_cases, student_fixtures as fixtures


@pytest.mark.parametrize("make", [
    lambda: fixtures.tiny_student(module=fixtures.tiny_module(
        num_encoder_layers=2, num_decoder_layers=2)),
    lambda: fixtures.tiny_student(module=exactness_cases.make_module(True)),
    fixtures.tiny_decoder], ids=["t5", "scanned", "decoder"])
@pytest.mark.parametrize("bits", ["threefry2x32", "unsafe_rbg"])
def test_equation_by_equation(make, bits):
  model = make()

  def initialize(rng):
    variables = model.get_initial_variables(rng, {
        "encoder_input_tokens": (4, 16), "decoder_input_tokens": (4, 8),
        "decoder_target_tokens": (4, 8)})
    return model.optimizer_def.init_state(variables["params"]), variables

  with jax.default_prng_impl(bits):
    rng = jax.random.PRNGKey(3)
    expected = jax.jit(initialize)(rng)
    found = equations.one_by_one(initialize)(rng)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    # In a program of its own a draw is not joined with what scales it, by one
    # rounding instead of two: an ulp of the draws' range.
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-7)


def test_equal_values_have_buffers_of_their_own():
  def twice(x):
    y = jnp.zeros([3]) + x
    return x, y, y, jax.device_put(y)

  values = equations.one_by_one(twice)(jnp.float32(2.0))
  total = jax.jit(lambda *all: sum(map(jnp.sum, all)),
                  donate_argnums=(0, 1, 2, 3))(*values)
  assert float(total) == 20.0


def test_one_device_traces_once():
  case = exactness_cases.Case("paired")
  model = exactness_cases.make_student(case)
  init, traces = model.get_initial_variables, []
  model.get_initial_variables = lambda **kwargs: (
      traces.append(kwargs) or init(**kwargs))
  batch = exactness_cases.make_batch(case, fixtures.random_pairs(0, 8, 6))
  exactness_cases.make_state(model, "data", batch)
  assert jax.device_count() == 1 and len(traces) == 1
