"""Rows that are `messages`: system, user and assistant, as OpenAI has them."""

from collections.abc import Mapping, Sequence
from typing import Any

# What of a conversation's prompt the student reads.
USER, FULL = "user", "full"


def turns_of(messages: Any) -> list[tuple[str, str]] | None:
  """(role, content) of each message; None if these are not messages."""
  if not isinstance(messages, list) or not messages:
    return None
  turns = []
  for message in messages:
    if not isinstance(message, Mapping):
      return None
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list) and content and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str)
        for part in content):  # OpenAI's parts, of text alone.
      content = "".join(part["text"] for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
      return None
    turns.append(("system" if role == "developer" else role, content.strip()))
  return turns


def prompt_and_answer(turns: Sequence[tuple[str, str]], prompt: str = USER
                      ) -> tuple[str, str]:
  """The text that a student reads, and the assistant's last turn or "".

  >>> prompt_and_answer([("system", "Be brief."), ("user", "1 + 1?"),
  ...                    ("assistant", "2")])
  ('1 + 1?', '2')

  Args:
    turns: of one conversation.
    prompt: `user`: without the system's message; `full`: with it. Where there
      are several turns, each begins with its role.
  """
  answer = ""
  if turns[-1][0] == "assistant":
    *turns, (_, answer) = turns
  if prompt != FULL:
    turns = [turn for turn in turns if turn[0] != "system"]
  if sum(role != "system" for role, _ in turns) == 1:
    return "\n".join(content for _, content in turns), answer
  return transcript(turns), answer


def transcript(turns: Sequence[tuple[str, str]]) -> str:
  """A conversation as text, a line a turn, each with its role."""
  return "\n".join(f"{role}: {content}" for role, content in turns)
