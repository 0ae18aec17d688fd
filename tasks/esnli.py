"""e-SNLI: premise, EOS, hypothesis; three labels."""

from stepdistill_jax.data import task_registry

task_registry.register_declared("esnli")
