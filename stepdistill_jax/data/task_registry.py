"""Registers the tasks and mixtures of a data set.

| name | target | prefix |
|---|---|---|
| `{dataset}_label_gold`, `…_label_{teacher}` | label | none |
| `{dataset}_predict_gold`, `…_predict_{teacher}` | label | `predict: ` |
| `{dataset}_explain_{teacher}`, `…_rationale_{teacher}` | rationale |
  `explain: ` |
| `{dataset}_single_{gold or teacher}_{teacher}` | rationale and label in one |
  none |
| `{dataset}_pinto_{gold or teacher}_{teacher}` | label; reads the rationale |
  none |
| `{dataset}_step_{gold or teacher}_{teacher}` | label and rationale, paired |
  both |
| `{dataset}_mix_{gold or teacher}_{teacher}` | a mixture of the two | both |
| `svamp_asdiv_{…}_{teacher}` | both data sets, see `register_union` | |

`step` tasks have the features `inputs`, `targets`, `rationale_inputs` and
`rationale_targets`; the components of mixtures also have `task_ids`.
Registering reads no data and needs no records: an error for a task whose
records are missing says what to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import functools
import itertools

import seqio
import tensorflow as tf

from stepdistill_jax.data import (
  preprocessors,
  sources,
  task_metrics,
  truncation,
  vocabularies,
)
from stepdistill_jax.records import (
  datasets,
  declared,
  records,
  task_names as task_names_lib,
)
from stepdistill_jax.util import errors

_GOLD = preprocessors.GOLD
_MAX_TASK_ID = 16
# Form of a task -> what makes its texts; those with a label take its source.
_FIRST_STEPS: Mapping[str, preprocessors.FirstStep] = {
    "label": functools.partial(preprocessors.label_example, prefix=""),
    "predict": functools.partial(
        preprocessors.label_example, prefix=preprocessors.PREDICT_PREFIX),
    "explain": preprocessors.rationale_example,
    "rationale": preprocessors.rationale_example,
    "single": preprocessors.single_example,
    "pinto": preprocessors.pinto_example,
    "step": preprocessors.paired_example}
_OF_LABELS = ("label", "predict")
_OF_RATIONALES = ("explain", "rationale")
_PAIRED_FEATURES = (
    "inputs", "targets", "rationale_inputs", "rationale_targets")
# What mixtures' components declare besides.
_NOTHING: Mapping[str, tf.DType] = {}
_WEIGHTS = {preprocessors.RECORD_WEIGHTS: tf.float32}
_TASK_IDS_AND_WEIGHTS = {"task_ids": tf.int32, **_WEIGHTS}


def register_dataset(dataset: str, teachers: Iterable[str]) -> None:
  """Registers what is not registered yet of a data set by these teachers."""
  for form in _OF_LABELS:  # Human labels need no teacher.
    _add_task(f"{dataset}_{form}_{_GOLD}", form, dataset, _GOLD, None)
  for teacher, labels in itertools.product(teachers, ("gold", "teacher")):
    label_source = _GOLD if labels == "gold" else teacher
    for form in _FIRST_STEPS:
      _add_task(task_names_lib.task_name(form, dataset, labels, teacher), form,
                dataset, label_source, teacher)
    name = task_names_lib.task_name("mix", dataset, labels, teacher)
    if name not in seqio.MixtureRegistry.names():
      _add_task(f"{name}.label", "predict", dataset, label_source, teacher,
                _TASK_IDS_AND_WEIGHTS)
      _add_task(f"{name}.rationale", "rationale", dataset, label_source,
                teacher, _TASK_IDS_AND_WEIGHTS)
      seqio.MixtureRegistry.add(
          name, [(f"{name}.label", 1.0), (f"{name}.rationale", 1.0)])


def register_declared(name: str) -> None:
  """Registers the tasks of a data set or union as `tasks/NAME.toml` says."""
  register = register_union if name in datasets.UNIONS else register_dataset
  register(name, declared.value(name, "teachers", ()))


def register_union(name: str, teachers: Iterable[str]) -> None:
  """Registers the tasks of several data sets taken together, as mixtures.

  `{name}_label_{gold or teacher}`, `…_predict_…`, `…_explain_…`,
  `…_rationale_…` and the paired `{name}_step_{gold or teacher}_{teacher}`. Each
  data set's answers are judged by its own rule, and it comes as often as
  `preprocessors.mixing_weights` says, else as it has train records.

  Args:
    name: of `datasets.UNIONS`.
    teachers: such as `palm540b`.
  """
  for teacher, labels, form in itertools.product(
      teachers, ("gold", "teacher"), (*_OF_LABELS, *_OF_RATIONALES, "step")):
    union = task_names_lib.task_name(form, name, labels, teacher)
    if union in seqio.MixtureRegistry.names():
      continue
    parts = [f"{union}.{dataset}" for dataset in datasets.members(name)]
    for part, dataset in zip(parts, datasets.members(name)):
      _add_task(
          part, form, dataset, _GOLD if labels == "gold" else teacher,
          None if labels == "gold" and form in _OF_LABELS else teacher,
          _WEIGHTS)
    seqio.MixtureRegistry.add(union, [(part, _mixing_rate) for part in parts])


def _mixing_rate(task: seqio.Task) -> float:
  """A mixing rate; read when a run asks for it."""
  weights = preprocessors.mixing_weights()
  if weights:
    dataset = task.name.rpartition(".")[2]
    if not weights.get(dataset, 0) > 0:
      raise errors.UserError(
          f"preprocessors.mixing_weights.weights gives {dataset} "
          f"{weights.get(dataset, 'nothing')}; each data set of the union has "
          "a weight above 0")
    return float(weights[dataset])
  return float(task.source.num_input_examples("train") or 0)


def register_found_records() -> None:
  """Registers all declared tasks, and those of all records, and of unions.

  A union is there for the teachers with records of all of its data sets.
  """
  for name in declared.tables():
    register_declared(name)
  found: dict[str, list[str]] = {}
  for dataset, teacher in records.list_records(vocabularies.records_dir()):
    found.setdefault(dataset, []).append(teacher)
  for dataset, teachers in found.items():
    register_dataset(dataset, teachers)
  for union, members in datasets.UNIONS.items():
    register_union(union, sorted(set.intersection(
        *(set(found.get(member, ())) for member in members))))


def _require_parts(name: str) -> None:
  """Raises UserError for a union by a teacher with records of a part of it."""
  folder = vocabularies.records_dir()
  for union, members in datasets.UNIONS.items():
    for dataset, teacher in records.list_records(folder):
      if dataset in members and name.startswith(f"{union}_") and (
          name.endswith(f"_{teacher}")):
        for member in members:
          records.require_records(folder, member, teacher)


def task_names() -> list[str]:
  """All registered tasks and mixtures, without the mixtures' components."""
  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  return sorted(name for name in names if "." not in name)


