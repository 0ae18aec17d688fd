"""The data sets that this project knows: their rows, labels and splits.

`declared` says where they are listed; here are the readers of their rows.

A data set of a user's own needs no entry here: it has text labels, and its
rows have the columns `inputs` and `label`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any

from stepdistill_jax.records import declared, messages, records
from stepdistill_jax.util import errors

NLI_LABELS = ("entailment", "neutral", "contradiction")

# Kinds of labels: how two of them are compared.
EQUATION = "equation"  # By value: `(84 / 2)` is `( 84.0 / 2.0 )`.
NUMBER = "number"  # By value.
CHOICE = "choice"  # One of the row's own choices, by text.
CHOICES = "choices"  # Several of the row's own choices, by text.
CLASS = "class"  # One of the data set's labels, by text.
TEXT = "text"  # By text: a few words.
SUMMARY = "summary"  # By text, of any length.
CONVERSATION = "conversation"  # An assistant's turn, of any length.
KINDS = (CLASS, CHOICE, CHOICES, NUMBER, EQUATION, TEXT, SUMMARY, CONVERSATION)
LONG_TEXTS = (SUMMARY, CONVERSATION)  # Kinds without one right label.
# Kinds whose labels are neither of a closed set nor have a value.
FREE_TEXTS = (TEXT, *LONG_TEXTS)


class BadRow(ValueError):
  """A row that cannot become a record; the message is a named reason."""


@dataclasses.dataclass(slots=True)
class Row:
  """A row of a data set.

  Attributes:
    inputs: what the student reads.
    label: the human label, or empty.
    choices: the texts to choose from, where the row has such.
    rationale: a human's explanation, where the row has one.
    references: further human labels, such as other summaries.
    position: the position of the row in the source's split, from 0.
  """

  inputs: str
  label: str
  choices: tuple[str, ...] = ()
  rationale: str = ""
  references: tuple[str, ...] = ()
  position: int = -1


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What distinguishes one data set from another.

  Attributes:
    name: such as `svamp`.
    label_kind: one of this module's kinds.
    read_row: builds a Row from the fields of a row file's object.
    row_files: split -> names of row files to look for, the first found wins.
    held_out: share of the train split that becomes validation where the
      source has no validation split of its own.
    labels: all labels, of kind CLASS.
    labels_guessed: True if these are only those that rows were seen to have.
    expressions: of kind NUMBER, True if an answer such as `(16 + 11)` stays as
      it is, for students that learn to write equations.
    markers: a user's own texts behind which answers stand.
    file_mark: what the names of this data set's files contain where several
      data sets share a folder.
    undivided_test_rows: where the source is one file for all splits: how many
      of its rows, the last of a fixed permutation, are the test split.
    gold: where labels stand in a file of their own: its `file`, and what a
      line must have to be of this data set; see `row_files.read_objects`.
  """

  name: str
  label_kind: str
  read_row: Callable[[Mapping[str, Any]], Row]
  row_files: Mapping[str, tuple[str, ...]] = dataclasses.field(
      default_factory=dict)
  held_out: float = 0.0
  labels: tuple[str, ...] = ()
  labels_guessed: bool = False
  expressions: bool = False
  markers: tuple[str, ...] = ()
  file_mark: str = ""
  undivided_test_rows: int = 0
  gold: Mapping[str, str] = dataclasses.field(default_factory=dict)


def get(name: str) -> Dataset:
  """Returns a known data set, or one of text labels by a user's own name."""
  return DATASETS[name] if name in DATASETS else own_dataset(name)


def own_dataset(name: str, held_out: float = 0.0) -> Dataset:
  """A data set of a user's own, with text labels."""
  return Dataset(records.check_name("data set", name), TEXT, _read_plain,
                 held_out=held_out)


def of_records(
    records_dir: records.StrPath, name: str, teacher: str | None = None
) -> Dataset:
  """A data set as its records were imported: kind, labels, markers.

  Args:
    records_dir: the folder of all records.
    name: of the data set.
    teacher: whose records; None for the first that have a kind.
  """
  spec = get(name)
  teachers = [teacher] if teacher else [
      t for dataset, t in records.list_records(records_dir) if dataset == name]
  for teacher in teachers:
    info = records.import_info(records_dir, name, teacher)
    if info.get("kind") in KINDS:
      spec = dataclasses.replace(spec, markers=tuple(info.get("markers", ())))
      return spec if name in DATASETS else dataclasses.replace(
          spec, label_kind=info["kind"], labels=tuple(info["labels"]),
          labels_guessed=bool(info.get("labels_guessed")))
  return spec


