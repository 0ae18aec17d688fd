"""One request to an OpenAI-compatible server, by the `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
import contextlib
from typing import Any
from urllib import parse

from stepdistill_jax.teacher.ask import (
  adaptations,
  failures,
  requests,
  responses,
)
from stepdistill_jax.util import errors

# Servers with no key (vLLM, llama.cpp, …) ignore it; the client wants one.
_NO_KEY = "no-key"


def require_openai():
  """Returns the `openai` package.

  Raises:
    errors.UserError: it is not installed.
  """
  with errors.reported(
      ImportError, "collecting needs the package `openai`, which is not "
      "installed; run `pip install 'stepdistill_jax[teacher]'`"):
    import openai  # Takes a second, so only here.
  return openai


def check_base_url(base_url: str) -> str:
  """Returns the base URL without a slash at its end.

  Raises:
    errors.UserError: it is not an http(s) address, or has a password in it.
  """
  parts = parse.urlsplit(base_url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise errors.UserError(
        f"--base_url {failures.redact(base_url)!r} is not an address such as "
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

  Attributes:
    notes: the changes to all requests' form that the server has asked for.
  """

  def __init__(self, *, base_url: str | None, api_key: str | None,
               timeout_s: float):
    self._openai = require_openai()
    self._timeout_s = timeout_s
    self._api_key = api_key or ""
    self.notes: list[str] = []
    transport = None  # The package's default.
    # Needs `openai[aiohttp]`; twice as many requests a second as httpx.
    with contextlib.suppress(AttributeError, RuntimeError, ImportError):
      transport = self._openai.DefaultAioHttpClient()
    # Only a request's time as a whole is limited, in `ask`: reading byte by
    # byte ("slow drip") would never run into a limit for each read.
    self._client = self._openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key or _NO_KEY, max_retries=0,
        timeout=None, http_client=transport)

  async def __aenter__(self) -> Client:
    return self

  async def __aexit__(self, *exception) -> None:
    await self._client.close()

  async def ask(self, request: requests.Request) -> responses.Answer:
    """Sends a request and waits for its whole answer.

    Raises:
      failures.Failure: there is no usable answer.
    """
    while True:
      body = adaptations.adapt(request.body, self.notes)
      try:
        content = await self._post(request, body)
        return responses.parse(content, request, self._api_key)
      except failures.Failure as failure:
        change = adaptations.wanted(failure, body)
        if change is None:
          raise
        if change not in self.notes:  # By another request, meanwhile.
          self.notes.append(change)

  async def _post(
      self, request: requests.Request, body: Mapping[str, Any]) -> str:
    # Not `chat.completions.create`: on a prompt of ten exemplars it takes 10
    # ms of CPU to walk through the messages' types, and it builds objects that
    # drop what they do not know.
    posted = asyncio.ensure_future(self._client.post(
        request.path, cast_to=str, body=body,
        options={"headers": {"Idempotency-Key": request.key}}))
    try:
      # More time for an answer that came while this process was not running: on
      # a busy machine the loop may wake up late, to find both the answer and
      # the end of its time; what was paid for must not be thrown away then.
      grace_s = min(1.0, self._timeout_s / 10)
      for seconds in (self._timeout_s, grace_s):
        await asyncio.wait({posted}, timeout=seconds)
      if not posted.done():
        raise failures.Failure(
            failures.TIMEOUT, f"no whole answer within {self._timeout_s:g} s")
      return posted.result()
    except self._openai.APIStatusError as error:
      text = error.response.text if error.response is not None else str(error)
      raise failures.Failure(
          responses.status_reason(error.status_code, text),
          failures.redact(f"HTTP {error.status_code} {text}", self._api_key),
          responses.retry_after_s(error.response.headers)) from error
    except failures.Failure:
      raise
    except Exception as error:
      # The package's connection errors (its time-outs among them: there are
      # none but ours), and the transport's own while the body is read.
      raise failures.Failure(
          failures.CONNECTION, self._message(error)) from error
    finally:
      posted.cancel()  # Does nothing if it is done.

  def _message(self, error: BaseException) -> str:
    cause = error.__cause__
    parts = [str(error), cause and (str(cause) or type(cause).__name__)]
    return failures.redact(
        ": ".join(filter(None, parts)) or type(error).__name__, self._api_key)
