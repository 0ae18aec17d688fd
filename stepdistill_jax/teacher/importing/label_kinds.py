"""The kind of a user's own labels: chosen, or guessed from the human ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import pathlib
from typing import Any

from stepdistill_jax.answers import kinds, labels as labels_lib
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import record_importer
from stepdistill_jax.util import errors

_SAMPLE = 1000  # Rows whose inputs are looked at for choices.


def with_kind(
    spec: datasets.Dataset, read: Callable[[], Iterable[tuple[str, str]]],
    options: record_importer.Options, notes: list[str]) -> datasets.Dataset:
  """Returns the data set with the kind of its labels, and notes it.

  Args:
    spec: a known data set keeps its kind.
    read: gives (human label, inputs) of every row.
    options: have a kind and labels, or not.
    notes: what was chosen, and by what, is appended.

  Raises:
    errors.UserError: no such kind, another one than a known data set's, or a
      class without labels to know it by.
  """
  kind = options.kind or (datasets.CLASS if options.labels else None)
  if kind is not None:
    errors.require_known("value of --kind", kind, datasets.KINDS)
  if spec.name in datasets.DATASETS:
    if kind not in (None, spec.label_kind):
      raise errors.UserError(
          f"--kind={kind}: the labels of {spec.name} are of kind "
          f"{spec.label_kind}; leave --kind out, or give your data set a name "
          "of its own")
    return spec
  labels: list[str] = []
  sample: list[tuple[str, str]] = []
  for label, inputs in read():
    if label.strip():
      labels.append(label.strip())
      if len(sample) < _SAMPLE:
        sample.append((label.strip(), inputs))
  if not labels and kind is None:
    return spec
  chosen = kind or labels_lib.guess_kind(labels, [text for _, text in sample])
  closed = options.labels
  if closed and chosen != datasets.CLASS:
    raise errors.UserError(f"--labels are of --kind=class, not of {chosen}")
  if chosen == datasets.CLASS and not closed:
    closed = labels_lib.closed_set(labels)
    if not closed:
      raise errors.UserError(
          "--kind=class: no row has a human label, so nothing says which "
          "labels there are; name them with --labels=a,b")
  elif chosen in (datasets.CHOICE, datasets.CHOICES):
    letters = {part.strip("()[]. ") for label in labels
               for part in kinds.parts(label)}
    if all(len(letter) == 1 for letter in letters):
      closed = tuple(sorted(letters))
  said = f"labels are of kind {chosen}"
  if closed and chosen == datasets.CLASS:
    said += f" ({len(closed):,}: {', '.join(closed[:5])}" + (
        ", …)" if len(closed) > 5 else ")")
  if kind is None:
    said += (f", guessed from {len(labels):,} human labels; --kind=text (or "
             "another) reads them otherwise")
  notes.append(said)
  return dataclasses.replace(
      spec, label_kind=chosen, labels=closed,
      labels_guessed=kind is None and chosen == datasets.CLASS)


def of_caches(folders: Iterable[pathlib.Path]) -> Iterator[tuple[str, str]]:
  """The human labels and inputs in the lines of caches."""
  for folder in folders:
    for entry in completions.read_completions(folder):
      fields: Any = entry.value.get("input") if isinstance(
          entry.value, dict) else None
      if isinstance(fields, Mapping):
        label, inputs = fields.get("label"), fields.get("inputs")
        if isinstance(label, str) and isinstance(inputs, str):
          yield label, inputs
