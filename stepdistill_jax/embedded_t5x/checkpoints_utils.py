"""T5X's module of checkpoints' names."""

from stepdistill_jax.runs.checkpoint_paths import *  # noqa: F403
