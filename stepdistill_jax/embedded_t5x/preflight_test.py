"""Checks before anything is compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import preflight
from stepdistill_jax.util import errors


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_restored_value_that_is_not_finite_is_named(dtype, value):
  params = {"encoder": {"a": jnp.ones((2, 3), dtype),
                        "b": jnp.ones((4,), dtype)}}
  preflight.require_finite("old/checkpoint_3", params)
  params["encoder"]["b"] = params["encoder"]["b"].at[jnp.array([1, 3])].set(
      value)
  with pytest.raises(errors.UserError, match=(
      "old/checkpoint_3: encoder/b has 2 of 4 values that are not finite")):
    preflight.require_finite("old/checkpoint_3", params)
