"""How a student's rationales compare with its teacher's, question and label."""

import array
import collections
import math
import re

from stepdistill_jax.answers import (
  answer_matching as answers,
  benchmarks,
  kinds,
  text_overlap,
)
from stepdistill_jax.evaluation import examples, statistics, systems

_WORD = re.compile(r"\w+")


def stated_answer(benchmark: benchmarks.Benchmark, rationale: str,
                  inputs: str) -> str | None:
  """The answer that a rationale itself comes to, or None.

  For equations and numbers, its last number; for labels and choices, the only
  one that it names (in its last sentence, where the whole names several); for
  free text, its last word.
  """
  if benchmark.kind in (benchmarks.EQUATION, benchmarks.NUMBER):
    value = answers.last_number(rationale)
    return None if value is None else benchmarks.number_text(value)
  labels = benchmark.choices(inputs)
  if not labels:
    words = _WORD.findall(rationale.casefold())
    return words[-1] if words else None
  sentences = re.split(r"(?<=[.!?])\s+", rationale.strip())
  for part in (rationale, sentences[-1]):
    label = answers.find_label(part, labels)
    if label is not None:
      return label
  return None


class Summary:
  """Metrics of the rationales of one system, from example after example.

  Args:
    benchmark: what was asked.
    of_teacher: rationales that are the row's own reference say nothing when
      compared with it, and are left out of `n_teacher`.
  """

  def __init__(self, benchmark: benchmarks.Benchmark, of_teacher: bool = False):
    self._benchmark, self._of_teacher = benchmark, of_teacher
    self._columns: dict[str, array.array] = collections.defaultdict(
        lambda: array.array("d"))

  def add(self, row: examples.Example, answer: systems.Answer,
          judged: benchmarks.Judgement) -> None:
    """Takes up an answer, with or without a rationale."""
    if answer.rationale_log_prob is not None and answer.rationale_target_tokens:
      self._put("log_prob", answer.rationale_log_prob)
      self._put("target_tokens", answer.rationale_target_tokens)
    text = answer.rationale
    if text is None:
      return
    self._put("words", len(text.split()))
    self._put("input_overlap", text_overlap.share_found(text, row.inputs))
    if row.rationale and not (self._of_teacher and text == row.rationale):
      self._put("rouge_l", text_overlap.rouge_l(row.rationale, text))
      self._put("overlap_with_teacher",
                text_overlap.share_found(text, row.rationale))
    stated = stated_answer(self._benchmark, text, row.inputs)
    if stated is not None:
      self._put("agreement", judged.parsed is not None and _same(
          self._benchmark, stated, judged.parsed))

  def _put(self, name: str, value: float | None) -> None:
    if value is not None:
      self._columns[name].append(value)

  def result(self) -> dict | None:
    """Returns counts and means; None where there was no rationale.

    n: examples with a rationale of the system.
    rouge_l: against the teacher's, over `n_teacher`.
    overlap_with_teacher, input_overlap: share of its content words found in
      the teacher's and in the question, over those that have such words.
    words: mean length.
    agreement: among the `n_stated` rationales that come to an answer, the
      share for which it is the predicted one.
    perplexity: of the teacher's rationales under the student, a token.
    """
    columns = self._columns
    mean = lambda name: statistics.mean(columns[name])
    perplexity = math.exp(
        -sum(columns["log_prob"]) / sum(columns["target_tokens"])
    ) if columns["log_prob"] else None
    if not columns["words"] and perplexity is None:
      return None
    return {
        "n": len(columns["words"]),
        "n_teacher": len(columns["rouge_l"]),
        "rouge_l": mean("rouge_l"),
        "overlap_with_teacher": mean("overlap_with_teacher"),
        "input_overlap": mean("input_overlap"),
        "words": mean("words"),
        "n_stated": len(columns["agreement"]),
        "agreement": mean("agreement"),
        "perplexity": perplexity,
    }


def _same(benchmark, stated: str, predicted: str) -> bool:
  if benchmark.kind in (benchmarks.EQUATION, benchmarks.NUMBER):
    return math.isclose(float(stated), float(predicted), rel_tol=1e-6,
                        abs_tol=1e-9)
  return kinds.fold(stated) == kinds.fold(predicted)