def _is_registered(name: str) -> bool:
  return (name in seqio.TaskRegistry.names()
          or name in seqio.MixtureRegistry.names())


def require_task(
    name: str | seqio.Task | seqio.Mixture) -> seqio.Task | seqio.Mixture:
  """Returns a task or mixture, of its name or itself.

  Raises:
    errors.UserError: there is none of this name; lists the near ones.
  """
  if not isinstance(name, str):
    return name
  if not _is_registered(name):
    # A gin file's `import tasks` may have found another module of that name.
    import stepdistill_jax.tasks  # noqa: F401
  if not _is_registered(name):
    _require_parts(name)
    raise errors.UserError(
        errors.unknown_name_message("task", name, task_names()))
  return seqio.get_mixture_or_task(name)


def _add_task(
    name: str, form: str, dataset: str, label_source: str, teacher: str | None,
    passed_through: Mapping[str, tf.DType] = _NOTHING) -> None:
  """Adds a task unless it is there.

  Components of mixtures declare what is `passed_through`: mixtures drop all
  other features that are not texts.
  """
  if name in seqio.TaskRegistry.names():
    return
  first_step, has_label = _FIRST_STEPS[form], form not in _OF_RATIONALES
  if has_label:
    first_step = functools.partial(first_step, label_source=label_source)
  features = _PAIRED_FEATURES if form == "step" else _PAIRED_FEATURES[:2]
  output_features = {
      feature: seqio.Feature(
          vocabularies.task_vocabulary(dataset), add_eos=True)
      for feature in features}
  for feature, dtype in passed_through.items():
    output_features[feature] = seqio.Feature(
        seqio.PassThroughVocabulary(size=_MAX_TASK_ID), add_eos=False,
        dtype=dtype)
  rationales = {"step": ["rationale_targets"], "single": ["targets"],
                **dict.fromkeys(_OF_RATIONALES, ["targets"])}.get(form, [])
  source = sources.RecordsSource(dataset, teacher)
  seqio.TaskRegistry.add(
      name,
      source=source,
      preprocessors=preprocessors.standard_preprocessors(
          first_step, source, truncation.Texts(
              features, labels=frozenset(["targets"] if has_label else []),
              rationales=frozenset(rationales))),
      postprocess_fn=task_metrics.single_target_postprocessor(
          preprocessors.single_target_separator) if form == "single" else (
              task_metrics.scored_label if has_label else None),
      output_features=output_features,
      metric_fns=[task_metrics.accuracy_for(dataset)] if has_label else [])
