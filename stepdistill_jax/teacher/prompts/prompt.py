"""A prompt: its text, its exemplars, and how a row is put into it."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import re
from typing import Any

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.util import errors

# How a completion is read (`reads`), see `answers.answer_forms`.

ANY_DATASET = "*"
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_LINE_BREAKS = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Message = dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A prompt file's content.

  Attributes:
    id: the file's name without its ending.
    sha256: of the file's bytes: the prompt's version.
    source: the file's bytes.
    kind: such as `few_shot_cot`; with a data set's name it finds the file.
    datasets: names of data sets, or `*` for any.
    reads: how completions are read, one of `FORMS`.
    input: the template of a row; `{name}` is the row's field of this name.
      Nothing else in it is special, and a row's text is never a template.
    lines: what begins a line of the template. Within a row's text a line that
      begins so is joined to the line before it, so that no row can look like
      another exemplar.
    instruction: what to do; the system message, or the first paragraph.
    stop: stop strings of plain completions. A chat's turn ends by itself.
    max_tokens: default length limit of a completion.
    gold_given: True if the row's label is shown to the teacher.
    schema: JSON schema of the completion, or None; the text `{choices}` as a
      value stands for the row's own choices.
    exemplars: fields of `input`, `output`, and optionally `label` and `value`
      (both only to be checked).
  """

  id: str
  sha256: str
  source: bytes = dataclasses.field(repr=False)
  kind: str
  datasets: tuple[str, ...]
  reads: str
  input: str
  instruction: str = ""
  lines: tuple[str, ...] = ()
  stop: tuple[str, ...] = ()
  max_tokens: int = 256
  gold_given: bool = False
  schema: Mapping[str, Any] | None = None
  exemplars: tuple[Mapping[str, Any], ...] = ()

  @property
  def fields(self) -> tuple[str, ...]:
    """Names of the row's fields that the template shows."""
    return tuple(dict.fromkeys(_FIELD.findall(self.input)))

  def serves(self, dataset: str) -> bool:
    """True if this prompt is for the data set."""
    return dataset in self.datasets or ANY_DATASET in self.datasets

  def chat(self, fields: Mapping[str, Any]) -> list[Message]:
    """The messages of a chat that ends with the row.

    A conversation's own `messages` are sent as they are.
    """
    messages = []
    if self.instruction:
      messages.append({"role": "system", "content": self.instruction})
    if self.reads == answer_forms.TURNS:
      return messages + [dict(message) for message in fields["messages"]]
    for exemplar in self.exemplars:
      messages.append({"role": "user", "content": self._row(exemplar)})
      messages.append({"role": "assistant", "content": exemplar["output"]})
    messages.append({"role": "user", "content": self._row(fields)})
    return messages

  def text(self, fields: Mapping[str, Any]) -> str:
    """The prompt of a plain completion, one string that ends with the row.

    Raises:
      errors.UserError: the prompt is of conversations, which need a chat.
    """
    if self.reads == answer_forms.TURNS:
      raise errors.UserError(
          f"prompt {self.id!r} is of conversations, which plain completion "
          "cannot ask for; use --endpoint=chat")
    blocks = [self.instruction] if self.instruction else []
    blocks += [f"{self._row(exemplar)} {exemplar['output']}"
               for exemplar in self.exemplars]
    return "\n\n".join([*blocks, self._row(fields)])

  def row_schema(self, fields: Mapping[str, Any]) -> Any:
    """The completion's JSON schema for this row; None if there is none."""
    return self.schema and _with_choices(self.schema, fields)

  def _row(self, fields: Mapping[str, Any]) -> str:
    """The template with the row's texts in it."""
    return _FIELD.sub(
        lambda match: self._as_lines(fields[match[1]]), self.input)

  def _as_lines(self, value: Any) -> str:
    """A field's text; a list becomes lettered lines."""
    if isinstance(value, (list, tuple)):
      return "\n".join(f"({letter}) {' '.join(str(item).split())}"
                       for letter, item in zip(_LETTERS, value))
    text = str(value).strip()
    if self.lines:
      text = _line_start_pattern(self.lines).sub(" ", text)
    return text


