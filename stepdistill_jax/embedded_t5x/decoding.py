"""Decoding, under the module name that T5X gives it."""

import jax
from jax import lax

from stepdistill_jax.embedded_t5x.beam_search import *  # noqa: F403
from stepdistill_jax.embedded_t5x.decoding_state import *  # noqa: F403
from stepdistill_jax.embedded_t5x.sampling import *  # noqa: F403

PyTreeDef = jax.tree_util.PyTreeDef
# Private in T5X; public code takes them nevertheless.
_is_tracer = is_tracer  # noqa: F405
# [n, ...] arrays, [n, ...] updates, [n] starts, axis: an update at each start.
_dynamic_update_vector_slice_in_dim = jax.vmap(
    lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))
