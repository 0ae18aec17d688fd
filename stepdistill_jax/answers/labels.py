"""Labels: which ones a data set can have, and when two are the same."""

from collections.abc import Sequence

from stepdistill_jax.answers import arithmetic, kinds, parsing
from stepdistill_jax.records import datasets
from stepdistill_jax.records.datasets import Dataset, Row

# Up to so many labels, each of them twice or more on average, are a closed set.
_MOST_CLASSES = 100
_LONGEST_CLASS = 60  # Characters.
_LONG_TEXT = 25  # Words; labels of more on average are summaries.


def is_correct(dataset: Dataset, answer: str, label: str) -> bool:
  """True if `answer` counts as the human `label`.

  Numbers and equations by value; the papers' own labels as they are, as their
  rules do; others with case, blanks and a final stop folded.
  """
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    return arithmetic.same_value(answer, label)
  if dataset.name in datasets.DATASETS and dataset.label_kind != datasets.TEXT:
    return bool(answer) and answer == label
  if dataset.label_kind == datasets.CHOICES:  # In any order.
    first, second = (
        {kinds.fold(part.strip("()[]. ")) for part in kinds.parts(text)}
        for text in (answer, label))
    return first == second != set()
  return kinds.fold(answer) == kinds.fold(label) != ""


def label_status(dataset: Dataset, label: str, row: Row) -> str:
  """`ok` if the data set can have this label, else the named reason."""
  if not label.strip():
    return parsing.NO_LABEL
  kind = dataset.label_kind
  if kind in (datasets.EQUATION, datasets.NUMBER):
    return arithmetic.problem_of(label) or "ok"
  if kind == datasets.CLASS and label not in dataset.labels:
    return (parsing.LABEL_NOT_SEEN if dataset.labels_guessed
            else parsing.LABEL_NOT_ALLOWED)
  choices = dataset.labels or row.choices
  if kind == datasets.CHOICE and choices and label not in choices:
    return (parsing.LABEL_DIFFERS_IN_CASE if not dataset.labels and (
        label.casefold() in map(str.casefold, choices))
            else parsing.LABEL_NOT_A_CHOICE)
  return "ok"


# What known data sets' files have for their labels.
_NLI_NUMBERS = dict(zip("012", datasets.NLI_LABELS))


def human_label(dataset: Dataset, text: str, row: Row) -> str:
  """A human label of a column, in the form that the data set's labels have.

  GSM8K's solutions end in `#### 2`, CommonsenseQA has letters, NLI numbers.
  """
  if dataset.name not in datasets.DATASETS:
    return text
  if dataset.label_kind in (datasets.NUMBER, datasets.EQUATION):
    answer = text.rpartition("####")[2].strip().lstrip("# ")
    return answer.replace(",", "") if dataset.label_kind == (
        datasets.NUMBER) else answer
  if dataset.label_kind == datasets.CLASS:
    return _NLI_NUMBERS.get(text.strip(), text.strip().lower())
  return kinds.read(text, row, dataset)[0] if row.choices else text


def spelled(dataset: Dataset, label: str, row: Row) -> str:
  """A teacher's label in the spelling of the human ones, where it is one.

  Of a closed set the set's spelling; of texts that of the row's own label,
  if the two differ in case, blanks or a final stop alone.
  """
  if dataset.name in datasets.DATASETS or not label:
    return label
  if dataset.label_kind == datasets.CLASS:
    return kinds.whole_label(label, dataset.labels) or label
  if dataset.label_kind == datasets.CHOICE:
    return kinds.read(label, row, dataset)[0] or label
  if dataset.label_kind == datasets.TEXT and is_correct(
      dataset, label, row.label):
    return row.label
  return label


def guess_kind(labels: Sequence[str], inputs: Sequence[str]) -> str:
  """The kind of a data set's labels, by what the human ones look like.

  >>> guess_kind(["12", "1,200"], ["How many?"] * 2)
  'number'

  Args:
    labels: the human labels, of rows that have one.
    inputs: of the same rows.
  """
  if not labels:
    return datasets.TEXT
  if all(not arithmetic.problem_of(label) for label in labels):
    operators = sum(any(c in label.strip("-+ ") for c in "+-*/(")
                    for label in labels)
    return datasets.EQUATION if operators * 2 > len(labels) else (
        datasets.NUMBER)
  choices = [kinds.lettered_choices(text) for text in inputs]
  listed = [[len(part.strip("() .")) == 1 or bool(kinds.whole_label(part, own))
             for part in [label, *kinds.parts(label)]]
            for label, own in zip(labels, choices)]
  if all(choices) and all(whole for whole, *_ in listed):
    return datasets.CHOICE
  if all(choices) and all(whole or all(each) for whole, *each in listed):
    return datasets.CHOICES
  distinct = {kinds.fold(label) for label in labels}
  if (len(distinct) * 2 <= len(labels) and len(distinct) <= _MOST_CLASSES
      and all(len(label) <= _LONGEST_CLASS for label in distinct)):
    return datasets.CLASS
  words = sum(len(label.split()) for label in labels) / len(labels)
  return datasets.SUMMARY if words > _LONG_TEXT else datasets.TEXT


def closed_set(labels: Sequence[str]) -> tuple[str, ...]:
  """The distinct labels, each in its most common spelling."""
  spellings: dict[str, dict[str, int]] = {}
  for label in labels:
    counts = spellings.setdefault(kinds.fold(label), {})
    counts[label.strip()] = counts.get(label.strip(), 0) + 1
  return tuple(sorted(max(counts, key=counts.__getitem__)
                      for folded, counts in spellings.items() if folded))
