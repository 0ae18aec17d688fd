"""One request to an OpenAI-compatible server, by the `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
import dataclasses
import email.utils
import json
import time
from typing import Any
from urllib import parse

from stepdistill_jax.teacher.ask import failures, requests
from stepdistill_jax.util import errors

# Servers with no key (vLLM, llama.cpp, …) ignore it; the client wants one.
_NO_KEY = "no-key"
_SHOWN = 120  # Characters of what should have been a completion.


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
  """One completion of an answer.

  Attributes:
    output: the raw text, never edited.
    finish_reason: as the server says, or `refusal`.
    reasoning: what a reasoning model thought aloud, where the server tells.
  """

  output: str
  finish_reason: str
  reasoning: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
  """A server's answer to one request.

  Attributes:
    choices: one or more, in the server's order.
    usage: token counts as the server says; empty if it does not.
  """

  choices: tuple[Choice, ...]
  usage: Mapping[str, int]


def require_openai():
  """Returns the `openai` package.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    import openai  # Takes a second, so only here.
  except ImportError as error:
    raise errors.UserError(
        "collecting needs the package `openai`, which is not installed; run "
        "`pip install 'stepdistill_jax[teacher]'`") from error
  return openai


def check_base_url(base_url: str) -> str:
  """Returns the base URL without a slash at its end.

  Raises:
    errors.UserError: it is no http(s) address, or has a password in it.
  """
  parts = parse.urlsplit(base_url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise errors.UserError(
        f"--base_url {failures.redact(base_url)!r} is no address such as "
        "http://localhost:8000/v1")
  if parts.username or parts.password:
    raise errors.UserError(
        f"--base_url has a password in it ({parts.hostname}); put the key "
        "into an environment variable and name that with --api_key_env")
  return base_url.rstrip("/")


class Client:
  """Asks one server; an async context manager.

  Retries are not here: the `openai` package's own are switched off, as it
  cannot know what is durable.
  """

  def __init__(self, *, base_url: str | None, api_key: str | None,
               timeout_s: float, concurrency: int):
    self._openai = require_openai()
    self._timeout_s = timeout_s
    self._api_key = api_key or ""
    # Only a request's time as a whole is limited, in `ask`: reading byte by
    # byte ("slow drip") would never run into a limit for each read.
    self._client = self._openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key or _NO_KEY, max_retries=0,
        timeout=None, http_client=self._http_client(concurrency))

  def _http_client(self, concurrency: int):
    """The faster of the package's two transports; None for its default."""
    try:
      # Needs `openai[aiohttp]`; twice as many requests a second as httpx.
      return self._openai.DefaultAioHttpClient()
    except (AttributeError, RuntimeError, ImportError):
      return None

  async def __aenter__(self) -> Client:
    return self

  async def __aexit__(self, *exception) -> None:
    await self._client.close()

  async def ask(self, request: requests.Request) -> Answer:
    """Sends a request and waits for its whole answer.

    Raises:
      failures.Failure: there is no usable answer.
    """
    # Not `chat.completions.create`: on a prompt of ten exemplars it takes 10
    # ms of CPU to walk through the messages' types, and it builds objects that
    # drop what they do not know.
    posted = asyncio.ensure_future(self._client.post(
        request.path, cast_to=str, body=request.body,
        options={"headers": {"Idempotency-Key": request.key}}))
    try:
      for seconds in (self._timeout_s, _grace_s(self._timeout_s)):
        await asyncio.wait({posted}, timeout=seconds)
      if not posted.done():
        raise failures.Failure(
            failures.TIMEOUT, f"no whole answer within {self._timeout_s:g} s")
      content = posted.result()
    except self._openai.APIStatusError as error:
      raise self._status_failure(error) from error
    except failures.Failure:
      raise
    except Exception as error:
      # The package's connection errors (its time-outs among them: there are
      # none but ours), and the transport's own while the body is read.
      raise failures.Failure(
          failures.CONNECTION, self._message(error)) from error
    finally:
      posted.cancel()  # Does nothing if it is done.
    return parse_answer(content, request, self._api_key)

  def _message(self, error: BaseException) -> str:
    cause = error.__cause__
    parts = [str(error), cause and (str(cause) or type(cause).__name__)]
    return failures.redact(
        ": ".join(filter(None, parts)) or type(error).__name__, self._api_key)

  def _status_failure(self, error) -> failures.Failure:
    text = error.response.text if error.response is not None else str(error)
    message = failures.redact(
        f"HTTP {error.status_code} {text}", self._api_key)
    return failures.Failure(
        status_reason(error.status_code, text), message,
        retry_after_s(error.response.headers))


