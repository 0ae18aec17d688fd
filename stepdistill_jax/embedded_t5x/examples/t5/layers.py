"""The layers of the T5 network, under the module name that T5X gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from stepdistill_jax.embedded_t5x.examples.t5.attention import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.linear import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.masks import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.position_bias import *  # noqa: F403

PRNGKey = jax.Array
Shape = Sequence[int]
Activation = Callable[..., Any]
# x, [n] starts, length, axis -> [n, ...]: a slice from each start.
dynamic_vector_slice_in_dim = jax.vmap(
    lax.dynamic_slice_in_dim, in_axes=(None, 0, None, None))
