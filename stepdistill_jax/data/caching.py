"""SeqIO's cache of tasks, written on this machine or by SeqIO with Beam.

    CACHE_DIR/svamp_step_gold_palm540b/
      COMPLETED  info.train.json  stats.train.json  made_from.json
      train.tfrecord-00000-of-00016 ...

Runs with `USE_CACHED_TASKS = True` read it, whoever wrote it. What stands
behind the place of the cache is still done in every run: the choice of records
(shares, filters) and the cutting to TASK_FEATURE_LENGTHS. `made_from.json` is
ours: a cache of other records than today's is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import seqio
import tensorflow as tf

from stepdistill_jax.data import fingerprints, sources, task_registry
from stepdistill_jax.util import errors, progress, whole_folders

SHARDS = 16
_COMPLETED = "COMPLETED"
_MADE_FROM = "made_from.json"


def find_tasks(names: Sequence[str]) -> list[seqio.Task]:
  """The tasks of these names, and of the mixtures among them.

  Raises:
    errors.UserError: a name is unknown; lists the near ones.
  """
  return list({
      task.name: task for name in names
      for task in seqio.get_subtasks(task_registry.require_task(name))
  }.values())


def cache_task(
    task: seqio.Task, cache_dir: str | os.PathLike[str], *,
    shards: int = SHARDS, overwrite: bool = False) -> bool:
  """Writes the examples of a task, all its splits.

  Args:
    task: its preprocessors up to `seqio.CacheDatasetPlaceholder` are run.
    cache_dir: of all cached tasks, for `--seqio_additional_cache_dirs`.
    shards: of a split; hosts read different ones.
    overwrite: False to leave an older cache of the task as it is.

  Returns:
    Whether it wrote them.

  Raises:
    errors.UserError: the task's records are missing, or nothing can be
      written there, or an older cache that stays is of other records.
  """
  folder = pathlib.Path(cache_dir) / task.name
  if (folder / _COMPLETED).is_file() and not overwrite:
    check_made_from(task, folder)
    return False
  with errors.reported(OSError, lambda error: (
      f"cannot write to {cache_dir}: {error.strerror}; choose another folder "
      "with --output=DIR")), whole_folders.written(folder) as temporary:
    for split in task.splits:
      _write_split(task, split, temporary, shards)
    write_made_from(task, temporary)
    (temporary / _COMPLETED).touch()
  return True


def _write_split(task: seqio.Task, split: str, folder: pathlib.Path,
                 shards: int) -> None:
  """Writes a split's examples, round robin, and what SeqIO keeps of them."""
  dataset = task.preprocess_precache(
      task.source.get_dataset(split=split, shuffle=False), seed=None)
  prefix, count = seqio.get_cached_tfrecord_prefix(str(folder), split), 0
  with contextlib.ExitStack() as stack:
    bars = stack.enter_context(progress.Bars("examples"))
    writers = [stack.enter_context(tf.io.TFRecordWriter(
        f"{prefix}-{shard:05d}-of-{shards:05d}")) for shard in range(shards)]
    for example in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
      writers[count % shards].write(
          seqio.dict_to_tfexample(example).SerializeToString())
      count += 1
      bars.update(count, task.source.num_input_examples(split), task.name)
  features = {
      name: {"dtype": tensor.dtype.name,  # The first dimension is free.
             "shape": [None, *tensor.shape[1:]] if tensor.shape.rank else []}
      for name, tensor in dataset.element_spec.items()}
  info = {"num_shards": shards, "seqio_version": seqio.__version__,
          "features": features}
  for path, value in ((seqio.get_cached_info_path(str(folder), split), info),
                      (seqio.get_cached_stats_path(str(folder), split),
                       {"examples": count})):
    pathlib.Path(path).write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def write_made_from(task: seqio.Task, folder: pathlib.Path) -> None:
  """Writes down, in a task's cache, what its examples are made from."""
  (folder / _MADE_FROM).write_text(
      json.dumps(fingerprints.of_task(task), indent=2) + "\n", "utf-8")


def check_made_from(task: seqio.Task, folder: str | os.PathLike[str]) -> None:
  """Raises UserError if a cache is of other records than the task's are now.

  A cache that does not say what it is of is reported where it could.
  """
  if not isinstance(task.source, sources.RecordsSource):
    return  # The cache of a user's own task, as SeqIO's script writes it.
  file = pathlib.Path(folder) / _MADE_FROM
  if not file.is_file():
    progress.say(
        f"warning: {folder} does not say which records it is made from; if "
        f"they have changed since, cache {task.name} again")
    return
  before = json.loads(file.read_text("utf-8"))
  now = fingerprints.of_task(task)
  differing = [
      what for what, key in (("records", "files_sha256"),
                             ("vocabulary", "vocabularies_sha256"))
      if before.get(key) != now[key]]
  if differing:
    raise errors.UserError(
        f"{folder} was made from other {' and '.join(differing)} than those of "
        f"{task.name} now: `stepdistill data cache --tasks={task.name} "
        "--output=DIR --overwrite` writes it anew")


def has_beam() -> bool:
  return importlib.util.find_spec("apache_beam") is not None


def cache_with_beam(
    tasks: Sequence[seqio.Task], cache_dir: str | os.PathLike[str], *,
    records_dir: str, shards: int, overwrite: bool,
    pipeline_options: str) -> None:
  """Runs SeqIO's own pipeline, on the runner that the options name.

  Raises:
    errors.UserError: Beam is not installed, or the pipeline failed.
  """
  if not has_beam():
    raise errors.UserError(
        "--beam needs Apache Beam: `pip install apache-beam`, or leave --beam "
        "away to cache on this machine without it")
  written = []
  for task in tasks:
    folder = pathlib.Path(cache_dir) / task.name
    if overwrite or not (folder / _COMPLETED).is_file():
      written.append((task, folder))
    else:  # SeqIO leaves it as it is.
      check_made_from(task, folder)
  command = [
      sys.executable, "-m", "seqio.scripts.cache_tasks_main",
      f"--tasks={','.join(task.name for task in tasks)}",
      f"--output_cache_dir={cache_dir}",
      "--module_import=stepdistill_jax.tasks",
      f"--tfds_data_dir={records_dir}", f"--min_shards={shards}",
      f"--overwrite={overwrite}",
      f"--pipeline_options={pipeline_options}"]
  done = subprocess.run(command, check=False)
  if done.returncode:
    raise errors.UserError(
        f"Beam ended with exit code {done.returncode}; its own messages stand "
        f"above. The command was: {' '.join(command)}")
  for task, folder in written:
    write_made_from(task, folder)
