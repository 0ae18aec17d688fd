"""The parsing rules of the papers' code, defects included.

| data set | cut at first | marker (exactly one) | label |
|---|---|---|---|
| svamp, asdiv | `Q:` | `The answer is` | first greedy match of `\\(.*\\)` |
| cqa | `Q:` | `So the answer is` | text after the first `(x)` |
| anli1 | `Premise:` | `So the answer is` | all but the last character |
| esnli | rationale at `Answer:` | `Answer: ` | up to `Premise` |

They keep labels that no row can have (`entailment\\n\\nPre`); `status` tells,
the label stays, as it did in the papers' training targets.
"""

from collections.abc import Callable
import functools
import re

from stepdistill_jax.answers import labels, parsing
from stepdistill_jax.records import datasets

_PARENTHESES = re.compile(r"\(.*\)")
_CHOICE_LETTER = re.compile(r"\(.\)")


def serves(dataset: datasets.Dataset) -> bool:
  """Whether the papers' code reads this data set."""
  return dataset.name in _SPLITTERS


def get_parser(dataset: datasets.Dataset) -> parsing.Parser:
  """Returns the reference parser of a data set that it `serves`."""
  return functools.partial(_parse, _SPLITTERS[dataset.name], dataset)


def next_example_mark(dataset: datasets.Dataset) -> str | None:
  """What a completion that goes on into a next example contains."""
  if dataset.name not in _SPLITTERS:
    return None
  return "Premise:" if dataset.label_kind == datasets.CLASS else "Q:"


def _parse(split: Callable[[str], tuple[str, str, str]],
           dataset: datasets.Dataset, output: str, row: datasets.Row
           ) -> parsing.Parsed:
  rationale, label, problem = split(output)
  rationale, label = rationale.rstrip(), label.rstrip()
  status = problem or labels.label_status(dataset, label, row)
  if status == "ok" and not rationale:
    status = parsing.EMPTY_RATIONALE
  return parsing.Parsed(rationale, label, status)


def _at_marker(text: str, marker: str) -> tuple[str, str, str]:
  """Splits at the marker if it occurs exactly once: (before, after, problem).
  """
  parts = text.split(marker)
  if len(parts) == 2:
    return parts[0], parts[1], ""
  problem = parsing.NO_MARKER if len(parts) == 1 else parsing.MARKER_TWICE
  return "", "", problem


def _svamp(output: str) -> tuple[str, str, str]:
  rationale, answer, problem = _at_marker(
      output.split("Q:")[0], "The answer is")
  match = _PARENTHESES.search(answer)
  return rationale, match.group() if match else "", problem


def _cqa(output: str) -> tuple[str, str, str]:
  rationale, answer, problem = _at_marker(
      output.split("Q:")[0], "So the answer is")
  parts = _CHOICE_LETTER.split(answer)
  label = parts[1].strip() if len(parts) > 1 else ""
  return rationale, label.removesuffix("."), problem


def _anli(output: str) -> tuple[str, str, str]:
  rationale, answer, problem = _at_marker(
      output.split("Premise:")[0].rstrip(), "So the answer is")
  # The last character goes, whatever it is; nearly always it is a full stop.
  return rationale, answer.lstrip()[:-1], problem


def _esnli(output: str) -> tuple[str, str, str]:
  rationale = output.split("Answer:")[0]
  parts = output.split("Answer: ")
  label = parts[1].split("Premise")[0].rstrip() if len(parts) > 1 else ""
  return rationale, label, "" if len(parts) > 1 else parsing.NO_LABEL


_SPLITTERS = {
    "svamp": _svamp, "asdiv": _svamp, "cqa": _cqa, "anli1": _anli,
    "anli2": _anli, "anli3": _anli, "esnli": _esnli,
}
