"""What completions consist of, as a prompt asked for them, and their parsers.

| form | completion | becomes |
|---|---|---|
| `chain_of_thought` | reasoning, answer (see `reading`) | rationale, label |
| `json` | `{"reason": …, "answer_choice": …}`, else as above | the same |
| `answer` | the label alone | label |
| `rationale` | reasoning towards a label that was given | rationale |
| `density` | `{"rounds": [{"summary": …}, …]}` | last summary as label |
| `turns` | an assistant's turn | label |

A cache's manifest names the form (`reads`), as its prompt does; rounds of a
user's own files are known by their keys. All are cleaned first. Like all
parsers these never raise, whatever the text.
"""

from collections.abc import Mapping
import functools
import json
import re
from typing import Any

from stepdistill_jax.answers import cleaning, json_objects, parsing, reading
from stepdistill_jax.records import datasets

CHAIN_OF_THOUGHT = "chain_of_thought"
JSON = "json"
ANSWER = "answer"
RATIONALE = "rationale"
DENSITY = "density"
TURNS = "turns"
MESSAGE = "message"  # Of rows of messages, which no prompt of ours asked for.
FORMS = (CHAIN_OF_THOUGHT, JSON, ANSWER, RATIONALE, DENSITY, TURNS)

# Named reasons besides those of `parsing`.
NOT_JSON = "not_json"  # No JSON object, or without the keys.
TOO_FEW_ROUNDS = "too_few_rounds"  # Of chain of density.

_ROUNDS = 4
_ROUND_KEYS = ("rounds", "summaries", "steps")
_SUMMARY_KEYS = ("summary", "denser_summary")
_ENTITY_KEYS = ("missing_entities", "entities", "missing_entity")


def get_parser(
    dataset: datasets.Dataset, form: str,
    options: reading.Options = reading.DEFAULT) -> parsing.Parser:
  """Returns the parser of a form."""
  if form == DENSITY:
    return _density
  if form in (RATIONALE, TURNS):
    return functools.partial(_whole, form)
  return functools.partial(_read, dataset, form, options)


def _read(dataset: datasets.Dataset, form: str, options: reading.Options,
          output: str, row: datasets.Row) -> parsing.Parsed:
  if (dataset.label_kind == datasets.SUMMARY
      and form in (CHAIN_OF_THOUGHT, MESSAGE)  # Files that say nothing of it.
      and (density := _density(output, row)).rounds):
    return density
  parsed = reading.read(dataset, output, row, options=options,
                        form=form if form in (ANSWER, MESSAGE) else "any")
  if form == JSON and parsed.status == parsing.NO_MARKER:
    parsed.status = NOT_JSON
  return parsed


def _whole(form: str, output: str, row: datasets.Row) -> parsing.Parsed:
  """The cleaned text, as a rationale or else as a label."""
  cleaned = cleaning.clean(output)
  text = cleaned.text.strip()
  status = "ok" if text else (parsing.ONLY_THINKING if cleaned.thinking
                              else parsing.EMPTY_OUTPUT)
  rationale, label = (text, "") if form == RATIONALE else ("", text)
  return parsing.Parsed(
      rationale, label, status, rule="whole text" if text else "",
      thinking=cleaned.thinking, cleaned=cleaned.removed,
      open_ended=not reading.is_closed(text))


def _density(output: str, row: datasets.Row) -> parsing.Parsed:
  parsed = _whole(DENSITY, output, row)
  text, parsed.label, parsed.rule = parsed.label, "", ""
  if not text:
    return parsed
  found, closed = json_objects.find_list(text, _ROUND_KEYS, _SUMMARY_KEYS)
  if found is None:
    parsed.status = NOT_JSON
    return parsed
  rounds: list[dict[str, Any]] = [
      {"missing_entities": _entities(item), "summary": summary}
      for item in found if (summary := _summary(item))]
  parsed.rounds = json.dumps(rounds, ensure_ascii=False) if rounds else ""
  if len(rounds) < _ROUNDS or not closed:
    parsed.status = TOO_FEW_ROUNDS
  else:
    parsed.label, parsed.rule = rounds[-1]["summary"], "json"
    parsed.open_ended = False
  return parsed


def _summary(item: Mapping[str, Any]) -> str:
  value = next(item[key] for key in _SUMMARY_KEYS if key in item)
  return value.strip() if isinstance(value, str) else ""


def _entities(item: Mapping[str, Any]) -> list[str]:
  """A round's entities, which models write as a list or as one text."""
  value = next((item[key] for key in _ENTITY_KEYS if key in item), None)
  if isinstance(value, str):
    value = re.split(r"[;\n]|,(?!\d)", value)
  return [entity.strip() for entity in value or () if isinstance(
      entity, str) and entity.strip()] if isinstance(value, list) else []
