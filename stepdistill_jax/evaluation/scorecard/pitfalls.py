"""What to doubt in a scorecard, found in its numbers.

The second paper (Shirgaonkar et al. 2024) names such pitfalls of evaluation;
here each is a rule over what was measured.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

from stepdistill_jax.evaluation.judging import win_rates
from stepdistill_jax.evaluation.report import tables

_UNREADABLE = 0.05  # Share of answers above which a score says little.
_SURE = 1.96  # Standard errors of a 95% interval.
_FEW = 50  # Examples below which chance alone is worth more than 13 points.


def find(scores: Sequence[Mapping[str, Any]],
         judged: Sequence[Mapping[str, Any]],
         made: Sequence[str] = ()) -> list[str]:
  """A line for each pitfall that applies.

  Args:
    scores: contents of `results.json` files.
    judged: contents of `judging.json` files.
    made: systems and judges whose answers were made up, which are compared
      with none.
  """
  lines = list(_of_questions(scores))
  for results in scores:
    for s in results["systems"]:
      where = f"{s['benchmark']}, {tables.label_of(s)}"
      lines += [f"{where}: {line}" for line in _of_system(s)]
    lines += _of_pairs(results, made)
  for results in judged:
    lines += _of_judges(results, scores, made)
  return list(dict.fromkeys(lines))


def _of_questions(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Benchmarks of which the calls scored other examples."""
  scored: dict[str, dict[Any, list[str]]] = {}
  for results in scores:
    for s in results["systems"]:
      data = results.get("data", {}).get(s["benchmark"], {})
      examples = s.get("split"), data.get("fingerprint"), s["n"]
      scored.setdefault(s["benchmark"], {}).setdefault(examples, []).append(
          f"{tables.label_of(s)} on {s['n']:,}")
  for benchmark, found in scored.items():
    if len(found) > 1:
      yield (f"{benchmark}: not all systems answered the same examples ("
             + "; ".join(", ".join(names) for names in found.values())
             + "): their qualities, and shares of the teacher's, are not of "
             "one test set; score them in one call")
    fewest = min(n for _, _, n in found)
    if 0 < fewest < _FEW:
      yield (f"{benchmark}: scored on {fewest} examples alone: by chance an "
             f"accuracy may be {100 * _SURE / 2 / math.sqrt(fewest):.0f} "
             "points off")


def _of_system(s: Mapping[str, Any]) -> Iterator[str]:
  n = s["n"]
  for what, count, why in (
      # What is missing could not be read either, but says nothing of forms.
      # Every text can be read, but for one of blanks.
      ("empty", s["unparsable"] - s["missing"], "they say nothing")
      if s.get("text_metrics") else
      ("unparsable", s["unparsable"] - s["missing"],
       "the score measures the form of answers, too"),
      ("missing", s["missing"], "they count as wrong, or as empty texts")):
    if n and count / n > _UNREADABLE:
      yield (f"{count:,} of {n:,} answers are {what}: {why}; look at them "
             "before comparing")
  table = s.get("by_class")
  if table:
    said = [sum(column) for column in zip(*table["confusion"])]
    right = [sum(row) for row in table["confusion"]]
    for label, count, gold in zip(table["labels"], said, right):
      if gold and not count and not label.startswith("("):
        yield f"the label {label!r} is never the answer"
  yield from (line for line in s["warnings"] if "questions are also in" in line)


def _of_pairs(results: Mapping[str, Any], made: Sequence[str]) -> Iterator[str]:
  """Differences for which the test set is too small."""
  for pair in results["comparisons"]:
    if pair["significant"] or not pair["difference"] or (
        {pair["first"], pair["second"]} & set(made)):
      continue
    low, high = pair["ci95"]
    half = (high - low) / 2
    if not math.isfinite(half) or half <= abs(pair["difference"]):
      continue
    needed = math.ceil(pair["n"] * (half / abs(pair["difference"])) ** 2)
    yield (f"{pair['benchmark']}: {pair['first']} and {pair['second']} differ "
           f"by {100 * pair['difference']:+.2f} points, within "
           f"{100 * half:.2f} of noise; some {needed:,} examples instead of "
           f"{pair['n']:,} would tell so small a difference")


def _of_judges(results: Mapping[str, Any],
               scores: Sequence[Mapping[str, Any]], made: Sequence[str]
               ) -> Iterator[str]:
  first, second = results["systems"]
  yield from results["warnings"]
  teachers = {s["name"].removeprefix("teacher "): "teacher"
              for r in scores for s in r["systems"] if s["kind"] == "teacher"}
  for taught in ((s.get("method") or {}).get("teacher")
                 for r in scores for s in r["systems"]):
    if taught:  # Of a student, whether it has a line of its own or not.
      teachers[taught] = "teacher"
  about = results.get("benchmarks")  # Empty of pairs of one's own.
  for grader in results["graders"]:
    name = grader["grader"]
    if name in made:
      continue
    yield from win_rates.self_preference(name, teachers)
    whole = grader["pairs"] + grader["unreadable"]
    if whole and grader["unreadable"] / whole > _UNREADABLE:
      yield (f"grader {name}: {grader['unreadable']:,} of {whole:,} verdicts "
             "are unreadable")
    for share, what in (("shown_first", "the answer shown first"),
                        ("longer", "the longer answer")):
      interval = grader[share]["ci95"]
      if interval and interval[0] > 0.5:
        yield (f"grader {name} prefers {what}: "
               f"{tables.percent(grader[share]['share'])}% of "
               f"{grader[share]['n']:,}")
    for pair in (p for r in scores for p in r["comparisons"]):
      if {pair["first"], pair["second"]} != {first, second} or (
          not pair["significant"] or grader["ci95"] is None) or (
              about and pair["benchmark"] not in about):
        continue
      better = pair["difference"] if pair["first"] == second else (
          -pair["difference"])
      low, high = grader["ci95"]
      if (better > 0 and high < 0.5) or (better < 0 and low > 0.5):
        yield (f"{pair['benchmark']}: by {pair.get('metric', 'accuracy')} "
               f"{second if better > 0 else first} is better, grader {name} "
               "prefers the other")
