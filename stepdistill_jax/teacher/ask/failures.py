"""Why a request has no usable completion: the named reasons."""

from collections.abc import Mapping
import re

# Passing: tried again within a run, and asked again by a later one.
RATE_LIMITED = "rate_limited"  # HTTP 429.
SERVER_ERROR = "server_error"  # HTTP 5xx.
TIMEOUT = "timeout"  # No whole answer within the request's time.
CONNECTION = "connection"  # Refused, cut, or never made.
MALFORMED = "malformed"  # Not JSON, or JSON without a completion.
ONLY_THINKING = "only_thinking"  # Reasoning, and no text after it.
# Of this request: another try would end the same way.
BAD_REQUEST = "bad_request"  # HTTP 400, 413, 422.
CONTEXT_LENGTH = "context_length"  # The prompt is too long for the model.
CONTENT_FILTER = "content_filter"  # The server refused the prompt.
# Of the whole run: it stops.
UNAUTHORIZED = "unauthorized"  # HTTP 401, 403.
# HTTP 404, or 405 and 501 from what is not such a server: no such model or
# address.
NOT_FOUND = "not_found"
QUOTA = "quota_exceeded"  # HTTP 402, or 429 because the account is empty.

PASSING = frozenset(
    {RATE_LIMITED, SERVER_ERROR, TIMEOUT, CONNECTION, MALFORMED, ONLY_THINKING})
ENDING = frozenset({UNAUTHORIZED, NOT_FOUND, QUOTA})
OF_ROW = frozenset({CONTEXT_LENGTH, CONTENT_FILTER})

# Reasons of completions that were paid for but do not end as they should.
REFUSAL = "refusal"
EMPTY = "empty_output"

# Looks like a key: some servers repeat it in their error messages.
_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|hf|gsk|xai|key|api)[-_][A-Za-z0-9*_\-.]{6,}"
    r"|(?i:\bbearer\s+)[^\s\"',;]+")
_MAX_MESSAGE = 300


class Failure(Exception):
  """A request that brought no completion.

  Attributes:
    reason: one of this module's names.
    retry_after: seconds that the server asked to wait, or None.
    usage: tokens that were paid all the same; empty if not known.
    paid: True if the server did answer, only not with a completion.
    thinking: the reasoning that came without a text.
  """

  def __init__(self, reason: str, message: str,
               retry_after: float | None = None, *,
               usage: Mapping[str, int] | None = None, paid: bool = False,
               thinking: str = ""):
    super().__init__(message)
    self.reason = reason
    self.retry_after = retry_after
    self.usage: Mapping[str, int] = usage or {}
    self.paid = paid
    self.thinking = thinking

  @property
  def passing(self) -> bool:
    return self.reason in PASSING

  @property
  def ends_run(self) -> bool:
    return self.reason in ENDING


def redact(text: str, *secrets: str) -> str:
  """Returns the text in one line, short, and without keys.

  >>> redact("Incorrect API key provided: sk-abcdef123456.", "")
  'Incorrect API key provided: [key]'
  """
  for secret in secrets:
    if secret:
      text = text.replace(secret, "[key]")
  text = " ".join(_KEY_LIKE.sub("[key]", text).split())
  return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


def of_error(text: str) -> str:
  """The reason at the start of a cache line's `error`.

  >>> of_error("timeout: no answer within 60 s")
  'timeout'
  """
  return text.partition(":")[0].strip()
