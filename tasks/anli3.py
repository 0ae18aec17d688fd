"""ANLI, round 3: premise, EOS, hypothesis; three labels."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("anli3")
