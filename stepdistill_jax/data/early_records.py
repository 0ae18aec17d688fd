"""Whether a run's records are there, before anything large is imported."""

from __future__ import annotations

from stepdistill_jax.config import early_names
from stepdistill_jax.records import datasets, records, task_names
from stepdistill_jax.util import errors, locations, remote_storage

_TASK = "task_names.task_name"


def require(text: early_names.Text, records_dir: str | None) -> None:
  """Raises UserError if a training will not find its records.

  Of tasks that gin/methods/*.gin name; others are found out when they are
  read.

  Args:
    text: of the run's gin files.
    records_dir: of the command; None for the user's.
  """
  named = text.value("MIXTURE_OR_TASK_NAME")
  folder = str(records_dir or locations.records_dir())
  if not isinstance(named, early_names.Reference) or (
      not named.name.endswith(_TASK)) or remote_storage.is_remote(folder):
    return
  scope = named.name[:-len(_TASK)]

  def value(argument: str) -> str:
    found = text.value(f"{scope}{_TASK}.{argument}")
    if found is None:
      found = text.value(f"{_TASK}.{argument}")
    return found if isinstance(found, str) else ""

  kind, dataset, labels, teacher = map(
      value, ("kind", "dataset", "labels", "teacher"))
  if kind not in task_names.KINDS or not dataset:
    return
  if labels not in (task_names.GOLD, task_names.TEACHER):
    raise errors.UserError(
        f"LABELS must be 'gold' (human labels) or 'teacher', got {labels!r}")
  by_anyone = kind in ("label", "predict") and labels == task_names.GOLD
  for member in datasets.members(dataset):
    if by_anyone and records.teachers_of(folder, member):
      continue
    records.require_records(
        folder, member, teacher if teacher and not by_anyone
        else records.PUBLISHED_TEACHER)
