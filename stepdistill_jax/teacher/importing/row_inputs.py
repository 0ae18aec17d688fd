"""A row's inputs where no column has them as they are.

Several columns become one text by a template (`{title}\\n{body}`); rows that
are `messages` (system, user, assistant, as in files for OpenAI's fine-tuning,
TRL and the second paper's group) become the user's prompt, and the assistant's
last turn is the completion.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import os
import re
from typing import Any

from stepdistill_jax.records import messages as messages_lib
from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import errors

# What of a conversation's prompt the student reads.
SHORT = "short"
PROMPTS = (messages_lib.USER, messages_lib.FULL, SHORT)
# Names of the columns that `prepared` adds.
INPUTS, ANSWER = " inputs", " answer"
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Where a row's inputs come from.

  Attributes:
    template: with `{column}` for each text; empty for messages.
    messages: the column of the messages; empty for a template.
    prompt: one of `PROMPTS`.
    shared: what all prompts begin and end with, which `short` leaves out.
  """

  template: str = ""
  messages: str = ""
  prompt: str = messages_lib.USER
  shared: tuple[str, str] = ("", "")

  def __post_init__(self) -> None:
    if self.template and not _FIELD.search(self.template):
      raise errors.UserError(
          f"--template={self.template!r} names no column, as in "
          "--template='{title}\\n{body}'")

  def prepared(self, entries: Iterable[text_files.Entry]
               ) -> Iterator[text_files.Entry]:
    """The entries with columns `INPUTS` and, of messages, `ANSWER`."""
    for entry in entries:
      if entry.problem or not isinstance(entry.value, dict):
        yield entry
        continue
      added: dict[str, Any] = {}
      if self.template:
        added[INPUTS] = self._filled(entry)
      elif turns := messages_lib.turns_of(entry.value.get(self.messages)):
        text, added[ANSWER] = messages_lib.prompt_and_answer(turns, self.prompt)
        start, end = map(len, self.shared)
        added[INPUTS] = text[start:len(text) - end].strip()
      else:
        entry = dataclasses.replace(
            entry, value=None, problem="messages_not_a_conversation")
      if added:
        entry = dataclasses.replace(entry, value={**entry.value, **added})
      yield entry

  def _filled(self, entry: text_files.Entry) -> str:
    def value(match: re.Match[str]) -> str:
      errors.require_known(
          "column", match[1], entry.value,
          f"(of --template={self.template!r})", where=entry.where)
      found = entry.value[match[1]]
      return "" if found is None else str(found).strip()

    return _FIELD.sub(value, self.template.replace("\\n", "\n")).strip()


def shared_ends(texts: Iterable[str]) -> tuple[str, str]:
  """What texts have in common at their start and end, in whole lines.

  Nothing where there is but one text, or where they are all the same.
  """
  texts = list(dict.fromkeys(texts))
  if len(texts) < 2:
    return "", ""
  start = os.path.commonprefix(texts)
  start = start[:start.rfind("\n") + 1]
  rests = [text[len(start):] for text in texts]
  end = os.path.commonprefix([text[::-1] for text in rests])[::-1]
  at = end.find("\n")
  return start, end[at:] if at >= 0 else ""


def find(columns: dict[str, str], template: str, prompt: str,
         read: Callable[[], Iterable[text_files.Entry]]
         ) -> tuple[dict[str, str], Inputs | None]:
  """Returns the columns as `prepared` entries have them, and how to prepare.

  Args:
    columns: role -> column; `messages` among them, or not.
    template: of `--template`, or empty.
    prompt: of `--student_prompt`.
    read: reads all rows, for what prompts have in common.

  Raises:
    errors.UserError: several ways to the inputs.
  """
  ways = [name for name, there in (
      ("inputs", "inputs" in columns), ("messages", "messages" in columns),
      ("--template", bool(template))) if there]
  if len(ways) > 1:
    raise errors.UserError(
        f"a row's inputs come from one of {' and '.join(ways)}; leave the "
        "others out")
  if ways == ["inputs"]:
    return columns, None
  if template:
    return {**columns, "inputs": INPUTS}, Inputs(template=template)
  inputs = Inputs(messages=columns["messages"], prompt=prompt)
  if prompt == SHORT:
    inputs = dataclasses.replace(inputs, shared=shared_ends(
        entry.value[INPUTS] for entry in inputs.prepared(read())
        if isinstance(entry.value, dict) and INPUTS in entry.value))
  columns = {role: column for role, column in columns.items()
             if role != "messages"}
  columns["inputs"] = INPUTS
  if not {"output", "rationale", "teacher_label"} & set(columns):
    columns["output"] = ANSWER
  return columns, inputs
