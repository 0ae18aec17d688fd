"""The SeqIO task or mixture that a config names: found, checked, described.

A config is a `utils.DatasetConfig` of T5X's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import importlib
from typing import Any, TypeAlias

import seqio

from stepdistill_jax.config import setting_checks, tasks_finder
from stepdistill_jax.data import fingerprints
from stepdistill_jax.util import errors

Provider: TypeAlias = seqio.Task | seqio.Mixture


def find_task(cfg: Any) -> Provider:
  """The task or mixture that a config names.

  Raises:
    errors.UserError: there is none of that name; the message lists near ones.
  """
  if cfg.module:
    try:
      importlib.import_module(cfg.module)
    except ModuleNotFoundError as error:
      if not f"{cfg.module}.".startswith(f"{error.name}."):
        raise  # It is there; what it imports is not.
      raise errors.InvalidValue(
          f"there is no module {cfg.module!r} to import "
          f"(MIXTURE_OR_TASK_MODULE): {error}") from error
  name = cfg.mixture_or_task_name
  if isinstance(name, seqio.DatasetProviderBase):
    return name
  errors.require_known(
      "SeqIO task or mixture", name,
      {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()},
      "(set MIXTURE_OR_TASK_NAME; the gin file must import the module that "
      "registers it, and tasks of a data set and teacher come with their "
      "records: `stepdistill teacher import`)" + tasks_finder.collision())
  return seqio.get_mixture_or_task(name)


def tasks_with_split(
    provider: Provider, split: str, advice: str = "") -> list[seqio.Task]:
  """A provider's tasks that have a split, by name.

  Args:
    advice: ends the error.

  Raises:
    errors.UserError: none of them has it.
  """
  tasks = sorted(seqio.get_subtasks(provider), key=lambda task: task.name)
  found = [task for task in tasks if split in (task.splits or ())]
  if not found:
    splits = {split for task in tasks for split in (task.splits or ())}
    raise errors.UserError(
        f"task {provider.name} has no split {split!r}; it has "
        f"{sorted(splits) or 'none'}{advice}")
  return found


def check(cfg: Any, partitioner: Any, advice: str = "") -> Provider:
  """Returns a config's task, whose data can be read in even batches.

  Args:
    cfg: what is read.
    partitioner: over which devices.
    advice: ends the error where there is no such split.

  Raises:
    errors.UserError: the data cannot be read, or not in even batches.
  """
  setting_checks.whole_number("BATCH_SIZE", cfg.batch_size)
  for name, length in (cfg.task_feature_lengths or {}).items():
    if length is not None:
      setting_checks.whole_number(f"TASK_FEATURE_LENGTHS[{name!r}]", length)
  partitioner.get_data_layout(cfg.batch_size)
  provider = find_task(cfg)
  tasks = seqio.get_subtasks(provider)
  for task in tasks:
    for name, feature in task.output_features.items():
      _check_vocabulary(
          f"task {task.name}: the vocabulary of {name!r}", feature.vocabulary)
  with errors.reported(Exception, lambda error: (  # Sources raise any.
      f"task {provider.name}: its data cannot be read "
      f"({errors.first_line(error)}); set --records_dir to the folder that "
      "holds it")):
    for task in tasks_with_split(provider, cfg.split, advice):
      if not task.source.list_shards(cfg.split):
        raise errors.UserError(
            f"task {task.name}: there are no files for split {cfg.split!r}")
  if cfg.use_cached:
    for task in tasks:
      if task.supports_caching and not task.cache_dir:
        raise errors.UserError(
            f"task {task.name} is not cached: pass "
            "--gin.USE_CACHED_TASKS=False, or its folder with "
            "--seqio_additional_cache_dirs")
  return provider


def _check_vocabulary(name: str, vocabulary: seqio.Vocabulary) -> None:
  path = getattr(vocabulary, "sentencepiece_model_file", "") or vocabulary
  with errors.reported(Exception, lambda error: (
      f"{name} cannot be loaded from {path} ({errors.first_line(error)})")):
    _ = vocabulary.vocab_size  # Loads it.


def check_divisible(batch_size: int, num_shards: int) -> None:
  """Raises UserError unless hosts have even shares of a batch."""
  if batch_size % num_shards:
    raise errors.InvalidValue(
        f"batch size {batch_size} is not divisible by the {num_shards} hosts "
        "that load different data")


@contextlib.contextmanager
def lengths_explained(cfg: Any) -> Iterator[None]:
  """Makes a UserError of SeqIO's where lengths are not those of the features.
  """
  try:
    yield
  except ValueError as error:
    if "task_feature_lengths" not in str(error):
      raise
    raise errors.InvalidValue(
        f"TASK_FEATURE_LENGTHS = {dict(cfg.task_feature_lengths or {})}: "
        f"{' '.join(str(error).split())}") from error


def describe(cfg: Any) -> Mapping[str, Any]:
  """Name, split and fingerprints of a data set, for the run's record."""
  provider = find_task(cfg)
  tasks = tasks_with_split(provider, cfg.split)
  files = [fingerprints.files_of(task, cfg.split) for task in tasks]
  folders = {str(f.parent.absolute()) for of_task in files for f in of_task}
  return {"task": provider.name, "split": cfg.split,
          "task_feature_lengths": dict(cfg.task_feature_lengths or {}),
          "batch_size": cfg.batch_size, "pack": bool(cfg.pack),
          "shuffle": cfg.shuffle, "folders": sorted(folders),
          "files_sha256": fingerprints.digest_of(files),
          "vocabularies_sha256": fingerprints.vocabularies_of(*tasks)}