def _line_start_pattern(lines: Sequence[str]) -> re.Pattern:
  """Line breaks, with the space around, before one of the line starts."""
  starts = "|".join(re.escape(line) for line in lines)
  # `re` caches the compiled pattern.
  return re.compile(
      rf"[^\S{_LINE_BREAKS}]*[{_LINE_BREAKS}]\s*(?=(?:{starts}))",
      re.IGNORECASE)


def _with_choices(schema: Any, fields: Mapping[str, Any]) -> Any:
  if schema == "{choices}":
    return list(dict.fromkeys(fields["choices"]))  # An enum repeats nothing.
  if isinstance(schema, Mapping):
    return {key: _with_choices(value, fields) for key, value in schema.items()}
  if isinstance(schema, list):
    return [_with_choices(value, fields) for value in schema]
  return schema


def from_table(
    table: Mapping[str, Any], *, prompt_id: str, source: bytes, where: str
) -> Prompt:
  """Returns the prompt of a parsed TOML file.

  Raises:
    errors.UserError: a key is unknown, missing, or of a wrong type.
  """
  table = dict(table)
  known = {field.name for field in dataclasses.fields(Prompt)} - {
      "id", "sha256", "source"}
  for key in table:
    errors.require_known("key", key, known, where=where)
  for key in ("kind", "datasets", "reads", "input"):
    if key not in table:
      raise errors.UserError(f"{where} lacks the key {key!r}")
  for expected, keys, fits in _TYPES:
    for key in keys:
      if key in table and not fits(table[key]):
        raise errors.UserError(
            f"{where}: {key} is {table[key]!r}, expected {expected}")
  errors.require_known(
      "value of reads", table["reads"], answer_forms.FORMS, where=where)
  for key in ("datasets", "lines", "stop", "exemplars"):
    table[key] = tuple(table.get(key, ()))
  if "schema" in table:
    table["schema"] = _parse_schema(table["schema"], where)
  table["instruction"] = table.get("instruction", "").strip()
  prompt = Prompt(
      id=prompt_id, sha256=hashlib.sha256(source).hexdigest(), source=source,
      **table)
  _check(prompt, where)
  return prompt


def _is_list(value: Any, kind: type) -> bool:
  return isinstance(value, list) and all(isinstance(v, kind) for v in value)


# (what is expected, of which keys, whether a value is that).
_TYPES = (
    ("a text", ("kind", "reads", "input", "instruction", "schema"),
     lambda value: isinstance(value, str)),
    ("a list of texts", ("datasets", "lines", "stop"),
     lambda value: _is_list(value, str)),
    ("a positive whole number", ("max_tokens",),  # A bool is an int, too.
     lambda value: type(value) is int and value > 0),
    ("true or false", ("gold_given",), lambda value: isinstance(value, bool)),
    ("[[exemplars]] tables", ("exemplars",),
     lambda value: _is_list(value, dict)),
)


def _parse_schema(text: str, where: str) -> Mapping[str, Any]:
  with errors.reported(
      ValueError, lambda error: f"{where}: schema is not JSON: {error}"):
    schema = json.loads(text)
  if not isinstance(schema, dict):
    raise errors.UserError(f"{where}: schema is not a JSON object")
  return schema


def _check(prompt: Prompt, where: str) -> None:
  """Refuses what would be found out only after the first paid request."""
  for is_wrong, message in (
      (not prompt.datasets,
       ': datasets is empty; name some, or write ["*"] for any'),
      (not prompt.fields and prompt.reads != answer_forms.TURNS,
       ": input shows no field of the row; write {inputs} or another field's "
       "name in it"),
      ("label" in prompt.fields and not prompt.gold_given,
       " shows the row's label to the teacher; if this is meant, add "
       "gold_given = true, so that it is not counted as the teacher's"),
      (prompt.gold_given and prompt.reads != answer_forms.RATIONALE,
       ": with gold_given the completion is a rationale alone; write "
       f'reads = "{answer_forms.RATIONALE}"')):
    if is_wrong:
      raise errors.UserError(where + message)
  for number, exemplar in enumerate(prompt.exemplars, start=1):
    lacking = [f for f in (*prompt.fields, "output") if f not in exemplar]
    if lacking:
      raise errors.UserError(
          f"{where}: exemplar {number} lacks {', '.join(lacking)}")
