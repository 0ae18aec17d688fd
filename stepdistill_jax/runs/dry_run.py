"""What `t5x train` would train, by gin files alone: `t5x train --dry_run`.

No device is used and nothing is compiled: parameters are counted by their
shapes. Works on either engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import math
import os
from typing import Any

from stepdistill_jax.config import gin_config, setting_checks
from stepdistill_jax.data import (
  dataset_providers,
  pair_rows,
  record_check,
  show_command,
  task_registry,
)
from stepdistill_jax.runs import checkpoint_paths, run_record
from stepdistill_jax.util import errors

_ARGUMENTS = (
    "model", "train_dataset_cfg", "train_eval_dataset_cfg",
    "infer_eval_dataset_cfg", "total_steps", "relative_steps", "eval_period",
    "checkpoint_cfg", "model_dir")
# PACK -> what is said of rows.
_ROWS = {
    None: ("; each in a row of its own, but on GPUs and TPUs in rows that "
           "several share (PACK = 'pairs'), where the model can have them"),
    pair_rows.PAIRS: "; rows that several share are fitted when a run begins"}
_EVALUATIONS = ("train_eval_dataset_cfg", "infer_eval_dataset_cfg")


def describe(train: Callable[..., Any]) -> None:
  """Prints what a parsed configuration would train.

  What would stop the training is printed as a warning, such as records that
  are not on this machine.

  Args:
    train: T5X's `train`, for which gin has arguments.
  """
  found: dict[str, Any] = {}
  warnings: list[str] = []
  for name in _ARGUMENTS:  # One by one: each may be what is wrong.
    with _noted(warnings, f"{name}: "):
      found.update(gin_config.arguments_of(train, [name]))
  for part, needed in (
      (_run, ()), (_model, ("model", "train_dataset_cfg")),
      (_data, ("train_dataset_cfg",))):
    if found.keys() >= set(needed):  # Else it was said.
      with _noted(warnings):
        for line in part(found):
          print(line)
  for check in _checks(found):
    with _noted(warnings):
      check()
  for warning in dict.fromkeys(warnings):
    print(f"warning: this training would stop: {warning}")
  print("dry run: nothing was trained or written")


@contextlib.contextmanager
def _noted(warnings: list[str], prefix: str = "") -> Iterator[None]:
  """Adds an error inside to the warnings, in a line."""
  try:
    yield
  except (errors.UserError, AttributeError, KeyError, TypeError,
          ValueError) as error:
    line = errors.one_line(str(error).split(errors.GIN_CALL)[0])
    warnings.append(f"{prefix}{line}")


def _steps(found: Mapping[str, Any]) -> int | None:
  return found.get("relative_steps") or found.get("total_steps")


def _checkpoint_configs(found: Mapping[str, Any]) -> tuple[Any, Any]:
  """(how checkpoints are saved, which is restored); None for none."""
  cfg = found.get("checkpoint_cfg")
  return getattr(cfg, "save", None), getattr(cfg, "restore", None)


def _run(found: Mapping[str, Any]) -> Iterator[str]:
  save, restore = _checkpoint_configs(found)
  yield f"run: {found.get('model_dir')}, {_steps(found)} steps" + (
      f"; evaluated every {found['eval_period']}"
      if found.get("eval_period") else "") + (
      f"; a checkpoint every {save.period}" if save and save.period else "")
  path = getattr(restore, "path", None)
  if (step := _step_there(found)) is not None:
    yield f"goes on from step {step}, of its own last checkpoint"
  else:
    yield f"begins from {path}" if path else "begins from random parameters"


def _step_there(found: Mapping[str, Any]) -> int | None:
  """The last step that MODEL_DIR has a checkpoint of."""
  folder = str(found.get("model_dir") or "")
  return checkpoint_paths.latest_step(folder) if os.path.isdir(folder) else None


def _checks(found: Mapping[str, Any]) -> Iterator[Callable[[], Any]]:
  """What a training looks at before it compiles; each may be what stops it."""
  save, restore = _checkpoint_configs(found)
  scored = [found[name] for name in _EVALUATIONS if found.get(name) is not None]
  yield functools.partial(
      setting_checks.periods, found.get("eval_period") if scored else 0,
      save.period if save else 0)
  folder, path = str(found.get("model_dir") or ""), getattr(
      restore, "path", None)
  if "://" not in folder:
    yield functools.partial(_check_folder, folder)
  if (_step_there(found) is None and restore is not None and restore.mode ==
      "specific" and isinstance(path, str) and "://" not in path
      and path and not os.path.exists(f"{path}.index")):
    yield functools.partial(checkpoint_paths.require, path)
  for cfg in scored:
    yield functools.partial(_check_split, cfg)


def _check_folder(folder: str) -> None:
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise errors.UserError(
        f"MODEL_DIR={folder} is a file, not a folder; take another one")
  record = run_record.read(folder) if os.path.isdir(folder) else None
  if record is not None:  # Fingerprints of the data are the training's to make.
    run_record.check_same_run(folder, gin_config.bindings(), record["data"])


def _check_split(cfg: Any) -> None:
  dataset_providers.tasks_with_split(
      task_registry.require_task(cfg.mixture_or_task_name), cfg.split,
      setting_checks.NO_EVALUATION)


def _model(found: Mapping[str, Any]) -> Iterator[str]:
  """Parameters and bytes of the train state."""
  import jax
  from t5x import train_state as train_state_lib

  model, cfg = found["model"], found["train_dataset_cfg"]
  lengths = dict(cfg.task_feature_lengths or {})
  shape = {name: (1, lengths.get(side) or 8) for name, side in (
      ("encoder_input_tokens", "inputs"), ("decoder_input_tokens", "targets"),
      ("decoder_target_tokens", "targets"))}

  def init() -> Any:
    return train_state_lib.FlaxOptimTrainState.create(
        model.optimizer_def, model.get_initial_variables(
            jax.random.PRNGKey(0), shape))

  state = jax.eval_shape(init)
  parameters = jax.tree_util.tree_leaves(state.params)
  optimizer = jax.tree_util.tree_leaves(state.param_states)
  number = sum(math.prod(x.shape) for x in parameters)
  yield (f"model: {type(model).__name__}, {number:,} parameters; memory of all "
         f"devices together: parameters {_memory(parameters)}, optimizer "
         f"{_memory(optimizer)}, gradients {_memory(parameters)}; activations "
         "are not estimated here: `stepdistill plan` with the same files and a "
         "--topology does")


def _memory(arrays: list[Any]) -> str:
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
  return (f"{size / 2**30:.2f} GiB" if size >= 2**30
          else f"{size / 2**20:.2f} MiB")


def _data(found: Mapping[str, Any]) -> Iterator[str]:
  import seqio

  raw, steps = found["train_dataset_cfg"], _steps(found)
  cfg = pair_rows.with_bool(raw)
  setting_checks.whole_number("BATCH_SIZE", cfg.batch_size)
  shown = show_command.look(
      cfg.mixture_or_task_name, cfg, 1, show_command.weights_of(found))
  unit = "packed rows" if cfg.pack else "examples"
  yield f"task: {shown.name}, {cfg.split}; {cfg.batch_size} {unit} a step" + (
      _ROWS.get(raw.pack, ""))
  known = [f.records for f in shown.figures]
  counted = all(f.records == f.counted for f in shown.figures)
  examples = sum(f.examples for f in shown.figures)
  if cfg.pack or None in known or not counted or not examples:
    yield "epochs: not counted" + (
        " (how many examples a row holds is not known before they are packed)"
        if cfg.pack else "")
  else:
    yield (f"epochs: {examples / cfg.batch_size:.1f} steps are one" + (
        f", {steps} are {steps * cfg.batch_size / examples:.1f}"
        if steps else ""))
  for name in _EVALUATIONS:
    other = found.get(name)
    if other is not None:
      yield (f"{name.removesuffix('_dataset_cfg').replace('_', '-')}: "
             f"{other.mixture_or_task_name}, {other.split}")
  for line in record_check.kind_lines(seqio.get_subtasks(
      task_registry.require_task(shown.name))):
    yield f"warning: {line}"
  show_command.print_examples(shown)
