"""Whether records have what the name of a task promises."""

from __future__ import annotations

import ast
from collections.abc import Iterable
import itertools
import re

from stepdistill_jax.config import gin_config
from stepdistill_jax.data import sources, task_metrics
from stepdistill_jax.records import records, vocabulary_losses
from stepdistill_jax.util import errors, progress

_LABELS_CHECKED = 10_000  # Records; all of e-SNLI's would take a minute.
_FEW = 0.01
_NEEDS_RATIONALE = r"_(step|mix|single|explain|rationale)_"
_ONLY_RATIONALE = r"_(explain|rationale)(_|$)"
NEEDS_GOLD = r"_(label|predict|step|mix|single)_gold\b|_gold_"


def check_records(task: object, name: str, split: str) -> None:
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

  def read() -> Iterable[records.Record]:
    return records.read_records(data_dir, source.dataset, teacher, split)

  def any_has(*fields: str) -> bool:
    return any(getattr(record, field) for record in read() for field in fields)

  of_records = f"records of {source.dataset} by {teacher} in {data_dir}"
  if not re.search(_ONLY_RATIONALE, name):
    human = re.search(NEEDS_GOLD, name)
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
      _say_whose_labels(name, split, teacher, read())
    if is_training:
      _check_vocabulary(task, name, wanted[0], read())
  if is_training and re.search(_NEEDS_RATIONALE, name) and not any_has(
      "rationale"):
    raise errors.UserError(
        f"task {name!r} needs rationales, but the {of_records} have none in "
        f"{split}; import a teacher's outputs (`stepdistill teacher import`), "
        "or use gin/methods/finetune.gin")


def kind_lines(tasks: Iterable[object]) -> list[str]:
  """What a person must know of records that are not what tables will name.

  A run's kind of synthetic data is what gin/methods/synthetic_*.gin say; the
  records may have been asked for in another way.

  Args:
    tasks: that are trained on.

  Returns:
    A line for each task with records of another kind.
  """
  kind = gin_config.bindings().get("SYNTHETIC_KIND")
  return [line for task in tasks if kind and (
      line := _other_kind(task, str(ast.literal_eval(kind))))]


def _other_kind(task: object, kind: str) -> str:
  source = getattr(task, "source", None)
  name = str(getattr(task, "name", ""))
  if not isinstance(source, sources.RecordsSource) or re.search(
      NEEDS_GOLD, name) or ("_single_" in name) != (kind == "cot_reason"):
    return ""  # Another method's file came later, and names the run.
  data_dir, teacher = source.resolve()
  labels = rationales = rounds = 0
  for record in itertools.islice(records.read_records(
      data_dir, source.dataset, teacher, "train"), _LABELS_CHECKED):
    if record.teacher_label:
      labels += 1
      rationales += bool(record.rationale)
      rounds += bool(record.rounds)
  if kind == "chain_of_density":
    found = "" if rounds else "have no rounds of chain of density"
  elif rounds:
    found = f"are chain of density: {rounds:,} of {labels:,} have its rounds"
  elif kind == "vanilla":
    found = (f"came with reasoning: {rationales:,} of {labels:,} have a "
             "rationale") if rationales else ""
  else:
    found = "" if rationales else "came without reasoning"
  return "" if not (labels and found) else (
      f"this run will be called synthetic_{kind}, but the answers of {teacher} "
      f"to {source.dataset} {found}; take the file of gin/methods/synthetic_* "
      "that they are of, or name another TEACHER")


def _check_vocabulary(task: object, name: str, field: str,
                      found: Iterable[records.Record]) -> None:
  """Says which labels the task's vocabulary has not.

  Raises:
    errors.UserError: it makes different labels the same, because it has none
      of their characters, and they are not few.
  """
  features = getattr(task, "output_features", {})
  path = getattr(features["targets"].vocabulary, "sentencepiece_model_file",
                 "") if "targets" in features else ""
  if not path:
    return  # Bytes lose nothing.
  labels = vocabulary_losses.LabelCheck()
  for record in itertools.islice(found, _LABELS_CHECKED):
    labels.add(getattr(record, field))
  losses = labels.losses(path)
  lines = [f"{name}: {line} (by {path})" for line in losses.lines()]
  if losses.merged_count > _FEW * losses.counted:
    raise errors.UserError(lines[0])
  for line in lines:
    progress.say(line)


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


def _say_whose_labels(name: str, split: str, teacher: str,
                      found: Iterable[records.Record]) -> None:
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
