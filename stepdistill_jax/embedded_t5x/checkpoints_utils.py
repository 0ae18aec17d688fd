"""T5X's module of checkpoints' names."""

from stepdistill_jax.runs.checkpoint_paths import (
  all_dataset_checkpoint_steps as all_dataset_checkpoint_steps,
  all_steps as all_steps,
  get_checkpoint_dir as get_checkpoint_dir,
  get_checkpoint_prefix as get_checkpoint_prefix,
  get_step_from_checkpoint_dir as get_step_from_checkpoint_dir,
  latest_step as latest_step,
)
