"""What a server's answer says: OpenAI's form, and others' ways with it.

Where a server deviates, its answer is understood or the deviation is named;
what the answer has cost is known in either case.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import email.utils
import json
import time
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, requests
from stepdistill_jax.util import errors

_SHOWN = 120  # Characters of what should have been a completion.
_SERVERS = completions.SERVERS
_STATUSES = {status: reason for reason, statuses in _SERVERS["statuses"].items()
             for status in statuses}


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
  """One completion of an answer.

  Attributes:
    output: the raw text, never edited.
    finish_reason: as the server says, or `refusal`; None if it says nothing.
    thinking: what the model thought before it answered, where the server
      gives that apart from the text.
  """

  output: str
  finish_reason: str | None
  thinking: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
  """A server's answer to one request.

  Attributes:
    choices: one or more, in the server's order.
    usage: token counts as the server says; empty if it does not.
    paid_in_vain: tokens of earlier attempts that brought no completion.
  """

  choices: tuple[Choice, ...]
  usage: Mapping[str, int]
  paid_in_vain: Mapping[str, int] = dataclasses.field(default_factory=dict)


def parse(content: str, request: requests.Request, secret: str = "") -> Answer:
  """Reads the body of an answer with status 200.

  Args:
    content: the body.
    request: what was asked.
    secret: must not be in a message.

  Raises:
    failures.Failure: it has no completion; with the tokens that were paid.
  """
  usage: dict[str, int] = {}
  paid = False
  try:
    value = json.loads(content)
    usage = _usage(value.get("usage"))
    _raise_error_object(value, secret)
    # Another interface's answer: the next one would have its form, too.
    paid = bool(usage or value.get("choices", value))
    # More than asked for is more than the row has samples.
    choices = tuple(_choice(choice, secret) for choice in
                    value["choices"][:len(request.samples)])
    if not choices:
      raise failures.Failure(failures.MALFORMED, "the answer has no choices")
  except failures.Failure as failure:
    failure.usage, failure.paid = usage, paid or bool(usage)
    raise
  except (ValueError, TypeError, KeyError, AttributeError,
          RecursionError) as error:
    found = ("not JSON" if isinstance(error, json.JSONDecodeError)
             else f"no {error}" if isinstance(error, KeyError)
             else errors.first_line(error))
    raise failures.Failure(
        failures.MALFORMED, failures.redact(
            f"the answer is not a completion ({found}) but "
            f"{content[:_SHOWN].strip()!r}", secret),
        usage=usage, paid=paid) from error
  if len(choices) == 1 and choices[0].finish_reason is None and usage.get(
      "completion_tokens") == request.max_tokens:
    # The server names no ending, and has used all tokens that it may.
    choices = (dataclasses.replace(
        choices[0], finish_reason=completions.LENGTH),)
  return Answer(choices, usage)


def _choice(choice: Mapping[str, Any], secret: str) -> Choice:
  finish_reason = choice.get("finish_reason")
  if finish_reason is not None and not isinstance(finish_reason, str):
    raise ValueError("finish_reason is not a text")
  message = choice.get("message", choice)
  _raise_error_object({**choice, "choices": message.get("content")}, secret)
  if "message" not in choice:
    if not isinstance(choice["text"], str):
      raise ValueError("text is not a text")
    return Choice(choice["text"], finish_reason, _thinking(choice))
  output, refusal, thinking = _content(message.get("content"))
  refusal = message.get("refusal") or refusal
  if not isinstance(refusal, str):
    raise ValueError("refusal is not a text")
  thinking = "\n".join(filter(None, (_thinking(message), thinking)))
  if refusal:
    return Choice(output or refusal, failures.REFUSAL, thinking)
  if output is None and completions.ending_of(
      finish_reason) == completions.STOP:
    # A text that should be there and is not: worth another try. After
    # `length` or `content_filter` there may rightly be none.
    if not thinking:
      raise ValueError("content is null")
    raise failures.Failure(
        failures.ONLY_THINKING, f"content is null beside {len(thinking):,} "
        "characters of reasoning; the server's reasoning parser may have taken "
        "the answer as well", thinking=thinking)
  return Choice(output or "", finish_reason, thinking)


def _content(content: Any) -> tuple[str | None, str, str]:
  """(text, refusal, thinking) of a message's `content`."""
  if content is None or isinstance(content, str):
    return content, "", ""
  if isinstance(content, Mapping) and "type" in content:  # One part alone.
    content = [content]
  if not isinstance(content, list):
    raise ValueError(f"content is of type {type(content).__name__}")
  texts, refusals, thoughts = [], [], []
  for part in content:
    kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
    if kind in _SERVERS["text_parts"]:
      texts.append(_plain(part))
    elif kind in _SERVERS["thinking_parts"]:
      thoughts.append(_plain(part))
    elif kind == "refusal":
      refusals.append(_plain(part))
    else:
      raise ValueError(f"content is a list with a part of type {kind!r}")
  return "".join(texts), "".join(refusals), "\n".join(thoughts)


