"""Chat templates of Hugging Face folders, rendered as transformers does.

A template is a program of whoever published the folder: jinja2's sandbox runs
it, which gives it texts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import datetime
import json
import pathlib
import re
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

from stepdistill_jax.data import lengths, tokenizer_files
from stepdistill_jax.util import errors

TEMPLATE_FILE = "chat_template.jinja"
_CONFIG_FILE = "tokenizer_config.json"
# What Llama 3's templates say where they know no date. A student that reads
# today's would be asked other prompts than it was trained on.
_DAY = datetime.datetime(2024, 7, 26)
Message = Mapping[str, Any]


class _Generation(jinja2.ext.Extension):
  """`{% generation %}`, which marks what an assistant wrote."""

  tags = {"generation"}

  def parse(self, parser: Any) -> jinja2.nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    # A scope of its own, as in transformers.
    return jinja2.nodes.CallBlock(
        self.call_method("_text"), [], [], body).set_lineno(line)

  def _text(self, caller: Any) -> str:
    return str(caller())


class ChatTemplate:
  """A folder's template with the special tokens that it may name."""

  def __init__(
      self, text: str, tokens: Mapping[str, str], where: str,
      now: datetime.datetime = _DAY):
    """Compiles a template.

    Args:
      text: jinja2's.
      tokens: such as `bos_token` -> `<|begin_of_text|>`.
      where: names the template in errors.
      now: what it takes for the present.

    Raises:
      errors.UserError: it does not parse.
    """
    def refuse(message: str) -> NoReturn:
      raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
      # Unlike jinja2's own, it escapes nothing for HTML.
      return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = now.strftime
    self._where, self._tokens = where, dict(tokens)
    with errors.reported(
        jinja2.TemplateError,
        lambda error: f"{where} is no chat template: {error}"):
      self._template = environment.from_string(text)

  def render(
      self, messages: Sequence[Message], *,
      add_generation_prompt: bool = False) -> str:
    """The text of a conversation.

    Args:
      messages: each with `role` and `content`.
      add_generation_prompt: whether the header of an answer ends it.

    Raises:
      errors.UserError: the template refuses the messages.
    """
    # It is a program, of whoever wrote it, and raises whatever it likes.
    with errors.reported(Exception, lambda error: (
        f"{self._where} refuses the messages: {error}")):
      return self._template.render(
          messages=messages, add_generation_prompt=add_generation_prompt,
          tools=None, documents=None, **self._tokens)


_TURN = re.compile(r"^(system|user|assistant): ", re.MULTILINE)


def messages_of(text: str, system: str = "") -> list[dict[str, str]]:
  """The messages that a record's text is, as `stepdistill teacher` writes it.

  A conversation has a line `role: ` before each message, and ends with the
  user's; any other text is one message of the user. A task's prefix goes to
  the message that is to be answered, the last.

  >>> [m["content"] for m in messages_of(
  ...     "predict: user: Hi!\\nassistant: Hello.\\nuser: Who?", "Be short.")]
  ['Be short.', 'Hi!', 'Hello.', 'predict: Who?']

  Args:
    text: the record's `inputs`, perhaps after a prefix.
    system: the system's message where the text has none; empty for none.
  """
  prefix = next((p for p in lengths.PREFIXES if text.startswith(p)), "")
  asked = text.removeprefix(prefix)
  turns = list(_TURN.finditer(asked))
  found = [{"role": "user", "content": text}]
  if turns and turns[0].start() == 0 and turns[-1][1] == "user":
    ends = [turn.start() - 1 for turn in turns[1:]] + [len(asked)]
    found = [{"role": turn[1], "content": asked[turn.end():end]}
             for turn, end in zip(turns, ends)]
    found[-1]["content"] = prefix + found[-1]["content"]
  if system and found[0]["role"] != "system":
    found.insert(0, {"role": "system", "content": system})
  return found


def read(folder: pathlib.Path, **options: Any) -> ChatTemplate:
  """Reads a folder's chat template.

  Args:
    folder: a Hugging Face folder.
    **options: of ChatTemplate.

  Raises:
    errors.UserError: it has none, or one that does not parse.
  """
  file = folder / _CONFIG_FILE
  config = tokenizer_files.beside(file, _CONFIG_FILE)
  text = config.get("chat_template")
  if (folder / TEMPLATE_FILE).is_file():
    file = folder / TEMPLATE_FILE
    text = file.read_text(encoding="utf-8")
  if isinstance(text, list):  # Several, by name.
    text = {entry.get("name"): entry.get("template") for entry in text}.get(
        "default")
  if not isinstance(text, str):
    raise errors.UserError(
        f"{folder} has no chat template (neither {TEMPLATE_FILE} nor "
        f"`chat_template` in {_CONFIG_FILE}): it is no chat model; train "
        "without CHAT")
  tokens = {name: tokenizer_files.special_token(config, name)
            for name in config if name.endswith("_token")}
  return ChatTemplate(
      text, {name: token for name, token in tokens.items() if token},
      str(file), **options)
