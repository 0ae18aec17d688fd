"""The metric functions of label tasks: when an answer counts as right."""

from __future__ import annotations

import functools
from typing import Callable, Mapping, Sequence

from stepdistill_jax.evaluation import metrics


def accuracy_for(dataset: str) -> Callable[..., Mapping[str, float]]:
  """A SeqIO metric function, in percent, by the eval binary's strict rules.

  `accuracy`: answers that count as the target; equations and numbers are
  compared by value, other labels as texts. `unparsable`: answers that are no
  label at all, which count as wrong.
  """
  (label_accuracy,) = metrics.label_metric_fns(dataset)

  def accuracy(
      targets: Sequence[str], predictions: Sequence[str]
  ) -> Mapping[str, float]:
    return {name: 100.0 * share
            for name, share in label_accuracy(targets, predictions).items()}

  return accuracy


def single_target_answer(
    text: str, *, separator: Callable[[], str], **unused_kwargs) -> str:
  """A SeqIO postprocessor: the answer of a `rationale label` text.

  Returns:
    What follows the last separator; empty where the model wrote none.
  """
  # Decoding gives single spaces, whatever the separator's white space was.
  mark = " ".join(separator().split())
  _, found, answer = (" " + " ".join(text.split())).rpartition(mark)
  return answer.strip() if found else ""


def single_target_postprocessor(separator: Callable[[], str]):
  """`single_target_answer` with its separator, as tasks want it."""
  return functools.partial(single_target_answer, separator=separator)
