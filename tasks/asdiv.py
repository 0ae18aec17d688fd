"""ASDiv: arithmetic word problems; the label is a number."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("asdiv")
