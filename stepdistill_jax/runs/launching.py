"""Parses gin files for a T5X mode, and calls its function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib
import re
import shlex
from typing import Any

from stepdistill_jax.config import data_folder
from stepdistill_jax.util import errors, locations, remote_storage

# Bindings that a run reads or writes; others name files for other data.
_IS_FOLDER = re.compile(r"(DIR|PATH|dir|path)$")
# mode -> (module of t5x, function, other names that gin files use of
# `__main__`).
ENTRY_POINTS = {
    "train": ("train", "train", ()),
    "eval": ("eval", "evaluate", ()),
    "infer": ("infer", "infer", (
        "create_task_from_tfexample_file", "create_task_from_text_file",
        "write_inferences_to_file", "merge_chunks_to_file")),
    "precompile": ("precompile", "precompile", ()),
    "export": ("export_lib", "save", ()),
}

# What ends a command without a traceback.
_FOR_THE_USER = (errors.UserError, errors.Preempted, KeyboardInterrupt)
# Modes with run files of ours; others have T5X's own.
_HAVE_RUN_FILES = ("train", "eval", "infer")


def main_names(mode: str) -> list[str]:
  """What gin files of a mode find in `__main__`."""
  _, function, others = ENTRY_POINTS[mode]
  return [function, *others]


def _mode_advice(mode: str, missing: str) -> str:
  """What to do where gin files are for another mode than the command's.

  Args:
    mode: a key of ENTRY_POINTS.
    missing: from `gin_config.missing_entry_point`.

  Returns:
    A line instead of gin's, or "" if gin complains of something else.
  """
  meant = next((other for other, (_, function, _) in ENTRY_POINTS.items()
                if missing == f"{other}_script.{function}"), mode)
  if meant == mode:
    return ""
  folder = "gin" if mode in _HAVE_RUN_FILES else "t5x/configs"
  return (f"these gin files are for `t5x {meant}`, not for `t5x {mode}`; "
          f"include a run file for {mode}, such as {folder}/runs/{mode}.gin, "
          "and the model, data set and method, instead of a recipe")


def _say_where(bindings: Mapping[str, str]) -> None:
  """Says where a run's metrics are, unless another program shows them."""
  from stepdistill_jax.util import progress

  model_dir = bindings.get("MODEL_DIR", "").strip("'\"")
  if model_dir and not progress.is_watched():
    progress.say("t5x train: to follow it, tensorboard --logdir="
                 f"{shlex.quote(model_dir)}")


def _say_next(bindings: Mapping[str, str], records_dir: str | None) -> None:
  """Says where a run's last checkpoint is, and what to do with it."""
  from stepdistill_jax.records import records
  from stepdistill_jax.runs import checkpoint_paths
  from stepdistill_jax.util import progress

  model_dir = bindings.get("MODEL_DIR", "").strip("'\"")
  step = checkpoint_paths.latest_step(model_dir) if model_dir else None
  if step is None or progress.is_watched():
    return
  folder = shlex.quote(model_dir)
  path = checkpoint_paths.get_checkpoint_dir(model_dir, step)
  dataset = bindings.get("DATASET", "").strip("'\"")
  here = records_dir or locations.records_dir()
  splits = {split for teacher in records.teachers_of(here, dataset)
            for split in records.split_sizes(here, dataset, teacher)}
  options = "".join((
      f"--split={max(splits)} " if splits and "test" not in splits else "",
      f"--records_dir={shlex.quote(records_dir)} " if records_dir else ""))
  score = "" if not dataset else (
      f"`stepdistill-eval --checkpoint={folder} --benchmarks={dataset} "
      f"{options}--output="
      f"{shlex.quote(model_dir.rstrip('/') + '_scores')}`, or ")
  progress.say(f"checkpoint: {path}")
  progress.say(f"next: {score}`stepdistill predict {folder} FILE`")


def launch(
    mode: str, gin_files: Sequence[str] = (), gin_bindings: Sequence[str] = (),
    *, gin_search_paths: Sequence[str] = (), tfds_data_dir: str | None = None,
    seqio_additional_cache_dirs: Sequence[str] = (), dry_run: bool = False
) -> Any:
  """Parses the configuration and runs a mode, on whichever engine `t5x` is.

  Args:
    tfds_data_dir: overrides the data folder of all TFDS tasks meanwhile.
    seqio_additional_cache_dirs: where `seqio_cache_tasks` wrote.

  Returns:
    What the mode's function returns.
  """
  import gin
  import seqio

  from stepdistill_jax.config import gin_config
  module_name, function_name, others = ENTRY_POINTS[mode]
  module = importlib.import_module(f"t5x.{module_name}")
  entry = getattr(module, function_name)
  names = {name: getattr(module, name) for name in (function_name, *others)
           if hasattr(module, name)}
  seqio.add_global_cache_dirs(list(seqio_additional_cache_dirs))
  # What is imported after the run may register configurables again.
  with gin.unlock_config(), gin_config.main_module(**names), (
      data_folder.tfds_data_dir(tfds_data_dir or None)):
    try:
      gin_config.parse(gin_files, gin_bindings, gin_search_paths)
    except errors.UserError as error:
      advice = _mode_advice(mode, gin_config.missing_entry_point(error))
      if advice:
        raise errors.UserError(advice) from error
      raise
    if not any(re.search(rf"\b{function_name}\.\w+$", name)
               for name in gin_config.bindings()):
      run_file = {"train": "finetune"}.get(mode, mode)
      raise errors.UserError(
          f"no gin file configures `{function_name}`; include a run file, such "
          f"as --gin_file=t5x/configs/runs/{run_file}.gin")
    gin_config.make_folders_absolute()
    configured = gin.get_configurable(entry)
    if dry_run:
      if mode == "train":
        with gin.unlock_config():  # The data's modules register some.
          from stepdistill_jax.runs import dry_run as dry_run_lib
          dry_run_lib.describe(entry)
      return None
    for name, value in gin_config.bindings().items():
      if _IS_FOLDER.search(name):
        remote_storage.require_reachable(value)
    try:
      if mode == "train":
        _say_where(gin_config.bindings())
      result = configured()
      if mode == "train":
        # Of Google's engine, nothing imported these modules before.
        with gin.unlock_config():
          _say_next(gin_config.bindings(), tfds_data_dir)
      return result
    except _FOR_THE_USER as error:
      kind = next(kind for kind in _FOR_THE_USER if isinstance(error, kind))
      raise kind(str(error).split(errors.GIN_CALL)[0]) from error
    except (AttributeError, TypeError, ValueError) as error:
      message, *calls = str(error).split(errors.GIN_CALL)
      name = re.match(r" '([\w.]+)'", calls[0])[1] if calls else function_name
      if name == function_name:
        raise
      raise errors.UserError(
          f"gin config: {' '.join(message.split())} (in {name}, which has its "
          "arguments from gin; STEPDISTILL_TRACEBACK=1 shows where)"
      ) from error
