"""Whether the SeqIO task of a run has what its method needs, before compiling.

Bound as `train_script.train.verify_matching_vocabs_fn`, T5X's hook for checks
of a data set against a model.
"""

from __future__ import annotations

import re

import seqio
from t5x import utils

from stepdistill_jax import errors
from stepdistill_jax import gin_config
from stepdistill_jax import progress
from stepdistill_jax import setting_checks
from stepdistill_jax import t5x_finder
from stepdistill_jax.data import cuts
from stepdistill_jax.data import feature_converter
from stepdistill_jax.data import sources
from stepdistill_jax.data import task_metrics
from stepdistill_jax.data import task_registry
from stepdistill_jax.teacher import records

_NEEDS_RATIONALE = r"_(step|mix|single|explain|rationale)_"
_ONLY_RATIONALE = r"_(explain|rationale)(_|$)"
_NEEDS_GOLD = r"_(label|predict|step|mix|single)_gold\b|_gold_"


def verify_data(cfg, model) -> None:
  """Checks a data set of a run against its model.

  Args:
    cfg: a `t5x.utils.DatasetConfig`.
    model: the student.

  Raises:
    errors.UserError: the data set lacks a target that the loss weighs, or has
      one that it does not, or another vocabulary than the model, or none of
      its records has what the task is about, or its lengths cut a label.
  """
  name = cfg.mixture_or_task_name
  provider = (task_registry.require_task(name) if isinstance(name, str)
              else name)
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
    _check_records(task, provider.name, cfg.split)
  cuts.look_at(provider, cfg, says=not (is_training and _reads_all_first()))


def _reads_all_first() -> bool:
  """Whether the run reads all its examples, and counts what is cut, first."""
  return t5x_finder.current_engine() == "embedded" and any(
      re.search(r"\btrain\.get_dataset_fn$", name) and "exact_order" in value
      for name, value in gin_config.bindings().items())


def _check_targets(provider, weighed, is_training: bool) -> None:
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


def _check_records(task, name: str, split: str) -> None:
  """Raises UserError if no record has what the task's name promises.

  A task of nothing but filtered records would be read for ever, one without
  rationales would train as if it had them, and one without labels cannot be
  scored.
  """
  source = getattr(task, "source", None)
  if not isinstance(source, sources.RecordsSource):
    return
  data_dir, teacher = source.resolve()
  split = re.sub(r"\[.*", "", split)  # `train[:90%]` is read from `train`.
  is_training = split == "train"
  if not is_training and split not in source.splits:
    return  # Another part of a mixture is scored.

  def any_has(*fields: str) -> bool:
    return any(
        getattr(record, field) for record in records.read_records(
            data_dir, source.dataset, teacher, split) for field in fields)

  of_records = f"records of {source.dataset} by {teacher} in {data_dir}"
  if not re.search(_ONLY_RATIONALE, name):
    human = re.search(_NEEDS_GOLD, name)
    wanted = ["label"] if human else ["teacher_label"]
    if not human and not is_training:
      wanted.append("label")  # Human ones, where there are.
    if not any_has(*wanted):
      labels = "human" if human else "teacher's"
      other = "teacher_label" if human else "label"
      raise errors.UserError(
          f"task {name!r} needs {labels} labels, but the {of_records} have "
          f"none in {split}; " + _labels_advice(
              other if any_has(other) else "", is_training))
    if not human and not is_training:
      _say_whose_labels(
          name, split, teacher, records.read_records(
              data_dir, source.dataset, teacher, split))
  if is_training and re.search(_NEEDS_RATIONALE, name) and not any_has(
      "rationale"):
    raise errors.UserError(
        f"task {name!r} needs rationales, but the {of_records} have none in "
        f"{split}; import a teacher's outputs (`stepdistill teacher import`), "
        "or use gin/methods/finetune.gin")


def _labels_advice(there: str, is_training: bool) -> str:
  """What to do without the labels that a task needs.

  Args:
    there: the field of the labels that there are, or empty.
    is_training: False where a student is scored.
  """
  if is_training:
    return {
        "teacher_label": "train with LABELS = 'teacher' "
                         "(gin/methods/distill.gin, or "
                         "--gin.LABELS=\\\"teacher\\\")",
        "label": "train with LABELS = 'gold', or import a teacher's outputs",
    }.get(there, "there are no other labels either: import rows with labels, "
          "or a teacher's outputs")
  if there == "teacher_label":
    return ("score against the teacher's with --gin.EVAL_LABELS="
            f"\\\"teacher\\\", logged as {task_metrics.AGREEMENT}")
  return ("take a split that has labels, or do not score while training: "
          "train_script.train.infer_eval_dataset_cfg = None")


def _say_whose_labels(name, split, teacher, found) -> None:
  """Says how many labels of a scored split are the teacher's."""
  taught = total = 0
  for record in found:
    taught += bool(record.teacher_label and not record.label)
    total += bool(record.teacher_label or record.label)
  if taught:
    progress.say(
        f"{name}, {split}: {taught:,} of {total:,} records have no human "
        f"label; those of {teacher} stand in for them, and count as "
        f"{task_metrics.AGREEMENT}, not as accuracy")
