"""What gin files ask of tasks: their names, and the vocabulary of one."""

from __future__ import annotations

from typing import Any

from stepdistill_jax.records.task_names import GOLD, KINDS, TEACHER, task_name

__all__ = ["GOLD", "KINDS", "TEACHER", "lengths_with_rationale", "task_name",
           "vocabulary_of"]


def lengths_with_rationale(
    inputs: int, rationale: int, targets: int) -> dict[str, int]:
  """Lengths in tokens of a task whose inputs hold a rationale too."""
  return {"inputs": inputs + rationale, "targets": targets}


def vocabulary_of(
    mixture_or_task_name: str, feature: str = "targets") -> Any:
  """The `seqio.Vocabulary` of a task; a model that takes it has no other.

  Raises:
    errors.UserError: there is no such task; names the near ones.
  """
  # Names alone are made without SeqIO, which takes seconds to import.
  from stepdistill_jax.data import task_registry

  provider = task_registry.require_task(mixture_or_task_name)
  return provider.output_features[feature].vocabulary
