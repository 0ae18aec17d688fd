"""Reading a completion: cleaned, then by its form, then by its kind.

In this order, the first rule that finds an answer counts:

| rule | where the answer is |
|---|---|
| `json` | under an answer's key of the last JSON object that has one |
| `answer tag` | in `<answer>…</answer>` |
| `answer is`, `answer:`, `####`, `boxed`, one's own | behind the last mark |
| `answer first` | the first sentence, where that is a label and no more |
| `whole text` | the completion, where the label alone was asked for |
| `last sentence` | it, where it names one label or ends on a number |

What a marker says before a question mark (`so the answer is 12?`) was only
considered. Nothing here raises, whatever the text.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import re
from typing import Any

from stepdistill_jax.answers import (
  cleaning,
  json_objects,
  kinds,
  numerals,
  parsing,
)
from stepdistill_jax.records import datasets
from stepdistill_jax.records.datasets import Dataset, Row
from stepdistill_jax.util import errors

# Whether thinking serves as the rationale.
THINKING = ("missing", "always", "never")
ANSWER_KEYS = ("answer_choice", "final_answer", "answer", "label", "prediction",
               "choice", "solution", "result", "summary", "correct_answer",
               "category", "class", "classification", "verdict", "decision",
               "output", "response")
REASON_KEYS = ("reason", "reasoning", "rationale", "explanation", "thought",
               "thoughts", "thinking", "chain_of_thought", "justification",
               "analysis", "step_by_step", "steps")
# Known data sets' next example, which a base model goes on to make up. It
# starts a line, or, in the cleaned Llama files, a sentence.
_NEXT_QUESTION = re.compile(r"(?:^|\s)Q:")
_NEXT_PREMISE = re.compile(r"(?:^|\s)premise:", re.IGNORECASE)
_NEXT_EXAMPLE = {
    **dict.fromkeys(("svamp", "asdiv", "gsm8k", "cqa"), _NEXT_QUESTION),
    **dict.fromkeys(("anli1", "anli2", "anli3", "esnli"), _NEXT_PREMISE)}
_LEAD = r"(?:\b(?:so|hence|therefore|thus|finally)\b,?\s+)?"
_MARKERS = (
    ("answer is", re.compile(
        _LEAD + r"(?:\b(?:the|my|our)\s+)?"
        r"(?:\b(?:final|correct|right|best|most|more|likely|probable|"
        r"plausible|appropriate|suitable|overall|numerical)\s+){0,3}"
        r"(?:(?<!this )(?<!that )(?<!your )\banswer(?:\s+choice)?"
        r"(?:\s*\([^()\n]{1,40}\))?|"  # `the answer (arabic numerals) is`
        r"(?<=correct )(?:option|choice|label))\s+is\b"
        r"(?:\s+(?:that|most\s+likely|probably|likely|definitely|to\s+be)\b)*"
        r"\s*:?", re.IGNORECASE)),
    ("answer:", re.compile(
        r"(?:^[ \t]*#+[ \t]*)?\b(?:(?:the|my)\s+)?"
        r"(?:(?:final|correct|short)\s+)?answer\s*:|"
        r"^[ \t]*#+[ \t]*(?:(?:final|correct)\s+)?answer[ \t]*$|"
        r"\A\s*label\s*:", re.IGNORECASE | re.MULTILINE)),
    ("####", re.compile(r"####(?!#)")),
    ("boxed", re.compile(r"\\(?:boxed|fbox)\s*\{")),
)
# Those of the published completions; of a longer list some would find others.
_PUBLISHED = {
    "": ("answer is", re.compile(
        _LEAD.replace("|finally", "") + r"\bthe (?:final )?answer is\b:?",
        re.IGNORECASE)),
    "esnli": ("answer:", re.compile(r"(?:^|\n)\s*answer:", re.IGNORECASE))}
# Between two marks of one answer: `Final Answer: The answer is $\boxed{5}$`.
_GLUE = re.compile(r"(?:[\s:*_$`\"'“(\[{#>.]|\\(?:text|math)\w*|\\[(\[])*\Z")
_TAG = re.compile(r"<(answer|final_answer)>(.*?)(?:</\1>|\Z)",
                  re.DOTALL | re.IGNORECASE)
_REASON_TAG = re.compile(
    r"</?(?:reasoning|rationale|reason|explanation|analysis|response|output|"
    r"solution|answer)>", re.IGNORECASE)
_ROUGH_END = re.compile(
    r"[\s,]*(?:[*_#$]|(?<![\w/|])>|\\[(\[]|[-–—](?=\s*\Z))*[\s,]*\Z")
_ROUGH = tuple("*_#$>([,-–—")
# What chat models add below an answer.
_NOTE = re.compile(
    r"\n\s*(?:---+\s*)?[*_(\[]*(?:note|p\.?\s?s|disclaimer|confidence|source)s?"
    r"\s*:[^\n]*\Z", re.IGNORECASE)
_FINISHED = re.compile(r"[.!?。！？)\]}\"'”*`$%]\s*\Z|\d\s*\Z")
_CLOSED = re.compile(r"(?:(?<!\d)\.|[!?。！)\]}\"”*`$>])\s*\Z")


@dataclasses.dataclass(frozen=True)
class Options:
  """What a user chooses of the reading.

  Attributes:
    markers: texts behind which the answer stands, before the built-in ones.
    thinking: `missing`: thinking is the rationale where there is no other;
      `always`, `never`.
  """

  markers: tuple[str, ...] = ()
  thinking: str = "missing"

  def __post_init__(self) -> None:
    errors.require_known("value of --thinking", self.thinking, THINKING)


DEFAULT = Options()


@dataclasses.dataclass(frozen=True)
class _Candidate:
  """A place where the answer may be: its text, and the reasoning before."""

  rule: str
  answer: str
  rationale: str
  is_value: bool = False  # Of JSON or a tag: the answer and no more.
  closed: bool = False  # Something follows, so it cannot have been cut.


def read(dataset: Dataset, output: str, row: Row, *, form: str = "any",
         options: Options = DEFAULT) -> parsing.Parsed:
  """Reads a completion.

  Args:
    dataset: whose kind of labels it has.
    output: the completion as it came.
    row: of its choices and inputs.
    form: `any`: reasoning and an answer; `answer`: the label alone was asked
      for, so that the whole text can be it; `message`: an assistant's turn,
      which may be the label alone; `published`: as in the published
      completions, which go on after their first usable answer.
    options: of the user.
  """
  if dataset.label_kind in (datasets.SUMMARY, datasets.CONVERSATION):
    form = "answer"
  missing = form in ("any", "message")  # What was not asked for is not.
  form = "answer" if form == "message" else form
  cleaned = cleaning.clean(output)
  text = cleaned.text
  if cut := _NEXT_EXAMPLE.get(dataset.name):
    if next_example := cut.search(text):
      text = text[:next_example.start()]
  parsed = _read(dataset, text, row, form, options)
  parsed.thinking, parsed.cleaned = cleaned.thinking, cleaned.removed
  if not text.strip():
    parsed.rule, parsed.status = "", (
        parsing.ONLY_THINKING if cleaned.thinking
                     else parsing.EMPTY_OUTPUT)
  if cleaned.thinking and (
      options.thinking == "always" or missing and not parsed.rationale
      and options.thinking == "missing"):
    parsed.rationale = cleaned.thinking
    parsed.cleaned += ("thinking taken as rationale",)
    if parsed.status == parsing.EMPTY_RATIONALE:
      parsed.status = "ok"
  return parsed


def _read(dataset: Dataset, text: str, row: Row, form: str, options: Options
          ) -> parsing.Parsed:
  failure = None
  for candidate in _candidates(dataset, text, row, form, options):
    label, problem = _label(dataset, candidate, row, form)
    if label:
      rationale = _tidy_rationale(candidate.rationale)
      return parsing.Parsed(
          rationale, label,
          "ok" if rationale or form == "answer" else parsing.EMPTY_RATIONALE,
          rule=candidate.rule,
          open_ended=not candidate.closed
          and not is_closed(candidate.answer))
    if candidate.rule == "last sentence":
      break  # Nothing says that an answer was meant to be there.
    failure = failure or parsing.Parsed(
        _tidy_rationale(candidate.rationale), "", problem, rule=candidate.rule)
    if problem != parsing.NO_LABEL and form != "published":
      break  # What was said before was only considered.
  return failure or parsing.Parsed("", "", parsing.NO_MARKER)


def _label(dataset: Dataset, candidate: _Candidate, row: Row, form: str
           ) -> tuple[str, str]:
  if not candidate.answer.strip():
    return "", (parsing.EMPTY_OUTPUT if candidate.rule == "json"
                else parsing.NO_LABEL)
  if form == "published" and dataset.label_kind == datasets.CHOICE:
    return kinds.lettered_choice(candidate.answer, row.choices)
  if form == "published" and dataset.label_kind == datasets.EQUATION:
    # What follows the parentheses is not looked at, as in the papers' lines.
    return kinds.expression(re.sub(
        r"\A(\s*\(.*\)).*\Z", r"\1", kinds.head(candidate.answer)[0]))
  if candidate.is_value and dataset.label_kind in datasets.FREE_TEXTS:
    label = cleaning.plain(candidate.answer, stops="")
    return label, "" if label else parsing.NO_LABEL
  if dataset.label_kind == datasets.NUMBER:  # Are decimal commas in use?
    row = datasets.Row(f"{row.inputs}\n{candidate.rationale}", "")
  return kinds.read(candidate.answer, row, dataset)


def _candidates(dataset: Dataset, text: str, row: Row, form: str,
                options: Options) -> Iterator[_Candidate]:
  """The places where the answer may be, the surest first."""
  if form == "published":
    rule, pattern = _PUBLISHED.get(dataset.name, _PUBLISHED[""])
    for match in pattern.finditer(text):
      yield _Candidate(rule, text[match.end():], text[:match.start()])
    return
  marked = _find_markers(text, options.markers or dataset.markers)
  found = json_objects.find_object(text, ANSWER_KEYS)
  if found and (candidate := _in_json(
      *found, text, parts=dataset.label_kind not in datasets.FREE_TEXTS)):
    yield candidate
    if dataset.label_kind in datasets.FREE_TEXTS or candidate.closed:
      return
  *_, tag = [None, *_TAG.finditer(text)]
  if tag:
    yield _Candidate("answer tag", tag[2], _REASON_TAG.sub(
        "", text[:tag.start()]), is_value=True,
        closed=tag[0].endswith(">"))
  long = dataset.label_kind in (datasets.SUMMARY, datasets.CONVERSATION)
  for start, end, rule in reversed(marked):
    if long and text[:start].strip(" \n#*"):
      continue  # Words of the text itself.
    yield from _behind_marker(text, start, end, rule)
  # Of several sentences, one is the answer.
  if form == "answer" and (dataset.label_kind in datasets.FREE_TEXTS
                           or not kinds.head(text)[1]):
    yield _Candidate("whole text", text, "", is_value=True)
  if dataset.label_kind not in datasets.FREE_TEXTS:
    yield from _without_marker(dataset, text, row)


def _in_json(value: dict[str, Any], closed: bool, start: int, text: str,
             parts: bool) -> _Candidate | None:
  key = next(k for k in ANSWER_KEYS if k in value)
  if isinstance(answer := value[key], (str, dict)):
    within = answer if isinstance(answer, str) else json.dumps(answer)
    keys = (*ANSWER_KEYS, "value")
    if inner := json_objects.find_object(within, keys):
      value, key = value | inner[0], next(k for k in keys if k in inner[0])
  reasons = [as_text(value[k], parts=True) for k in REASON_KEYS if k in value]
  before = text[:start]
  rationale = "\n".join(filter(None, reasons)) or (
      before if len(before.split()) > 4 else "")
  # A value that was cut has no quotation mark behind it.
  return _Candidate(
      "json", as_text(value[key], parts), rationale, is_value=True,
      closed=closed or key != list(value)[-1])


def is_closed(text: str) -> bool:
  """Whether a text ends as a whole one does; `12.` may go on."""
  return bool(_CLOSED.search(text))


def as_text(value: Any, parts: bool = False) -> str:
  """A JSON value as a text: of a list its items.

  Of an object nothing, or all `parts`, as of steps of reasoning.
  """
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, (int, float)):
    return str(value)
  if isinstance(value, list):
    items = [as_text(item, parts) for item in value]
    return ("\n" if any(" " in item for item in items) else ", ").join(items)
  if isinstance(value, dict) and parts:
    return " ".join(filter(None, (as_text(v, parts) for v in value.values())))
  return value.strip() if isinstance(value, str) else ""


@functools.lru_cache
def _own_markers(
    markers: tuple[str, ...]) -> Sequence[tuple[str, re.Pattern[str]]]:
  return [(marker, re.compile(re.escape(marker), re.IGNORECASE))
          for marker in markers]


def _find_markers(text: str, own: tuple[str, ...] = ()
                  ) -> list[tuple[int, int, str]]:
  """(start, end, rule) of each marked answer, in order.

  Marks with nothing but punctuation between them are one.
  """
  found = sorted(
      (match.start(), match.end(), rule)
      for rule, pattern in (*_own_markers(own), *_MARKERS)
      for match in pattern.finditer(text))
  merged: list[tuple[int, int, str]] = []
  reach = 0  # The end of the last mark, braces opened included.
  for start, end, rule in found:
    own_end = start if rule == "boxed" else end  # Its braces are the answer's.
    if merged and (start < reach or _GLUE.match(text[reach:start])):
      first = merged[-1]
      merged[-1] = ((*first[:2], rule) if rule == "boxed" else
                    (first[0], max(first[1], end), first[2]))
    else:
      merged.append((start, own_end, rule))
    reach = max(reach, end)
  return merged


def _behind_marker(text: str, start: int, end: int, rule: str
                   ) -> Iterator[_Candidate]:
  answer, rationale = text[end:], text[:start]
  if text.startswith(("\\boxed", "\\fbox"), start):
    close = cleaning.braced(text, text.index("{", start) + 1)
    line = text[:start].rpartition("\n")[2]
    answer = text[start:close + 1] if close >= 0 else text[start:]
    if re.search(r"\w", line):  # `48 + 24 = \\boxed{72} clips.`
      rationale = cleaning.without_latex(text[:close + 1])
    yield _Candidate(rule, answer, rationale, closed=close >= 0)
    return
  first, rest = kinds.head(answer)
  if first.rstrip("*_\"' ").endswith("?") and rest:
    return
  if not re.search(r"[^\W\d]", rationale) and rest:
    rule, rationale = "answer first", rest
  yield _Candidate(rule, answer, rationale, closed=bool(rest))


def _without_marker(dataset: Dataset, text: str, row: Row
                    ) -> Iterator[_Candidate]:
  first, rest = kinds.head(text)
  if rest and _is_label(dataset, first, row):
    yield _Candidate("answer first", first, rest, closed=True)
  text = _NOTE.sub("", text.strip())
  line = text.strip().rpartition("\n")[2]
  last = (kinds.sentences(line) or [""])[-1]
  if dataset.label_kind == datasets.NUMBER and not _FINISHED.search(text) and (
      rest or not _is_label(dataset, first.rpartition("=")[2], row)):
    return  # A loop that was cut ends on any number.
  before = text[:text.rfind(last)] if _is_label(dataset, last, row) else text
  yield _Candidate("last sentence", last, before)


def _is_label(dataset: Dataset, sentence: str, row: Row) -> bool:
  """Whether a sentence is a label and no more."""
  if dataset.label_kind == datasets.CLASS:
    return bool(kinds.whole_label(sentence, dataset.labels))
  if dataset.label_kind == datasets.CHOICE:
    plain = cleaning.plain(sentence)
    return bool(kinds.whole_label(plain, row.choices)
                or re.match(r"\(?[A-Za-z][).:](?:\s|$)|[A-Za-z]$", plain)
                and kinds.read(sentence, row, dataset)[0])
  found = numerals.find(numerals.normalize(cleaning.plain(sentence)))
  return len(found) == 1 and len(sentence.split()) < 4


def _tidy_rationale(text: str) -> str:
  text = (_REASON_TAG.sub("", text) if "<" in text else text).strip()
  # Words and stops need no search.
  return _ROUGH_END.sub("", text).strip() if text[-1:] in _ROUGH else text