def cqa_inputs(question: str, choices: tuple[str, ...]) -> str:
  """The question with its choices as lettered lines.

  >>> print(cqa_inputs("Where?", ("here", "there")))
  Where?
  Answer Choices:
  (a) here
  (b) there
  """
  lines = [f"({letter}) {choice}" for letter, choice in zip(
      "abcdefghijklmnopqrstuvwxyz", choices)]
  return "\n".join([question, "Answer Choices:", *lines])


def nli_inputs(premise: str, hypothesis: str) -> str:
  """Premise and hypothesis with the stand-in of the EOS id between."""
  for text in (premise, hypothesis):
    if records.EOS_TEXT in text:
      raise BadRow("reserved_text")
  return premise + records.EOS_TEXT + hypothesis


_MISSING = object()


def _get(fields: Mapping[str, Any], *names: str) -> Any:
  """The value of the first of these names that there is, in any case."""
  for name in names:
    if name in fields:
      return fields[name]
  folded = {str(name).lower(): value for name, value in fields.items()}
  for name in names:
    if name.lower() in folded:
      return folded[name.lower()]
  return _MISSING


def _check_text(value: Any) -> str:
  if value is _MISSING:
    raise BadRow("field_missing")
  if not isinstance(value, str):
    raise BadRow("field_not_text")
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    raise BadRow("invalid_utf8") from None
  return value


def _text(fields: Mapping[str, Any], *names: str) -> str:
  """A text that must be there."""
  return _check_text(_get(fields, *names))


def _optional(fields: Mapping[str, Any], *names: str) -> str:
  """A text that may be missing or null: then empty."""
  value = _get(fields, *names)
  return "" if value is _MISSING or value is None else _check_text(value)


def _inputs(fields: Mapping[str, Any], *names: str) -> str:
  """A text that must be there and not be blank."""
  value = _text(fields, *names)
  if not value.strip():
    raise BadRow("empty_inputs")
  return value


def _read_plain(
    fields: Mapping[str, Any], inputs: Sequence[str] = ("inputs",),
    label: Sequence[str] = ("label",), rationale: str = "rationale",
    references: Sequence[str] = ()) -> Row:
  more = (_optional(fields, name) for name in references)
  return Row(inputs="\n".join(_inputs(fields, name) for name in inputs),
             label=_optional(fields, *label),
             rationale=_optional(fields, rationale),
             references=tuple(filter(None, more)))


def _read_prompt(fields: Mapping[str, Any]) -> Row:
  """Of messages, the system's and the user's as one text."""
  if "inputs" in fields:
    return _read_plain(fields, label=("gold", "label"))
  turns = messages.turns_of(_get(fields, "messages"))
  if turns is None:
    raise BadRow("messages_not_a_conversation")
  inputs, _ = messages.prompt_and_answer(turns, messages.FULL)
  return _read_plain({"inputs": inputs, "label": _optional(fields, "gold")})


def _read_turn(fields: Mapping[str, Any]) -> Row:
  """The turns before an assistant's last one, and that one as the label."""
  if "inputs" in fields:
    return _read_plain(fields)
  turns = messages.turns_of(_get(fields, "messages"))
  if turns is None or turns[-1][0] != "assistant":
    raise BadRow("messages_not_a_conversation")
  return _read_plain({"inputs": messages.transcript(turns[:-1]),
                      "label": turns[-1][1]})


def _read_svamp(fields: Mapping[str, Any]) -> Row:
  if _get(fields, "input", "inputs") is not _MISSING:
    return Row(inputs=_inputs(fields, "input", "inputs"),
               label=_optional(fields, "label"))
  body, question = _inputs(fields, "Body"), _inputs(fields, "Question")
  return Row(inputs=f"{body}\n{question}", label=_text(fields, "Equation"))


def _read_cqa(fields: Mapping[str, Any]) -> Row:
  question, choices = _get(fields, "question"), _get(fields, "choices")
  if isinstance(question, Mapping):  # CommonsenseQA's own files.
    choices, question = question.get("choices"), question.get("stem")
  if isinstance(choices, Mapping):  # Hugging Face: two lists.
    choices = choices.get("text")
  if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
    choices = [choice.get("text") if isinstance(choice, Mapping) else None
               for choice in choices]
  if (not isinstance(choices, list) or not choices or len(choices) > 26
      or not all(isinstance(choice, str) for choice in choices)):
    raise BadRow("choices_not_texts")
  choices = tuple(_check_text(choice) for choice in choices)
  label = _optional(fields, "answer")
  letter = _optional(fields, "answerKey")
  if not label and letter:
    position = ord(letter[0].lower()) - ord("a")
    if not 0 <= position < len(choices) or len(letter) > 1:
      raise BadRow("label_not_a_choice")
    label = choices[position]
  if label and label not in choices:
    raise BadRow("label_not_a_choice")
  question = _inputs({"question": question}, "question")
  return Row(
      inputs=cqa_inputs(question, choices), label=label, choices=choices,
      rationale=_optional(fields, "abstractive_explanation", "fact1"))


