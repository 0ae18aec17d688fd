"""T5's layers: a decoder-only network needs no others."""

from stepdistill_jax.embedded_t5x.examples.t5.layers import *  # noqa: F401,F403
