"""Decoding, under the module name that T5X gives it."""

from typing import Any

import jax
from jax import lax

from stepdistill_jax.embedded_t5x.beam_search import *  # noqa: F403
from stepdistill_jax.embedded_t5x.decoding_state import *  # noqa: F403
from stepdistill_jax.embedded_t5x.sampling import *  # noqa: F403

PyTreeDef = jax.tree_util.PyTreeDef

# Private names of T5X's that public code takes from it.
_dynamic_update_vector_slice_in_dim = jax.vmap(
    lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))


def _is_tracer(value: Any) -> bool:
  return isinstance(value, jax.core.Tracer)
