"""What a judge or a person said of a pair, read out of text and files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re
from typing import Any

from stepdistill_jax.answers import (
  answer_forms,
  cleaning,
  json_objects,
  reading,
  rules,
)
from stepdistill_jax.evaluation.judging import pairs as pairs_lib
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import containers, counts
from stepdistill_jax.util import errors

FIRST, TIE, SECOND = 0.0, 0.5, 1.0
# The order in which answers were shown; of files that do not say it, NOT_SAID.
GIVEN, SWAPPED, NOT_SAID = "given", "swapped", "not_said"

# Named reasons of what is no verdict.
UNREADABLE = "verdict_unreadable"
NOT_GRADED = "not_graded"
UNKNOWN_ITEM = "item_not_among_the_pairs"
UNKNOWN_GRADER = "grader_unknown"
REPEATED = "graded_twice"
UNKNOWN_ORDER = "order_neither_given_nor_swapped"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
  """One grader's verdict on one pair.

  Attributes:
    item: the pair's id.
    grader: a model's or a person's name.
    preference: for the second system's answer, in [0, 1]: 0 where the first is
      better, 0.5 for a tie; None where the verdict could not be read.
    order: `given`; `swapped` where the second's answer was shown first; or
      `not_said`.
    reason: what the grader gave as its reason.
  """

  item: str
  grader: str
  preference: float | None
  order: str = GIVEN
  reason: str = ""


# The words by which graders choose, in lower case; by position as shown.
_WORDS: Mapping[str, float] = {
    **dict.fromkeys(("a", "1", "first", "a>b", "a>>b", "model_a", "response1",
                     "output_1"), FIRST),
    **dict.fromkeys(("b", "2", "second", "b>a", "b>>a", "model_b", "response2",
                     "output_2"), SECOND),
    **dict.fromkeys(("0", "c", "tie", "equal", "same", "both", "neither",
                     "a=b"), TIE)}
_KEYS = ("verdict", "winner", "preferred", "better")  # Besides answers' own.
_BRACKETS = re.compile(r"\[\[\s*([ABC](?:\s*[<>=]{1,2}\s*[AB])?|tie)\s*\]\]",
                       re.IGNORECASE)


def read_text(text: str) -> tuple[float | None, str]:
  """Reads a model's verdict, which names the answers A and B as shown.

  A verdict is JSON with one of the keys of answers, `[[A]]` or `[[A>>B]]`, one
  behind a marker such as "Answer:", or the text as a whole. Prose that merely
  mentions a letter is not one.

  Returns:
    The preference for the answer shown second, None where the text is not a
    verdict or has several; and the reason that stands beside it.
  """
  cleaned = cleaning.clean(text).text
  marks = {_word(found) for found in _BRACKETS.findall(cleaned)}
  if marks:
    return (marks.pop() if len(marks) == 1 else None), cleaned.strip()
  if named := find_value(cleaned, _KEYS):
    return _word(named[0]), named[1]
  parsed = _parser()(text, datasets.Row("", ""))
  if not parsed.label or (parsed.rule == "last sentence" and parsed.rationale):
    return None, cleaned.strip()
  return _word(parsed.label), parsed.rationale


def find_value(text: str, keys: Sequence[str]) -> tuple[str, str] | None:
  """What JSON in a text has under one of these keys, and its reason."""
  found = json_objects.find_object(text, keys)
  if not found:
    return None
  key = next(key for key in keys if key in found[0])
  reasons = [str(found[0][name]) for name in reading.REASON_KEYS
             if name in found[0]]
  return str(found[0][key]), "\n".join(reasons)


@functools.cache
def _parser() -> Callable[..., Any]:
  dataset = dataclasses.replace(
      datasets.own_dataset("judge"), label_kind=datasets.CLASS,
      labels=("A", "B", "tie"))
  return rules.get_parser(dataset, form=answer_forms.JSON)


def _word(value: Any) -> float | None:
  text = re.sub(r"\s", "", str(value)).lower().replace("<<", "<")
  # `B<A` is `A>B`.
  text = {"a<b": "b>a", "b<a": "a>b", "b=a": "a=b"}.get(text, text)
  return _WORDS.get(text)


def shown_to_given(preference: float | None, order: str) -> float | None:
  """The preference for the second system, of one for what was shown second."""
  if preference is None or order != SWAPPED:
    return preference
  return 1.0 - preference


def read_file(path: pathlib.Path, pairs: pairs_lib.Pairs,
              grader: str | None = None, graders: Sequence[str] = (),
              seen: set[str] | None = None, earlier: Sequence[Verdict] = ()
              ) -> tuple[list[Verdict], counts.Reasons]:
  """Reads verdicts of people or of models from a file.

  Forms, recognized by the columns:

  * `item`, `grader`, `verdict`, perhaps `order`: as the sheet writes them;
  * columns `annotator1`, `annotator2`, … (0, 1, 2), each a grader;
  * `judgments`: a list of two with `decision` (`A>B`), the second of which saw
    the answers swapped;
  * `preference`: from 1 (the first is better) to 2, and `annotator`;
  * `preference` and `grader`: the `verdicts.jsonl` of an earlier call;
  * one column that ends in `_result`: a model's;
  * a text file with a verdict a line, in the order of the pairs.

  A verdict is a word of position (`first`, `A`, `1`, …), `tie`, or the name
  of one of the two systems, which is no matter of position.

  Args:
    path: the file.
    pairs: that were judged.
    grader: whose verdicts they are, where the file does not say.
    graders: whose verdicts to take, others being counted; () for all.
    seen: all graders of the file are added to it.
    earlier: verdicts of other files; a grader's second one is counted.

  Returns:
    The verdicts, and what is none under named reasons.

  Raises:
    errors.UserError: the file cannot be read, or has none of these forms.
  """
  reasons = counts.Reasons()
  grader = grader or path.name.partition(".")[0]
  verdicts: dict[tuple[str, str, str], Verdict] = {}
  taken = {(said.item, said.grader, said.order) for said in earlier}
  for number, entry in enumerate(_entries(path), start=1):
    if entry.problem or not isinstance(entry.value, dict):
      reasons.add(entry.problem or "row_not_object", entry.where)
      continue
    item = _item(entry.value, number, pairs)
    if item not in pairs.pairs:
      reasons.add(UNKNOWN_ITEM, entry.where, str(item))
      continue
    for who, value, order in _graded(entry, grader):
      if seen is not None:
        seen.add(who)
      if graders and who not in graders:
        reasons.add(UNKNOWN_GRADER, entry.where, who)
        continue
      if value is None or value == "":
        reasons.add(NOT_GRADED, entry.where, f"{item} by {who}")
        continue
      preference = None
      if order in (GIVEN, SWAPPED, NOT_SAID):
        preference = _preference(value, order, pairs.names)
        if preference is None:
          reasons.add(UNREADABLE, entry.where, str(value))
      else:
        reasons.add(UNKNOWN_ORDER, entry.where, order)
        order = NOT_SAID
      key = item, who, order
      if key in verdicts or key in taken:
        reasons.add(REPEATED, entry.where, f"{item} by {who}")
        continue
      verdicts[key] = Verdict(item, who, preference, order)
  if not verdicts and not reasons[UNKNOWN_GRADER]:
    raise errors.UserError(
        f"{path} has no verdict on any of the {len(pairs.pairs)} pairs ("
        + ", ".join(counts.in_words(reasons.as_json(), True)) + ")")
  return list(verdicts.values()), reasons


def _preference(value: Any, order: str, names: tuple[str, str]) -> float | None:
  """The preference for the second system; None where it cannot be read."""
  shown = (value - 1.0 if isinstance(value, float) and 1 <= value <= 2
           else _word(value))
  if shown is not None:
    return shown_to_given(shown, order)
  text = str(value).strip()
  # Names that differ by case alone are distinguished by it.
  for fold in (str, str.lower):
    same = [fold(name) == fold(text) for name in names]
    if sum(same) == 1:
      return (FIRST, SECOND)[same.index(True)]
  return None


def _entries(path: pathlib.Path) -> Iterator[text_files.Entry]:
  if path.suffix != ".txt":
    yield from containers.read_objects(path)
    return
  with text_files.undamaged(path) as file:
    for number, line in enumerate(file, start=1):
      yield text_files.Entry(
          {"verdict": line.decode("utf-8", "replace").strip()}, "", path,
          number, "line")


def _item(fields: Mapping[str, Any], number: int, pairs: pairs_lib.Pairs
          ) -> str | None:
  for name in pairs_lib.ITEM_COLUMNS:
    if name in fields:
      return str(fields[name])
  # Without an id the rows are in the order of the pairs.
  return list(pairs.pairs)[number - 1] if number <= len(pairs.pairs) else None


def _graded(entry: text_files.Entry, grader: str
            ) -> Iterator[tuple[str, Any, str]]:
  """Yields (grader, value, order) of a row."""
  fields = entry.value
  annotators = [name for name in fields if re.fullmatch(r"annotator\d+", name)]
  results = [name for name in fields if name.endswith("_result")]
  if "verdict" in fields:
    order = fields.get("order")
    yield (str(fields.get("grader") or grader).strip(), fields["verdict"],
           NOT_SAID if order is None else str(order).strip().lower())
  elif annotators:
    yield from ((name, fields[name], NOT_SAID) for name in annotators)
  elif isinstance(fields.get("judgments"), list):
    who = str(fields.get("judge_name") or grader)
    for order, said in zip((GIVEN, SWAPPED), fields["judgments"], strict=False):
      yield who, said.get("decision") if isinstance(said, dict) else said, order
  elif "preference" in fields and "grader" in fields:
    order, value = str(fields.get("order", GIVEN)), fields["preference"]
    yield (str(fields["grader"]), "none" if value is None else
           1.0 + shown_to_given(float(value), order), order)
  elif "preference" in fields:
    value = fields["preference"]
    yield (str(fields.get("annotator") or grader),
           float(value) if isinstance(value, (int, float)) else value,
           NOT_SAID)
  elif results:
    yield from ((name.removesuffix("_result"), fields[name], NOT_SAID)
                for name in results)
  else:
    raise errors.UserError(
        f"{entry.where} has no verdict: expected a column `verdict`, "
        "`annotatorN`, `judgments`, `preference` or one that ends in "
        f"`_result`, got {', '.join(fields)}")
