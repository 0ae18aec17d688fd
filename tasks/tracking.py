"""The embedded benchmark: where objects are at a story's end."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("tracking")
