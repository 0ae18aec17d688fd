"""SVAMP: arithmetic word problems; the label is an equation."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("svamp")
