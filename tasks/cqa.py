"""CommonsenseQA (CoS-E v1.11): five choices; the label is one's text."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("cqa")
