"""Registers the tasks and mixtures of a data set.

| name | target | prefix |
|---|---|---|
| `{dataset}_label_gold`, `…_label_{teacher}` | label | none |
| `{dataset}_predict_gold`, `…_predict_{teacher}` | label | `predict: ` |
| `{dataset}_explain_{teacher}`, `…_rationale_{teacher}` | rationale |
  `explain: ` |
| `{dataset}_single_{gold or teacher}_{teacher}` | rationale and label in one |
  none |
| `{dataset}_step_{gold or teacher}_{teacher}` | label and rationale, paired |
  both |
| `{dataset}_mix_{gold or teacher}_{teacher}` | a mixture of the two | both |

`step` tasks have the features `inputs`, `targets`, `rationale_inputs` and
`rationale_targets`; the components of mixtures also have `task_ids`.
Registering reads no data and needs no records: whoever asks for a task whose
records are missing is told what to run.
"""

from __future__ import annotations

import functools
from typing import Iterable, Sequence

import seqio
import tensorflow as tf

from stepdistill_jax import errors
from stepdistill_jax.data import preprocessors
from stepdistill_jax.data import sources
from stepdistill_jax.data import task_metrics
from stepdistill_jax.data import vocabularies
from stepdistill_jax.teacher import records

_GOLD = preprocessors.GOLD
_MAX_TASK_ID = 16


def register_dataset(dataset: str, teachers: Iterable[str]) -> None:
  """Registers what is not registered yet of a data set by these teachers."""
  _add_label_tasks(dataset, _GOLD, None)
  for teacher in teachers:
    _add_label_tasks(dataset, teacher, teacher)
    for form in ("explain", "rationale"):
      _add_task(f"{dataset}_{form}_{teacher}", dataset, teacher,
                preprocessors.rationale_example)
    for label_source in (_GOLD, teacher):
      _add_single_task(dataset, label_source, teacher)
      _add_paired_task(dataset, label_source, teacher)
      _add_mixture(dataset, label_source, teacher)


def register_found_records() -> None:
  """Registers the data sets in the records folder that have no file here."""
  found: dict[str, list[str]] = {}
  for dataset, teacher in records.list_records(vocabularies.records_dir()):
    found.setdefault(dataset, []).append(teacher)
  for dataset, teachers in found.items():
    register_dataset(dataset, teachers)


def task_names() -> list[str]:
  """All registered tasks and mixtures, without the mixtures' components."""
  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  return sorted(name for name in names if "." not in name)


def require_task(name: str) -> seqio.Task | seqio.Mixture:
  """Returns a task or mixture.

  Raises:
    errors.UserError: there is none of this name; lists the near ones.
  """
  if name not in seqio.TaskRegistry.names() and (
      name not in seqio.MixtureRegistry.names()):
    raise errors.UserError(
        errors.unknown_name_message("task", name, task_names()))
  return seqio.get_mixture_or_task(name)


def _text_feature(dataset: str) -> seqio.Feature:
  return seqio.Feature(vocabularies.task_vocabulary(dataset), add_eos=True)


def _add_task(
    name: str, dataset: str, teacher: str | None, first_step,
    features: Sequence[str] = ("inputs", "targets"), *,
    has_label: bool = False, with_task_ids: bool = False,
    postprocess_fn=None) -> None:
  """Adds a task unless it is there."""
  if name in seqio.TaskRegistry.names():
    return
  output_features = {
      feature: _text_feature(dataset) for feature in features}
  if with_task_ids:  # Mixtures drop what is not declared.
    pass_through = seqio.PassThroughVocabulary(size=_MAX_TASK_ID)
    output_features["task_ids"] = seqio.Feature(pass_through, add_eos=False)
    output_features[preprocessors.RECORD_WEIGHTS] = seqio.Feature(
        pass_through, add_eos=False, dtype=tf.float32)
  source = sources.RecordsSource(dataset, teacher)
  seqio.TaskRegistry.add(
      name,
      source=source,
      preprocessors=preprocessors.standard_preprocessors(first_step, source),
      postprocess_fn=postprocess_fn,
      output_features=output_features,
      metric_fns=[task_metrics.accuracy_for(dataset)] if has_label else [])


def _add_label_tasks(
    dataset: str, label_source: str, teacher: str | None) -> None:
  for form, prefix in (("label", ""), ("predict",
                                       preprocessors.PREDICT_PREFIX)):
    _add_task(
        f"{dataset}_{form}_{label_source}", dataset, teacher,
        functools.partial(preprocessors.label_example,
                          label_source=label_source, prefix=prefix),
        has_label=True)


def _add_single_task(dataset: str, label_source: str, teacher: str) -> None:
  _add_task(
      f"{dataset}_single_{label_source}_{teacher}", dataset, teacher,
      functools.partial(preprocessors.single_example,
                        label_source=label_source),
      has_label=True,
      postprocess_fn=task_metrics.single_target_postprocessor(
          preprocessors.single_target_separator))


def _add_paired_task(dataset: str, label_source: str, teacher: str) -> None:
  _add_task(
      f"{dataset}_step_{label_source}_{teacher}", dataset, teacher,
      functools.partial(preprocessors.paired_example,
                        label_source=label_source),
      ("inputs", "targets", "rationale_inputs", "rationale_targets"),
      has_label=True)


def _add_mixture(dataset: str, label_source: str, teacher: str) -> None:
  name = f"{dataset}_mix_{label_source}_{teacher}"
  if name in seqio.MixtureRegistry.names():
    return
  _add_task(
      f"{name}.label", dataset, teacher,
      functools.partial(
          preprocessors.label_example, label_source=label_source,
          prefix=preprocessors.PREDICT_PREFIX),
      has_label=True, with_task_ids=True)
  _add_task(f"{name}.rationale", dataset, teacher,
            preprocessors.rationale_example, with_task_ids=True)
  seqio.MixtureRegistry.add(
      name, [(f"{name}.label", 1.0), (f"{name}.rationale", 1.0)])