def _grace_s(timeout_s: float) -> float:
  """More time for an answer that came while this process was not running.

  On a busy machine the loop may wake up late, to find both the answer and the
  end of its time; what has been paid for must not be thrown away then.
  """
  return min(1.0, timeout_s / 10)


def status_reason(status: int, text: str) -> str:
  """The named reason of an HTTP status that is not 200."""
  text = text.lower()
  if status in (401, 403):
    return failures.UNAUTHORIZED
  if status in (404, 405, 501):
    return failures.NOT_FOUND
  if status == 402 or status == 429 and "insufficient_quota" in text:
    return failures.QUOTA
  if status == 429:
    return failures.RATE_LIMITED
  if status in (408, 504):
    return failures.TIMEOUT
  if status in (409, 425) or status >= 500:
    return failures.SERVER_ERROR
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
    value = headers.get(name)
    if not value:
      continue
    try:
      return max(0.0, float(value) * unit)
    except ValueError:
      pass
    try:
      moment = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
      continue
    return max(0.0, moment - (time.time() if now is None else now))
  return None


def parse_answer(content: str, request: requests.Request,
                 secret: str = "") -> Answer:
  """Reads the body of an answer with status 200.

  Args:
    content: the body.
    request: what was asked.
    secret: must not be in a message.

  Raises:
    failures.Failure: it has no completion.
  """
  try:
    value = json.loads(content)
    choices = tuple(_choice(choice) for choice in value["choices"])
    usage = _usage(value.get("usage"))
  except (ValueError, TypeError, KeyError, AttributeError,
          RecursionError) as error:
    raise failures.Failure(
        failures.MALFORMED, failures.redact(
            f"the answer is not a completion ({type(error).__name__} {error})"
            f" but {content[:_SHOWN].strip()!r}", secret)) from error
  if not choices:
    raise failures.Failure(failures.MALFORMED, "the answer has no choices")
  # More than asked for is more than the row has samples.
  return Answer(choices[:len(request.samples)], usage)


def _choice(choice: Mapping[str, Any]) -> Choice:
  finish_reason = choice.get("finish_reason")
  if finish_reason is not None and not isinstance(finish_reason, str):
    raise ValueError("finish_reason is no text")
  if "message" not in choice:
    if not isinstance(choice["text"], str):
      raise ValueError("text is no text")
    return Choice(choice["text"], finish_reason or "unknown")
  message = choice["message"]
  output, refusal = message.get("content"), message.get("refusal")
  if output is None and refusal is None and finish_reason in (None, "stop"):
    # A text that should be there and is not: worth another try. After
    # `length` or `content_filter` there may rightly be none.
    raise ValueError("content is null")
  if not isinstance(output or refusal or "", str):
    raise ValueError("content is no text")
  reasoning = message.get("reasoning_content") or message.get("reasoning")
  return Choice(
      output or refusal or "",
      failures.REFUSAL if refusal else finish_reason or "unknown",
      reasoning if isinstance(reasoning, str) else "")


def _usage(usage: Any) -> dict[str, int]:
  if not isinstance(usage, Mapping):
    return {}
  return {key: usage[key] for key in ("prompt_tokens", "completion_tokens")
          if type(usage.get(key)) is int and usage[key] >= 0}