def _thinking(message: Mapping[str, Any]) -> str:
  """The first of the fields that servers have for it."""
  for name in _SERVERS["thinking_fields"]:
    if text := _plain(message.get(name)):
      return text
  return ""


def _plain(value: Any) -> str:
  """The text in a part, however deep it lies."""
  if isinstance(value, str):
    return value
  if isinstance(value, Sequence):
    return "".join(map(_plain, value))
  if isinstance(value, Mapping):
    for name in ("text", "thinking", "content", "summary", "refusal",
                 "reasoning"):
      if text := _plain(value.get(name)):
        return text
  return ""


def _raise_error_object(value: Mapping[str, Any], secret: str) -> None:
  """Raises the error that a body with status 200 has in place of a choice."""
  error = value.get("error")
  if not error and value.get("object") == "error":
    error = value
  if not error and "choices" not in value:
    error = value.get("detail")
  if not error or value.get("choices"):
    return
  fields = error if isinstance(error, Mapping) else {"message": error}
  codes = [fields.get(name) for name in ("code", "status", "type")]
  text = json.dumps(error)
  status = next((int(code) for code in codes if isinstance(code, (int, str))
                 and str(code).isdigit() and 400 <= int(code) < 600), None)
  if status is None:
    named = " ".join(map(str, codes)).lower()
    reason = next((reason for reason, words in _SERVERS["error_words"].items()
                   if any(word in named for word in words)),
                  failures.SERVER_ERROR)
    if reason in (failures.BAD_REQUEST, failures.SERVER_ERROR):
      said = status_reason(400, text)  # What the row is to blame for.
      reason = reason if said == failures.BAD_REQUEST else said
  else:
    reason = status_reason(status, text)
  raise failures.Failure(reason, failures.redact(
      f"HTTP 200 with the error {text}", secret))


def _usage(usage: Any) -> dict[str, int]:
  if not isinstance(usage, Mapping):
    return {}
  found = {}
  for key, other in (("prompt_tokens", "input_tokens"),
                     ("completion_tokens", "output_tokens")):
    value = usage.get(key, usage.get(other))
    if type(value) is int and value >= 0:
      found[key] = value
  return found


def status_reason(status: int, text: str) -> str:
  """The named reason of an HTTP status that is not 200."""
  text = text.lower()
  if status == 402 or status == 429 and "insufficient_quota" in text:
    return failures.QUOTA
  if status in _STATUSES or status >= 500:
    return _STATUSES.get(status, failures.SERVER_ERROR)
  if "context" in text and ("length" in text or "window" in text):
    return failures.CONTEXT_LENGTH
  if "content_filter" in text or "content management policy" in text:
    return failures.CONTENT_FILTER
  return failures.BAD_REQUEST


def retry_after_s(headers: Mapping[str, str],
                  now: float | None = None) -> float | None:
  """Seconds to wait that the headers ask for; None if they do not.

  >>> retry_after_s({"retry-after": "2"})
  2.0
  """
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    value = headers.get(name, "")
    with contextlib.suppress(ValueError):
      return max(0.0, float(value) * unit)
    with contextlib.suppress(ValueError):
      moment = email.utils.parsedate_to_datetime(value).timestamp()
      return max(0.0, moment - (time.time() if now is None else now))
  return None
