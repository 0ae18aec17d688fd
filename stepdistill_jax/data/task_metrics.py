"""The metric functions of label tasks: when an answer counts as right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from stepdistill_jax.answers import metrics
from stepdistill_jax.data import vocabularies
from stepdistill_jax.records import datasets

# What `accuracy` is called where the target is the teacher's label.
AGREEMENT = "teacher_agreement"
# The feature of an example that says whose label its target is.
LABELED_BY = "labeled_by"
HUMAN, TEACHER = "human", "teacher"


class TeacherLabel(str):
  """A target that no human gave."""


def scored_label(text: str, *, example: Mapping[str, Any] | None = None,
                 is_target: bool = False, **unused_kwargs: Any) -> str:
  """A SeqIO postprocessor: marks the targets that are a teacher's labels."""
  labeled_by = (example or {}).get(LABELED_BY) if is_target else None
  return TeacherLabel(text) if labeled_by == TEACHER.encode() else text


def accuracy_for(dataset: str) -> Callable[..., Mapping[str, float]]:
  """A SeqIO metric function, in percent, by the eval binary's strict rules.

  `accuracy`: answers that count as the target; equations and numbers are
  compared by value, other labels as texts. `teacher_agreement`: the same of
  targets that are a teacher's labels, without a human one. `unparsable`:
  answers that are not a label, which count as wrong.
  """
  (label_accuracy,) = metrics.label_metric_fns(
      dataset, spec=lambda: datasets.of_records(
          vocabularies.records_dir(), dataset))

  def accuracy(
      targets: Sequence[str], predictions: Sequence[str]
  ) -> Mapping[str, float]:
    taught = [isinstance(target, TeacherLabel) for target in targets]
    found = dict(label_accuracy(targets, predictions))
    found.pop("accuracy", None)
    for name, by_teacher in (("accuracy", False), (AGREEMENT, True)):
      chosen = [i for i, is_taught in enumerate(taught)
                if is_taught == by_teacher]
      if chosen:
        found[name] = label_accuracy(
            [targets[i] for i in chosen],
            [predictions[i] for i in chosen])["accuracy"]
    return {name: 100.0 * share for name, share in found.items()}

  return accuracy


def single_target_answer(
    text: str, *, separator: Callable[[], str], **kwargs: Any) -> str:
  """A SeqIO postprocessor: the answer of a `rationale label` text.

  Returns:
    What follows the last separator; empty where the model wrote none.
  """
  # Decoding gives single spaces, whatever the separator's white space was.
  mark = " ".join(separator().split())
  _, found, answer = (" " + " ".join(text.split())).rpartition(mark)
  return scored_label(answer.strip() if found else "", **kwargs)


def single_target_postprocessor(
    separator: Callable[[], str]) -> Callable[..., str]:
  """`single_target_answer` with its separator, as tasks want it."""
  return functools.partial(single_target_answer, separator=separator)
