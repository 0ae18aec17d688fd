"""SeqIO's cache of tasks, written on one machine without Beam.

Tokenizing is done once, and runs with `USE_CACHED_TASKS = True` read the
result. The files are those of `seqio_cache_tasks`, which does the same on a
Beam runner (`cache_with_beam`), and SeqIO reads both alike:

    CACHE_DIR/svamp_step_gold_palm540b/
      COMPLETED  info.train.json  stats.train.json  made_from.json
      train.tfrecord-00000-of-00016 ...

What stands behind the place of the cache is still done in every run: the
choice of records (shares, filters) and the cutting to TASK_FEATURE_LENGTHS.
`made_from.json` is ours: a cache of other records than today's is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.data import fingerprints, sources, task_registry
from stepdistill_jax.util import errors, progress as progress_lib

SHARDS = 16
_COMPLETED = "COMPLETED"
_MADE_FROM = "made_from.json"


@dataclasses.dataclass(frozen=True)
class CachedTask:
  """What was done for a task.

  Attributes:
    name: of the task.
    folder: of its cache.
    examples: split -> number of examples.
    written: False if an older cache was left as it was.
  """

  name: str
  folder: pathlib.Path
  examples: Mapping[str, int]
  written: bool


def find_tasks(names: Sequence[str]) -> list[seqio.Task]:
  """The tasks of these names, and of the mixtures among them.

  Raises:
    errors.UserError: a name is unknown; lists the near ones.
  """
  found: dict[str, seqio.Task] = {}
  for name in names:
    provider = task_registry.require_task(name)
    for task in (provider.tasks if isinstance(provider, seqio.Mixture)
                 else [provider]):
      found[task.name] = task
  return list(found.values())


def cache_task(
    task: seqio.Task, cache_dir: str | os.PathLike[str], *,
    shards: int = SHARDS, overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None) -> CachedTask:
  """Writes the examples of a task, all its splits.

  The folder is renamed into its place when it is whole, so a run never reads
  half of it.

  Args:
    task: its preprocessors up to `seqio.CacheDatasetPlaceholder` are run.
    cache_dir: of all cached tasks, for `--seqio_additional_cache_dirs`.
    shards: of a split; hosts read different ones.
    overwrite: False to leave an older cache of the task as it is.
    progress: called with the numbers of examples done and of records.

  Raises:
    errors.UserError: the task's records are missing, or nothing can be
      written there, or an older cache that stays is of other records.
  """
  folder = pathlib.Path(cache_dir) / task.name
  if (folder / _COMPLETED).is_file() and not overwrite:
    check_made_from(task, folder)
    return CachedTask(task.name, folder, _examples_in(folder), written=False)
  temporary = folder.with_name(f".incomplete-{task.name}-{os.getpid()}")
  try:
    temporary.mkdir(parents=True)
    counts: dict[str, int] = {}
    total = sum(task.source.num_input_examples(s) or 0 for s in task.splits)
    for split in task.splits:
      counts[split] = _write_split(
          task, split, temporary, shards, lambda n: progress(
              sum(counts.values()) + n, total) if progress else None)
    write_made_from(task, temporary)
    (temporary / _COMPLETED).touch()
    _put_in_place(temporary, folder)
  except OSError as error:
    raise errors.UserError(
        f"cannot write to {cache_dir}: {error.strerror}; choose another "
        "folder with --output=DIR") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return CachedTask(task.name, folder, counts, written=True)


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
    progress_lib.say(
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


def _put_in_place(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  if folder.exists():  # Of an older call, or one that Beam left half done.
    shutil.rmtree(folder)
  os.rename(temporary, folder)


def _examples_in(folder: pathlib.Path) -> dict[str, int]:
  counts = {}
  for path in sorted(folder.glob("stats.*.json")):
    split = path.name.split(".")[1]
    counts[split] = json.loads(path.read_text("utf-8"))["examples"]
  return counts


def _write_split(task: seqio.Task, split: str, folder: pathlib.Path,
                 shards: int, progress: Callable[[int], None]) -> int:
  """Writes a split's examples, info and stats; returns their number."""
  dataset = task.preprocess_precache(
      task.source.get_dataset(split=split, shuffle=False), seed=None)
  stats: dict[str, int] = {"examples": 0}
  prefix = seqio.get_cached_tfrecord_prefix(str(folder), split)
  with _writers(prefix, shards) as writers:
    for example in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
      number = stats["examples"]
      # Round robin: what lay together does not stay together.
      writers[number % shards].write(
          seqio.dict_to_tfexample(example).SerializeToString())
      stats["examples"] += 1
      _count_tokens(stats, example, task.output_features)
      progress(number + 1)
  info = {
      "num_shards": shards, "features": _features(dataset.element_spec),
      "seqio_version": seqio.__version__}
  for path, value in ((seqio.get_cached_info_path(str(folder), split), info),
                      (seqio.get_cached_stats_path(str(folder), split), stats)):
    pathlib.Path(path).write_text(
        json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
  return stats["examples"]


@contextlib.contextmanager
def _writers(
    prefix: str, shards: int) -> Iterator[list[tf.io.TFRecordWriter]]:
  with contextlib.ExitStack() as stack:
    yield [stack.enter_context(tf.io.TFRecordWriter(
        f"{prefix}-{shard:05d}-of-{shards:05d}")) for shard in range(shards)]


def _features(spec: Mapping[str, tf.TensorSpec]) -> dict[str, dict[str, Any]]:
  """Shapes and dtypes as SeqIO keeps them; the first dimension is free."""
  return {
      name: {"dtype": tensor.dtype.name,
             "shape": [None, *tensor.shape[1:]] if tensor.shape.rank else []}
      for name, tensor in spec.items()}


def _count_tokens(stats: dict[str, int], example: Mapping[str, np.ndarray],
                  features: Mapping[str, seqio.Feature]) -> None:
  """Adds to `inputs_tokens` and the like, EOS and padding left out."""
  for name, feature in features.items():
    ids = example.get(name)
    if ids is None or ids.dtype not in (np.int32, np.int64):
      continue
    left_out = [i for i in (feature.vocabulary.eos_id,
                            feature.vocabulary.pad_id) if i is not None]
    tokens = int(np.isin(ids, left_out, invert=True).sum())
    stats[f"{name}_tokens"] = stats.get(f"{name}_tokens", 0) + tokens
    stats[f"{name}_max_tokens"] = max(
        stats.get(f"{name}_max_tokens", 0), tokens)


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
    else:  # Beam leaves it as it is.
      check_made_from(task, folder)
  command = [
      sys.executable, "-m", "seqio.scripts.cache_tasks_main",
      f"--tasks={','.join(task.name for task in tasks)}",
      f"--output_cache_dir={cache_dir}",
      "--module_import=stepdistill_jax.tasks",
      f"--tfds_data_dir={records_dir}", f"--min_shards={shards}",
      f"--overwrite={overwrite}", f"--pipeline_options={pipeline_options}"]
  done = subprocess.run(command, check=False)
  if done.returncode:
    raise errors.UserError(
        f"Beam ended with exit code {done.returncode}; its own messages stand "
        f"above. The command was: {' '.join(command)}")
  for task, folder in written:
    write_made_from(task, folder)