def _read_aqua(fields: Mapping[str, Any]) -> Row:
  options = _get(fields, "options")
  if not isinstance(options, list):
    raise BadRow("choices_not_texts")
  # `A)32400`: the letter is the choice's place.
  return _read_cqa({
      "question": _get(fields, "question"),
      "choices": [re.sub(r"^[A-Z]\)\s*", "", option)
                  if isinstance(option, str) else option
                  for option in options],
      "answerKey": _optional(fields, "correct"),
      "abstractive_explanation": _optional(fields, "rationale")})


# How files write the NLI labels: numbers, ANLI's letters, words.
_NLI_NAMES = {
    **{label: label for label in NLI_LABELS},
    **{label[0]: label for label in NLI_LABELS},
    **{str(number): label for number, label in enumerate(NLI_LABELS)},
    # SNLI's raters did not agree.
    "-1": "", "-": "", "": "",
}


def _read_nli(fields: Mapping[str, Any]) -> Row:
  label = _get(fields, "label", "gold_label")
  if label is _MISSING or label is None:
    label = ""
  if isinstance(label, bool) or str(label) not in _NLI_NAMES:
    raise BadRow("label_not_allowed")
  premise = _inputs(fields, "premise", "context", "sentence1")
  hypothesis = _inputs(fields, "hypothesis", "sentence2")
  return Row(
      inputs=nli_inputs(premise, hypothesis), label=_NLI_NAMES[str(label)],
      rationale=_optional(fields, "explanation_1", "reason"))


def _read_asdiv(fields: Mapping[str, Any]) -> Row:
  # `9 (apples)`: the first word, as in the reference code.
  answer = _text(fields, "Answer").split(" ")[0]
  body, question = _inputs(fields, "Body"), _inputs(fields, "Question")
  return Row(inputs=f"{body}\n{question}", label=answer)


def _read_gsm8k(fields: Mapping[str, Any]) -> Row:
  solution, marker, answer = _text(fields, "answer").rpartition("#### ")
  if not marker:
    raise BadRow("field_without_answer")
  # `<<48/2=24>>` are notes to a calculator, not part of the explanation.
  return Row(inputs=_inputs(fields, "question"),
             label=answer.strip().replace(",", ""),
             rationale=re.sub(r"<<[^<>]*>>", "", solution).strip())


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
    "svamp": _read_svamp, "choices": _read_cqa, "nli": _read_nli,
    "aqua": _read_aqua, "asdiv": _read_asdiv, "gsm8k": _read_gsm8k,
    "prompt": _read_prompt, "turn": _read_turn}


def _declared(name: str, rows: dict[str, Any]) -> Dataset:
  """A data set as its TOML file declares it."""
  kind, reader = rows.pop("kind", TEXT), rows.pop("reader", None)
  for what, given, known in (("kind", kind, KINDS),
                             ("reader", reader, _READERS)):
    if given is not None:
      errors.require_known(f"{what} in tasks/{name}.toml", given, known)
  columns = {key: rows.pop(key) for key in (
      "inputs", "label", "rationale", "references") if key in rows}
  for key in ("inputs", "label"):
    if isinstance(columns.get(key), str):
      columns[key] = [columns[key]]
  read = _READERS[reader] if reader else functools.partial(
      _read_plain, **columns)
  return Dataset(
      records.check_name("data set", name), kind, read,
      {split: tuple(files) for split, files in rows.pop("files", {}).items()},
      labels=tuple(rows.pop("labels", ())), **rows)


DATASETS: Mapping[str, Dataset] = {
    name: _declared(name, rows)
    for name, rows in declared.section("rows").items()}

# Data sets that are trained on together, under one name in task names.
UNIONS: Mapping[str, tuple[str, ...]] = {
    name: tuple(table["members"])
    for name, table in declared.tables().items() if "members" in table}


def members(name: str) -> tuple[str, ...]:
  """The data sets of a union; of any other name the name itself."""
  return UNIONS.get(name, (name,))
