"""ANLI, round 2: premise, EOS, hypothesis; three labels."""

from stepdistill_jax.data import task_registry

task_registry.register_dataset("anli2", teachers=("palm540b", "llama3"))
