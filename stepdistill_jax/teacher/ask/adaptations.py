"""What a server refuses about a request's form, and the form it takes."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stepdistill_jax.teacher.ask import failures

_SYSTEM_ROLES = ("system", "developer")
# What is changed -> what is said of it, once.
MAX_COMPLETION_TOKENS = (
    "the server wants max_completion_tokens for max_tokens, and gets it")
MERGED_SYSTEM = (
    "the server refuses the system role; its text is put before the user's "
    "(as by --merge_system)")


def wanted(failure: failures.Failure, body: Mapping[str, Any]) -> str | None:
  """The change that a refusal asks for; None if it asks for none known.

  Args:
    failure: what came back.
    body: the request as it was sent.
  """
  if failure.reason not in (failures.BAD_REQUEST, failures.SERVER_ERROR):
    return None
  text = str(failure).lower()
  if "max_tokens" in body and "max_completion_tokens" in text:
    return MAX_COMPLETION_TOKENS
  if any(message["role"] in _SYSTEM_ROLES
         for message in body.get("messages", ())) and (
             "roles must alternate" in text or "system" in text and any(
                 word in text for word in ("role", "message", "prompt"))):
    return MERGED_SYSTEM
  return None


def adapt(body: Mapping[str, Any], changes: Collection[str]
          ) -> Mapping[str, Any]:
  """The body in the form that the server takes."""
  changed = dict(body)
  if MAX_COMPLETION_TOKENS in changes and "max_tokens" in body:
    changed["max_completion_tokens"] = changed.pop("max_tokens")
  if MERGED_SYSTEM in changes and "messages" in body:
    changed["messages"] = merge_system(body["messages"])
  return changed


def merge_system(messages: Sequence[Mapping[str, str]]
                 ) -> list[Mapping[str, str]]:
  """The messages with each system text before the next user's.

  >>> merge_system([{"role": "system", "content": "Be brief."},
  ...               {"role": "user", "content": "1 + 1?"}])
  [{'role': 'user', 'content': 'Be brief.\\n\\n1 + 1?'}]
  """
  merged: list[Mapping[str, str]] = []
  texts: list[str] = []
  for message in messages:
    if message["role"] in _SYSTEM_ROLES:
      texts.append(message["content"])
    elif message["role"] == "user" and texts:
      merged.append(dict(
          message, content="\n\n".join([*texts, message["content"]])))
      texts = []
    else:
      merged.append(message)
  if texts:
    merged.append({"role": "user", "content": "\n\n".join(texts)})
  return merged
