"""Decoding, under the module name that T5X gives it."""

import jax

from stepdistill_jax.embedded_t5x.beam_search import *  # noqa: F403
from stepdistill_jax.embedded_t5x.decoding_state import *  # noqa: F403
from stepdistill_jax.embedded_t5x.sampling import *  # noqa: F403

PyTreeDef = jax.tree_util.PyTreeDef
