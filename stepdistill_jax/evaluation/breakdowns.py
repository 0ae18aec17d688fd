"""Where a system is right and wrong: by class, length, steps and score."""

from collections.abc import Mapping, Sequence
import re

import numpy as np

from stepdistill_jax.answers import benchmarks
from stepdistill_jax.evaluation import examples, statistics

UNPARSABLE = "(unparsable)"
_BINS = 10  # Of scores.
_LENGTH_BINS = 4
_MOST_STEPS = 6  # More steps than this share one row.


def by_class(
    labels: Sequence[str], counts: Mapping[tuple[str, str | None], int],
) -> dict:
  """Confusion matrix and per-class scores of a benchmark with fixed labels.

  Args:
    labels: the classes, in the order of rows and columns.
    counts: of the examples with a gold and a predicted label, which is None
      where it is unparsable.

  Returns:
    `labels` (columns, the last is unparsable), `confusion` (one row a gold
    class), and `classes`: recall (= accuracy within the class), precision, F1
    and count of each class.
  """
  from sklearn import metrics

  columns = [*labels, UNPARSABLE]
  gold = [label for label, _ in counts]
  said = [UNPARSABLE if parsed is None else parsed for _, parsed in counts]
  weights = list(counts.values())
  confusion = metrics.confusion_matrix(
      gold, said, labels=columns, sample_weight=weights)
  precision, recall, f1, support = metrics.precision_recall_fscore_support(
      gold, said, labels=list(labels), zero_division=0, sample_weight=weights)
  return {
      "labels": columns,
      "confusion": confusion[:len(labels)].tolist(),
      "classes": [
          {"label": label, "n": int(support[i]),
           "accuracy": float(recall[i]) if support[i] else None,
           "precision": float(precision[i]), "f1": float(f1[i])}
          for i, label in enumerate(labels)],
      "macro_f1": float(np.mean(f1)),
  }


def _row(name: str, correct: Sequence[bool]) -> dict:
  n = len(correct)
  return {"range": name, "n": n, **statistics.accuracy(int(sum(correct)), n)}


def by_length(lengths: Sequence[int], correct: Sequence[bool]) -> list[dict]:
  """Accuracy by input length, in quarters of the examples.

  Args:
    lengths: of each input, in words.
    correct: of each example.

  Returns:
    One row a range of lengths, shortest first; equal lengths stay together.
  """
  lengths = np.asarray(lengths)
  correct = np.asarray(correct, dtype=bool)
  if not lengths.size:
    return []
  edges = np.unique(np.quantile(
      lengths, np.linspace(0, 1, _LENGTH_BINS + 1)[1:], method="lower"))
  rows, low = [], int(lengths.min())
  for high in edges.astype(int):
    inside = (lengths >= low) & (lengths <= high)
    if inside.any():
      rows.append(_row(f"{low}–{high}" if low < high else f"{high}",
                       correct[inside].tolist()))
    low = high + 1
  return rows


def number_of_steps(benchmark: benchmarks.Benchmark,
                    example: examples.Example) -> int | None:
  """Steps that an example needs: operators, else the teacher's sentences."""
  if benchmark.kind == benchmarks.EQUATION:
    operators = len(re.findall(r"[\d).]\s*[-+*/]", example.label))
    if operators:
      return operators
  if not example.rationale:
    return None
  return len([s for s in re.split(r"(?<=[.!?])\s+", example.rationale.strip())
              if s])


def by_steps(steps: Sequence[int | None],
             correct: Sequence[bool]) -> list[dict]:
  """Accuracy by number of steps; examples without a number are left out."""
  groups: dict[int, list[bool]] = {}
  for count, right in zip(steps, correct, strict=True):
    if count is not None:
      groups.setdefault(min(count, _MOST_STEPS), []).append(bool(right))
  return [_row(f"{count}+" if count == _MOST_STEPS else str(count),
               groups[count]) for count in sorted(groups)]


def calibration(
    scores: Sequence[float], correct: Sequence[bool]) -> dict | None:
  """Expected calibration error and the points of a reliability plot.

  ECE = Σ_b n_b/n · |accuracy_b − mean score_b| over bins of equal width;
  a score of exactly an inner edge falls in the lower bin, 0 in the first.

  Args:
    scores: the system's confidence in each answer, in [0, 1].
    correct: of each example.

  Returns:
    `ece`, `n`, `mean_score`, and `bins` (those that hold an example).
  """
  scores = np.asarray(scores, dtype=np.float64)
  correct = np.asarray(correct, dtype=np.float64)
  if not scores.size:
    return None
  index = np.clip(np.ceil(scores * _BINS).astype(int) - 1, 0, _BINS - 1)
  rows, ece = [], 0.0
  for b in range(_BINS):
    inside = index == b
    n = int(inside.sum())
    if not n:
      continue
    accuracy, confidence = correct[inside].mean(), scores[inside].mean()
    ece += n / scores.size * abs(accuracy - confidence)
    rows.append({"low": b / _BINS, "high": (b + 1) / _BINS, "n": n,
                 "accuracy": float(accuracy), "score": float(confidence)})
  return {"n": int(scores.size), "ece": float(ece),
          "mean_score": float(scores.mean()), "bins": rows}
