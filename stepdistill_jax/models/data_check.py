"""Whether the SeqIO task of a run has what its method needs, before compiling.

Bound as `train_script.train.verify_matching_vocabs_fn`, T5X's hook for checks
of a data set against a model.
"""

from __future__ import annotations

from t5x import utils

from stepdistill_jax import errors
from stepdistill_jax.data import feature_converter
from stepdistill_jax.data import task_registry


def verify_data(cfg, model) -> None:
  """Checks a data set of a run against its model.

  Args:
    cfg: a `t5x.utils.DatasetConfig`.
    model: the student.

  Raises:
    errors.UserError: the data set lacks a target that the loss weighs, or has
      one that it does not, or another vocabulary than the model.
  """
  name = cfg.mixture_or_task_name
  provider = (task_registry.require_task(name) if isinstance(name, str)
              else name)
  try:
    utils.verify_matching_vocabs(cfg, model)
  except ValueError as error:
    raise errors.UserError(" ".join(str(error).split())) from error
  features = provider.output_features
  targets = [f for f in features if f.endswith("targets")]
  weighed = model.task_names
  if len(targets) > 1 and len(targets) != len(weighed):
    raise errors.UserError(
        f"task {provider.name!r} pairs {', '.join(targets)}, but the method "
        f"weighs {', '.join(weighed)} alone; use gin/methods/step_by_step.gin, "
        "or a task with one target")
  if cfg.pack and getattr(model, "has_mutual_information", False):
    raise errors.UserError(
        "the mutual-information term needs one record a row, but PACK is "
        "True; set PACK = False (pairs still share a row)")
  is_training = cfg.split.startswith("train")
  if (is_training and len(targets) == 1 and len(weighed) > 1
      and feature_converter.TASK_IDS not in features):
    raise errors.UserError(
        f"task {provider.name!r} has one target, but the method weighs "
        f"{', '.join(weighed)}: the data has no {', '.join(weighed[1:])}; "
        "import a teacher's rationales (`stepdistill teacher import`), or use "
        "gin/methods/finetune.gin")
