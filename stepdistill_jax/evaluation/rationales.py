"""How a student's rationales compare with its teacher's, question and label."""

from collections.abc import Sequence
import math
import re

from stepdistill_jax.answers import (
  answer_matching as answers,
  benchmarks as benchmarks_lib,
  kinds,
  text_overlap,
)
from stepdistill_jax.evaluation import (
  examples as examples_lib,
  statistics,
  systems as systems_lib,
)

_WORD = re.compile(r"\w+")


def stated_answer(benchmark: benchmarks_lib.Benchmark, rationale: str,
                  inputs: str) -> str | None:
  """The answer that a rationale itself comes to, or None.

  For equations and numbers, its last number; for labels and choices, the only
  one that it names (in its last sentence, where the whole names several); for
  free text, its last word.
  """
  if benchmark.kind in (benchmarks_lib.EQUATION, benchmarks_lib.NUMBER):
    value = answers.last_number(rationale)
    return None if value is None else benchmarks_lib.number_text(value)
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


def summarize(
    benchmark: benchmarks_lib.Benchmark,
    rows: Sequence[examples_lib.Example],
    given: Sequence[systems_lib.Answer],
    judged: Sequence[benchmarks_lib.Judgement],
    of_teacher: bool = False,
) -> dict | None:
  """Metrics of the rationales of one system; None where it gave none.

  With `of_teacher`, rationales that are the row's own reference say nothing
  when compared with it, and are left out of `n_teacher`.

  Returns a dict with counts and means:
    n: examples with a rationale of the system.
    rouge_l: against the teacher's, over `n_teacher`.
    overlap_with_teacher, input_overlap: share of its content words found in
      the teacher's and in the question, over those that have such words.
    words: mean length.
    agreement: among the `n_stated` rationales that come to an answer, the
      share for which it is the predicted one.
    perplexity: of the teacher's rationales under the student, a token.
  """
  with_rationale = [
      (row, answer, judgement)
      for row, answer, judgement in zip(rows, given, judged, strict=True)
      if answer.rationale is not None]
  perplexity = _perplexity(given)
  if not with_rationale and perplexity is None:
    return None
  taught = [(row, a) for row, a, _ in with_rationale if row.rationale
            and not (of_teacher and a.rationale == row.rationale)]
  stated = [
      (stated_answer(benchmark, a.rationale, row.inputs), j)
      for row, a, j in with_rationale]
  stated = [(text, j) for text, j in stated if text is not None]
  return {
      "n": len(with_rationale),
      "n_teacher": len(taught),
      "rouge_l": statistics.mean([
          text_overlap.rouge_l(r.rationale, a.rationale) for r, a in taught]),
      "overlap_with_teacher": statistics.mean(
          [text_overlap.share_found(a.rationale, r.rationale)
           for r, a in taught]),
      "input_overlap": statistics.mean(
          [text_overlap.share_found(a.rationale, r.inputs)
           for r, a, _ in with_rationale]),
      "words": statistics.mean(
          [len(a.rationale.split()) for _, a, _ in with_rationale]),
      "n_stated": len(stated),
      "agreement": statistics.mean([
          j.parsed is not None and _same(benchmark, text, j.parsed)
          for text, j in stated]),
      "perplexity": perplexity,
  }


def _same(benchmark, stated: str, predicted: str) -> bool:
  if benchmark.kind in (benchmarks_lib.EQUATION, benchmarks_lib.NUMBER):
    return math.isclose(float(stated), float(predicted), rel_tol=1e-6,
                        abs_tol=1e-9)
  return kinds.fold(stated) == kinds.fold(predicted)


def _perplexity(given: Sequence[systems_lib.Answer]) -> float | None:
  scored = [a for a in given if a.rationale_log_prob is not None
            and a.rationale_target_tokens]
  if not scored:
    return None
  tokens = sum(a.rationale_target_tokens for a in scored)
  return math.exp(-sum(a.rationale_log_prob for a in scored) / tokens)
