"""From answers to scores: one result for each system and benchmark."""

import array
import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

from stepdistill_jax.answers import (
  answer_matching,
  benchmarks,
  embeddings as embeddings_lib,
  rules as rules_lib,
  text_metrics,
)
from stepdistill_jax.evaluation import (
  breakdowns,
  examples,
  rationales,
  statistics,
  systems,
)
from stepdistill_jax.util import disk_lists

ACCURACY = "accuracy"
_TOGETHER = 20_000  # Texts whose embeddings are in memory.


@dataclasses.dataclass(frozen=True)
class Scored:
  """A system's result on one benchmark.

  Attributes:
    summary: the entry of `results.json`.
    rows: one dict for each example, as in `examples.jsonl`.
  """

  summary: dict[str, Any]
  rows: Sequence[dict[str, Any]]

  @property
  def key(self) -> tuple[str, str, str, str]:
    """Benchmark, split, mode, system: what names a result in a call."""
    s = self.summary
    return s["benchmark"], s["split"], s["mode"], s["name"]

  @functools.cached_property
  def values(self) -> Sequence[float]:
    """What systems are compared by: right or wrong, or the main metric."""
    metric = self.summary.get("metric", ACCURACY)
    return array.array("d", (
        row["correct"] if metric == ACCURACY else row["metrics"].get(metric, 0)
        for row in self.rows))


def score(
    system: systems.System, example_set: examples.ExampleSet,
    given: systems.Answers, *, rules: str = "strict", seed: int = 0,
    embeddings: str | None = None,
) -> Scored:
  """Judges a system's answers to an example set.

  Args:
    system: whose name and kind go in the result.
    example_set: what was asked.
    given: its answers, one for each example in their order.
    rules: `strict` or `reference`.
    seed: of the bootstrap.
    embeddings: see `evaluate.EvalConfig`.

  Returns:
    The result; its `n` is always the number of examples asked.
  """
  rules_lib.check_rules(rules)
  benchmark = example_set.spec
  if len(given.answers) != len(example_set.examples):
    raise ValueError(f"{system.name}: answers are not those to the examples")
  counts = _Counts()
  explained = rationales.Summary(benchmark, of_teacher=system.kind == "teacher")
  rows: disk_lists.DiskList[dict[str, Any]] = disk_lists.DiskList()
  has_metrics = benchmark.kind in text_metrics.OF_KIND
  asked = lambda: zip(example_set.examples, given.answers, strict=True)
  near = itertools.repeat(None) if embeddings is None or not has_metrics else (
      _similarities(embeddings, asked()))
  for (example, answer), nearness in zip(asked(), near):
    if answer.id != example.id:
      raise ValueError(f"{system.name}: answers are not those to the examples")
    judged = _judge(benchmark, example, answer, rules, given)
    row = _example_row(
        benchmark, system, example_set, given.mode, example, answer, judged)
    if has_metrics:
      # An answer that is missing has the metrics of an empty one.
      row["metrics"] = text_metrics.score(
          benchmark.kind, example.labels, answer.text or "")
      if nearness is not None:
        row["metrics"]["embedding"] = nearness
    counts.add(benchmark, example, answer, judged, row.get("metrics", {}))
    explained.add(example, answer, judged)
    rows.append(row)
  summary = {
      "name": system.name, "kind": system.kind, "source": system.source,
      "benchmark": benchmark.name, "split": example_set.split,
      "mode": given.mode, "rules": rules, "score_rule": benchmark.score_rule,
      "n": len(counts.correct),
      **statistics.accuracy(sum(counts.correct), len(counts.correct)),
      "bootstrap_ci95": list(
          statistics.bootstrap_interval(counts.correct, seed=seed)),
      "metric": text_metrics.OF_KIND[benchmark.kind][0] if counts.metrics
      else ACCURACY,
      "text_metrics": _means(counts, seed),
      "unparsable": counts.unparsable, "missing": counts.missing,
      "empty": counts.empty,
      "without_label": example_set.without_label,
      # Under other readings (CQA by letter).
      "variants": {name: statistics.accuracy(right, len(counts.correct))
                   for name, right in counts.variants.items()},
      "by_class": breakdowns.by_class(benchmark.labels, counts.classes)
                  if benchmark.labels else None,
      "by_length": {"unit": "words", "rows": breakdowns.by_length(
          counts.lengths, counts.correct)},
      "by_steps": breakdowns.by_steps(counts.steps, counts.correct),
      # A score says how sure a system is to be right, which no text is.
      "calibration": None if counts.metrics else breakdowns.calibration(
          counts.scores, counts.of_scores),
      "rationales": explained.result(),
      "cost": given.cost or None, "method": given.method,
      "settings": given.settings, "cut": given.cut,
      "warnings": list(given.warnings),
  }
  if counts.not_read:
    summary["warnings"].append(
        f"the labels of {counts.not_read} of {summary['n']} examples are "
        "mostly of other letters than a to z, which rouge-score leaves out: "
        "their ROUGE says nothing; chrF reads all letters")
  if example_set.without_label:
    summary["warnings"].append(
        f"{example_set.without_label} rows of the split have no gold label "
        "and cannot be scored")
  return Scored(summary, rows)


