"""Whether the SeqIO task of a run has what its method needs, before compiling.

Bound as `train_script.train.verify_matching_vocabs_fn`, T5X's hook for checks
of a data set against a model.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import Any

import seqio
from t5x import utils

from stepdistill_jax.config import gin_config, setting_checks
from stepdistill_jax.data import (
  caching,
  exact_order,
  feature_converter,
  pair_rows,
  record_check,
  task_registry,
  truncation,
)
from stepdistill_jax.util import errors, progress, t5x_finder


def verify_data(cfg: utils.DatasetConfig, model: Any) -> None:
  """Checks a data set of a run against its model.

  Args:
    cfg: a `t5x.utils.DatasetConfig`.
    model: the student.

  Raises:
    errors.UserError: the data set lacks a target that the loss weighs, or has
      one that it does not, or another vocabulary than the model, or none of
      its records has what the task is about, or its cache is of other records,
      or its lengths cut a label.
  """
  pair_rows.require_bool(cfg)
  provider = task_registry.require_task(cfg.mixture_or_task_name)
  try:
    utils.verify_matching_vocabs(cfg, model)
  except ValueError as error:
    raise errors.UserError(" ".join(str(error).split())) from error
  setting_checks.vocabulary_fits(model, provider.name)  # T5X does not look.
  if cfg.pack and getattr(model, "has_mutual_information", False):
    raise errors.UserError(
        "the mutual-information term needs one record a row, but PACK is "
        "True; set PACK = False (pairs still share a row)")
  is_training = cfg.split.startswith("train")
  _check_targets(provider, model.task_names, is_training)
  for task in seqio.get_subtasks(provider):
    record_check.check_records(task, provider.name, cfg.split)
    if cfg.use_cached and task.cache_dir:
      caching.check_made_from(task, task.cache_dir)
  if is_training:
    for line in record_check.kind_lines(seqio.get_subtasks(provider)):
      progress.say(line)
  says = not (is_training and _reads_all_first())
  if not exact_order.judge_all(provider, cfg, says):
    truncation.look_at(provider, cfg, says=says)


def _reads_all_first() -> bool:
  """Whether the run reads all its examples, and counts what is cut, first."""
  return t5x_finder.current_engine() == "embedded" and any(
      re.search(r"\btrain\.get_dataset_fn$", name) and "exact_order" in value
      for name, value in gin_config.bindings().items())


def _check_targets(
    provider: Any, weighed: Sequence[str], is_training: bool) -> None:
  """Raises UserError if the task's targets are not those of the loss."""
  features = provider.output_features
  targets = [f for f in features if f.endswith("targets")]
  if len(targets) > 1 and len(targets) != len(weighed):
    raise errors.UserError(
        f"task {provider.name!r} pairs {', '.join(targets)}, but the method "
        f"weighs {', '.join(weighed)}; use gin/methods/step_by_step.gin, a "
        "task with as many targets as weights, or students.TaskWeights with a "
        "weight for each target")
  if (is_training and len(targets) == 1 and len(weighed) > 1
      and feature_converter.TASK_IDS not in features):
    raise errors.UserError(
        f"task {provider.name!r} has one target, but the method weighs "
        f"{', '.join(weighed)}: the data has no {', '.join(weighed[1:])}; "
        "train on a step or mix task, or use gin/methods/finetune.gin")
