"""Metric functions for SeqIO tasks: the same rules as the eval binary's.

SeqIO gives a metric function the decoded texts alone, so CQA is compared by
text here; by letter only in the eval binary, which sees the question.
Importing this module needs neither tensorflow nor jax.
"""

from collections.abc import Callable, Sequence

from stepdistill_jax.answers import benchmarks, text_metrics
from stepdistill_jax.records import datasets

MetricFn = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def label_metric_fns(
    dataset: str, rules: str = "strict", free_text: bool = False,
    spec: Callable[[], datasets.Dataset] | None = None) -> list[MetricFn]:
  """Returns the metric functions of a data set's label tasks.

  Args:
    dataset: a benchmark's name; another data set is compared as text.
    rules: `strict` or `reference`.
    free_text: for targets that hold a rationale and then the label.
    spec: gives the kind of the labels of a data set of the user's own, when
      it is asked for.
  """

  def label_accuracy(targets: Sequence[str],
                     predictions: Sequence[str]) -> dict[str, float]:
    benchmark = benchmarks.get(
        dataset, own=[dataset], dataset=spec() if spec else None)
    judged = [
        benchmark.judge(prediction, target, rules=rules, free_text=free_text)
        for target, prediction in zip(targets, predictions, strict=True)]
    if not judged:
      return {}  # Of nothing there is no mean.
    texts = () if benchmark.kind not in text_metrics.OF_KIND else (
        text_metrics.score(benchmark.kind, [target], prediction)
        for target, prediction in zip(targets, predictions, strict=True))
    return {
        "accuracy": sum(j.correct for j in judged) / len(judged),
        "unparsable": sum(j.parsed is None for j in judged) / len(judged),
        **text_metrics.means(texts)}

  return [label_accuracy]