class _Counts:
  """What a summary needs of all answers: little of each.

  Attributes:
    correct: whether each is the gold answer.
    unparsable, missing, empty: how many are.
    not_read: examples with metrics whose labels ROUGE does not read.
    variants: how many are correct under other readings, by name.
    metrics: those of each answer that has them, by name.
    most_labels: of an example.
    classes: how many have a gold and a predicted label.
    lengths: of each input in words: systems stand on one axis.
    steps: that each example needs.
    scores: of the answers with a score, in [0, 1].
    of_scores: whether those are correct.
  """

  def __init__(self) -> None:
    self.unparsable = self.missing = self.empty = self.not_read = 0
    self.correct: list[bool] = []
    self.variants: dict[str, int] = {}
    self.metrics: dict[str, array.array] = {}
    self.most_labels = 0
    self.classes: collections.Counter = collections.Counter()
    self.lengths, self.steps = array.array("q"), []
    self.scores, self.of_scores = array.array("d"), []

  def add(self, benchmark: benchmarks.Benchmark,
          example: examples.Example, answer: systems.Answer,
          judged: benchmarks.Judgement, metrics: Mapping[str, float],
          ) -> None:
    self.correct.append(judged.correct)
    self.unparsable += judged.parsed is None
    self.missing += answer.text is None
    self.empty += answer.text is not None and not answer.text.strip()
    for name, right in judged.variants.items():
      self.variants[name] = self.variants.get(name, 0) + right
    self.not_read += bool(metrics) and not all(
        map(text_metrics.read_by_rouge, example.labels))
    for name, value in metrics.items():
      self.metrics.setdefault(name, array.array("d")).append(value)
    if metrics:
      self.most_labels = max(self.most_labels, len(example.labels))
    if benchmark.labels:
      self.classes[example.label, judged.parsed] += 1
    self.lengths.append(len(example.inputs.split()))
    self.steps.append(breakdowns.number_of_steps(benchmark, example))
    if answer.score is not None:
      self.scores.append(answer.score)
      self.of_scores.append(judged.correct)


def _judge(benchmark, row, answer, rules, given):
  text = answer.text
  if text is not None and given.answer_after_rationale and (
      given.mode == "generate"):  # A weighed choice is the label itself.
    text = answer_matching.after_rationale(text)
  if text is None:
    return benchmarks.Judgement(None, False)
  return benchmark.judge(text, row.label, inputs=row.inputs, rules=rules,
                         free_text=given.free_text)


def _similarities(
    folder: str, rows: Iterable[tuple[examples.Example, systems.Answer]]
) -> Iterator[float | None]:
  """Yields how near each answer is to its best label, by embeddings."""
  rows = iter(rows)
  while some := list(itertools.islice(rows, _TOGETHER)):
    yield from embeddings_lib.similarities(
        folder, [answer.text or "" for _, answer in some],
        [row.labels for row, _ in some])


def _means(counts: _Counts, seed: int) -> dict[str, Any] | None:
  """Each metric's mean over the answers that have it, with its interval."""
  if not counts.metrics:
    return None
  return {
      "entities_by": text_metrics.entity_method(),
      "references": text_metrics.reference_rule(counts.most_labels),
      "values": {name: {
          "n": len(values), "mean": sum(values) / len(values),
          "ci95": list(statistics.bootstrap_interval(values, seed=seed))}
                 for name, values in counts.metrics.items()}}


def _example_row(benchmark, system, example_set, mode, row, answer, judged):
  result = {
      "system": system.name, "benchmark": benchmark.name,
      "split": example_set.split, "mode": mode, "id": row.id,
      "input": row.inputs, "target": row.label, "prediction": answer.text,
      "parsed": judged.parsed, "correct": judged.correct,
      "score": answer.score}
  if answer.rationale is not None:
    result["rationale"] = answer.rationale
  if row.rationale:
    result["teacher_rationale"] = row.rationale
  return result


def compare_all(results: Sequence[Scored], *, seed: int = 0) -> list[dict]:
  """Compares all pairs of systems within each benchmark, split and mode.

  Holm's correction runs over all the pairs of the call.

  Returns:
    One dict a pair, as in `results.json`.
  """
  metrics = {result.key: result.summary.get("metric", ACCURACY)
             for result in results}
  pairs = {
      (one.key, other.key): statistics.compare(
          one.values, other.values, seed=seed)
      for one, other in itertools.combinations(results, 2)
      if one.key[:3] == other.key[:3]}
  return [
      {"benchmark": one[0], "split": one[1], "mode": one[2],
       "first": one[3], "second": other[3], "metric": metrics[one],
       **dataclasses.asdict(comparison)}
      for (one, other), comparison in
      statistics.correct_for_many(pairs).items()]
