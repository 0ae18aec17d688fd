"""Whether the SeqIO task of a run has what its method needs, before compiling.

Bound as `train_script.train.verify_matching_vocabs_fn`, T5X's hook for checks
of a data set against a model.
"""

from __future__ import annotations

import itertools
import re

import seqio
from t5x import utils

from stepdistill_jax import errors
from stepdistill_jax import gin_config
from stepdistill_jax import t5x_finder
from stepdistill_jax.data import cuts
from stepdistill_jax.data import feature_converter
from stepdistill_jax.data import sources
from stepdistill_jax.data import task_registry
from stepdistill_jax.teacher import records

# Records that are looked at: reading all of e-SNLI would take a while.
_SAMPLE = 2000
_NEEDS_RATIONALE = r"_(step|mix|single|explain|rationale)_"
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
  if cfg.pack and getattr(model, "has_mutual_information", False):
    raise errors.UserError(
        "the mutual-information term needs one record a row, but PACK is "
        "True; set PACK = False (pairs still share a row)")
  is_training = cfg.split.startswith("train")
  _check_targets(provider, model.task_names, is_training)
  if is_training:
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

  A task of nothing but filtered records would be read for ever, and one
  without rationales would train as if it had them.
  """
  source = getattr(task, "source", None)
  if not isinstance(source, sources.RecordsSource):
    return
  data_dir, teacher = source.resolve()
  split = re.sub(r"\[.*", "", split)  # `train[:90%]` is read from `train`.
  sample = list(itertools.islice(
      records.read_records(data_dir, source.dataset, teacher, split), _SAMPLE))
  of_records = f"records of {source.dataset} by {teacher} in {data_dir}"
  labels = "human" if re.search(_NEEDS_GOLD, name) else "teacher's"
  has_label = (lambda r: r.label) if labels == "human" else (
      lambda r: r.teacher_label)
  if not any(map(has_label, sample)):
    advice = ("train with LABELS = 'teacher' (gin/methods/distill.gin, or "
              "--gin.LABELS=\\\"teacher\\\")" if labels == "human" else
              "train with LABELS = 'gold', or import a teacher's outputs")
    raise errors.UserError(
        f"task {name!r} needs {labels} labels, but the {of_records} have none "
        f"in {split}; {advice}")
  if re.search(_NEEDS_RATIONALE, name) and not any(
      r.rationale for r in sample):
    raise errors.UserError(
        f"task {name!r} needs rationales, but the {of_records} have none in "
        f"{split}; import a teacher's outputs (`stepdistill teacher import`), "
        "or use gin/methods/finetune.gin")
