"""From answers to scores: one result for each system and benchmark."""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from stepdistill_jax.answers import (
  answer_matching as answers_lib,
  benchmarks as benchmarks_lib,
  embeddings as embeddings_lib,
  rules as rules_lib,
  text_metrics,
)
from stepdistill_jax.evaluation import (
  breakdowns,
  examples as examples_lib,
  rationales,
  statistics,
  systems as systems_lib,
)

ACCURACY = "accuracy"


@dataclasses.dataclass(frozen=True)
class Scored:
  """A system's result on one benchmark.

  Attributes:
    summary: the entry of `results.json`.
    rows: one dict for each example, as in `examples.jsonl`.
  """

  summary: dict[str, Any]
  rows: tuple[dict[str, Any], ...]

  @property
  def key(self) -> tuple[str, str, str, str]:
    """Benchmark, split, mode, system: what names a result in a call."""
    s = self.summary
    return s["benchmark"], s["split"], s["mode"], s["name"]

  @property
  def correct(self) -> list[bool]:
    return [row["correct"] for row in self.rows]

  @property
  def values(self) -> list[float]:
    """What systems are compared by: right or wrong, or the main metric."""
    metric = self.summary.get("metric", ACCURACY)
    if metric == ACCURACY:
      return [float(right) for right in self.correct]
    return [row["metrics"].get(metric, 0.0) for row in self.rows]


def score(
    system: systems_lib.System, example_set: examples_lib.ExampleSet,
    given: systems_lib.Answers, *, rules: str = "strict", seed: int = 0,
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
  rows = example_set.examples
  if [a.id for a in given.answers] != [row.id for row in rows]:
    raise ValueError(f"{system.name}: answers are not those to the examples")
  judged = [
      _judge(benchmark, row, answer, rules, given)
      for row, answer in zip(rows, given.answers)]
  correct = [j.correct for j in judged]
  metrics = _text_metrics(benchmark, rows, given.answers, embeddings)
  summary = {
      "name": system.name, "kind": system.kind, "source": system.source,
      "benchmark": benchmark.name, "split": example_set.split,
      "mode": given.mode, "rules": rules, "score_rule": benchmark.score_rule,
      **_accuracy(correct, seed),
      "metric": text_metrics.OF_KIND[benchmark.kind][0] if metrics
      else ACCURACY,
      "text_metrics": _means(metrics, rows, seed),
      "unparsable": sum(j.parsed is None for j in judged),
      "missing": sum(a.text is None for a in given.answers),
      "empty": sum(a.text is not None and not a.text.strip()
                   for a in given.answers),
      "without_label": example_set.without_label,
      "variants": _variants(judged),
      **_breakdowns(benchmark, rows, given.answers, judged),
      "rationales": rationales.summarize(
          benchmark, rows, given.answers, judged,
          of_teacher=system.kind == "teacher"),
      "cost": given.cost or None, "method": given.method,
      "settings": given.settings, "cut": given.cut,
      "warnings": list(given.warnings),
  }
  if example_set.without_label:
    summary["warnings"].append(
        f"{example_set.without_label} rows of the split have no gold label "
        "and cannot be scored")
  return Scored(summary, tuple(
      {**_example_row(benchmark, system, example_set, given.mode, row, a, j),
       **({"metrics": metrics[i]} if metrics else {})}
      for i, (row, a, j) in enumerate(zip(rows, given.answers, judged))))


def _judge(benchmark, row, answer, rules, given):
  text = answer.text
  if text is not None and given.answer_after_rationale and (
      given.mode == "generate"):  # A weighed choice is the label itself.
    text = answers_lib.after_rationale(text)
  if text is None:
    return benchmarks_lib.Judgement(None, False)
  return benchmark.judge(text, row.label, inputs=row.inputs, rules=rules,
                         free_text=given.free_text)


def _text_metrics(benchmark, rows, given, embeddings
                  ) -> list[dict[str, float]]:
  """The metrics of each answer; [] for kinds that are right or wrong.

  An answer that is missing has the metrics of an empty one.
  """
  if benchmark.kind not in text_metrics.OF_KIND:
    return []
  texts, labels = [a.text or "" for a in given], [row.labels for row in rows]
  found = [text_metrics.score(benchmark.kind, right, text)
           for right, text in zip(labels, texts)]
  if embeddings is not None:
    for metrics, value in zip(found, embeddings_lib.similarities(
        embeddings, texts, labels)):
      metrics |= {} if value is None else {"embedding": value}
  return found


def _means(metrics: Sequence[dict[str, float]],
           rows: Sequence[examples_lib.Example], seed: int
           ) -> dict[str, Any] | None:
  """Each metric's mean over the answers that have it, with its interval."""
  if not metrics:
    return None
  columns = {name: [m[name] for m in metrics if name in m]
             for name in dict.fromkeys(itertools.chain(*metrics))}
  return {
      "entities_by": text_metrics.entity_method(),
      "references": text_metrics.reference_rule(max(
          (len(row.labels) for row in rows), default=0)),
      "values": {name: {
          "n": len(values), "mean": sum(values) / len(values),
          "ci95": list(statistics.bootstrap_interval(values, seed=seed))}
                 for name, values in columns.items()}}


def _accuracy(correct: Sequence[bool], seed: int) -> dict[str, Any]:
  n, right = len(correct), sum(correct)
  return {
      "n": n, "correct": right, "accuracy": right / n if n else None,
      "ci95": list(statistics.wilson_interval(right, n)),
      "bootstrap_ci95": list(
          statistics.bootstrap_interval([float(c) for c in correct],
                                        seed=seed)),
  }


def _variants(judged) -> dict[str, dict[str, Any]]:
  """Accuracy under other readings (CQA by letter); {} where there is none."""
  names = dict.fromkeys(
      itertools.chain.from_iterable(j.variants for j in judged))
  result = {}
  for name in names:
    right = sum(j.variants.get(name, False) for j in judged)
    result[name] = {
        "correct": right, "accuracy": right / len(judged),
        "ci95": list(statistics.wilson_interval(right, len(judged)))}
  return result


def _breakdowns(benchmark, rows, given, judged) -> dict[str, Any]:
  correct = [j.correct for j in judged]
  # In words, whoever answers: systems stand on one axis.
  lengths = [len(row.inputs.split()) for row in rows]
  scored = [(a.score, j.correct) for a, j in zip(given, judged)
            if a.score is not None]
  return {
      "by_class": breakdowns.by_class(
          benchmark.labels, [row.label for row in rows],
          [j.parsed for j in judged]) if benchmark.labels else None,
      "by_length": {"unit": "words",
                    "rows": breakdowns.by_length(lengths, correct)},
      "by_steps": breakdowns.by_steps(
          [breakdowns.number_of_steps(benchmark, row) for row in rows],
          correct),
      "calibration": breakdowns.calibration(
          [s for s, _ in scored], [c for _, c in scored]),
  }


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
