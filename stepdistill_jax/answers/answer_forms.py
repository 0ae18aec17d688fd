"""Reading completions that are no chain of thought with a marker.

| form | completion | becomes |
|---|---|---|
| `json` | `{"reason": …, "answer_choice": …}` | rationale and label |
| `answer` | the label alone | label |
| `rationale` | reasoning towards a label that was given | rationale |
| `density` | `{"rounds": [{"summary": …}, …]}` | last summary as label |
| `turns` | an assistant's turn | label |

A cache's manifest names the form (`reads`), as its prompt does. Like all
parsers these never raise, whatever the text.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from stepdistill_jax.answers import parsing, strict_rules
from stepdistill_jax.records import datasets

# What completions consist of, as a prompt asks for them.
CHAIN_OF_THOUGHT = "chain_of_thought"  # Reasoning, marker, label.
JSON = "json"  # {"reason": ..., "answer_choice": ...}
ANSWER = "answer"  # The label alone.
RATIONALE = "rationale"  # The reasoning alone; the label was given.
DENSITY = "density"  # {"rounds": [{"summary": ...}, ...]}; the last counts.
TURNS = "turns"  # Each assistant's turn of a conversation, as it is.
FORMS = (CHAIN_OF_THOUGHT, JSON, ANSWER, RATIONALE, DENSITY, TURNS)

# Named reasons besides those of `parsing`.
NOT_JSON = "not_json"  # No JSON object, or without the keys.
TOO_FEW_ROUNDS = "too_few_rounds"  # Of chain of density.

_ROUNDS = 4
_DECODER = json.JSONDecoder()
# Places to try; a text of nothing but `{` must not take long.
_MOST_TRIES = 10
_LEAD = re.compile(
    r"\s*(?:(?:so )?the (?:final )?answer is|answer|label)\b\s*:?\s*",
    re.IGNORECASE)


def get_parser(dataset: datasets.Dataset, form: str) -> parsing.Parser:
  """Returns the parser of a form; not of `chain_of_thought`."""
  return functools.partial(_PARSERS[form], dataset)


def _json(dataset: datasets.Dataset, output: str, row: datasets.Row
          ) -> parsing.Parsed:
  value = _find_object(output, "answer_choice")
  if value is None:
    return _failed(output, NOT_JSON)
  reason = value.get("reason")
  rationale = reason.strip() if isinstance(reason, str) else ""
  label, problem = _label(dataset, _text(value["answer_choice"]), row)
  if not label:
    return parsing.Parsed(rationale, "", problem)
  return parsing.Parsed(
      rationale, label, "ok" if rationale else parsing.EMPTY_RATIONALE)


def _answer(dataset: datasets.Dataset, output: str, row: datasets.Row
            ) -> parsing.Parsed:
  lead = _LEAD.match(output)
  text = output[lead.end() if lead else 0:]
  label, problem = _label(dataset, text, row)
  return parsing.Parsed("", label, "ok" if label else problem)


def _rationale(dataset: datasets.Dataset, output: str, row: datasets.Row
               ) -> parsing.Parsed:
  text = output.strip()
  return parsing.Parsed(text, "", "ok" if text else parsing.EMPTY_OUTPUT)


def _density(dataset: datasets.Dataset, output: str, row: datasets.Row
             ) -> parsing.Parsed:
  value = _find_object(output, "rounds")
  rounds = value["rounds"] if value else None
  if not isinstance(rounds, list):
    return _failed(output, NOT_JSON)
  summaries = [item["summary"].strip() for item in rounds
               if isinstance(item, dict)
               and isinstance(item.get("summary"), str)
               and item["summary"].strip()]
  if len(summaries) < _ROUNDS:
    return parsing.Parsed("", "", TOO_FEW_ROUNDS)
  return parsing.Parsed("", summaries[-1], "ok")


def _turn(dataset: datasets.Dataset, output: str, row: datasets.Row
          ) -> parsing.Parsed:
  text = output.strip()
  return parsing.Parsed("", text, "ok" if text else parsing.EMPTY_OUTPUT)


_PARSERS = {
    JSON: _json,
    ANSWER: _answer,
    RATIONALE: _rationale,
    DENSITY: _density,
    TURNS: _turn,
}


def _label(dataset: datasets.Dataset, text: str, row: datasets.Row
           ) -> tuple[str, str]:
  """Returns (label, "") or ("", named reason)."""
  if not text.strip():
    return "", parsing.EMPTY_OUTPUT
  if dataset.label_kind == datasets.TEXT:
    return text.strip(), ""  # Also of several lines.
  return strict_rules.label_reader(dataset)(text, row, dataset)


def _find_object(text: str, key: str) -> dict[str, Any] | None:
  """The last JSON object with a key; around it may be words, or a fence.

  The last, as a model may repeat an example's object before its own.
  """
  found, at = None, -1
  for _ in range(_MOST_TRIES):
    at = text.find("{", at + 1)
    if at < 0:
      break
    try:
      value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
      continue
    if isinstance(value, dict) and key in value:
      found = value
    at = end - 1
  return found


def _text(value: Any) -> str:
  """A JSON value as the text of a label."""
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, (int, float)):
    return str(value)
  return value if isinstance(value, str) else ""


def _failed(output: str, reason: str) -> parsing.Parsed:
  return parsing.Parsed(
      "", "", reason if output.strip() else parsing.EMPTY_OUTPUT)
