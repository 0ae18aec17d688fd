"""Tests of scores against scikit-learn, seqio and rouge-score."""

import dataclasses
import itertools

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sklearn import calibration as sk_calibration, metrics as sk_metrics

from stepdistill_jax.answers import (
  benchmarks,
  metrics,
  rules as rules_lib,
  text_overlap,
)
from stepdistill_jax.evaluation import (
  breakdowns,
  examples,
  rationales,
  scored,
  systems,
)
from stepdistill_jax.evaluation.report import plots
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher.audit import audit

LABELS = datasets.NLI_LABELS


def _nli_set(n=60, seed=0):
  rng = np.random.default_rng(seed)
  gold = rng.choice(LABELS, n)
  rows = [examples.Example(str(i), f"premise{' word' * (i % 9)}</s>h", str(g),
                           rationale="A cat sleeps. It is neutral.")
          for i, g in enumerate(gold)]
  said = rng.choice([*LABELS, "Neutral", "junk", ""], n)
  given = systems.Answers(tuple(
      systems.Answer(str(i), str(s), score=float(rng.uniform()),
                     rationale="A cat sleeps.") for i, s in enumerate(said)))
  return examples.make_example_set("anli1", "test", "t", rows), given


class _System:
  name, kind, source = "s", "predictions", "file"


def _score(example_set, given, **kwargs):
  return scored.score(_System(), example_set, given, **kwargs)


def test_equals_scikit_learn():
  example_set, given = _nli_set()
  result = _score(example_set, given, rules="reference")
  gold = [r.label for r in example_set.examples]
  said = [a.text if a.text in LABELS else "?" for a in given.answers]
  assert result.summary["accuracy"] == sk_metrics.accuracy_score(gold, said)
  table = result.summary["by_class"]
  np.testing.assert_array_equal(
      np.array(table["confusion"]),
      sk_metrics.confusion_matrix(gold, said, labels=[*LABELS, "?"])[:3])
  recall = sk_metrics.recall_score(gold, said, labels=list(LABELS),
                                   average=None, zero_division=0)
  assert [c["accuracy"] for c in table["classes"]] == list(recall)
  assert table["macro_f1"] == pytest.approx(sk_metrics.f1_score(
      gold, said, labels=list(LABELS), average="macro", zero_division=0))
  unreadable = sum(s == "?" for s in said)
  assert result.summary["unparsable"] == unreadable > 0


def test_the_denominator_never_shrinks():
  example_set, given = _nli_set()
  some = systems.Answers(tuple(
      systems.Answer(a.id, None if i % 3 else a.text)
      for i, a in enumerate(given.answers)))
  summary = _score(example_set, some).summary
  assert summary["n"] == 60 and summary["missing"] == 40
  assert summary["unparsable"] >= 40
  with pytest.raises(ValueError, match="not those"):
    _score(example_set, systems.Answers(given.answers[1:]))


def test_texts_that_rouge_does_not_read_are_named():
  rows = [examples.Example("0", "a", "两人今天在 Paris 见面。"),
          examples.Example("1", "b", "Zwei Leute trafen sich in Zürich.")]
  example_set = examples.make_example_set("dialogsum", "test", "t", rows)
  summary = _score(example_set, systems.Answers(tuple(
      systems.Answer(r.id, r.label, score=.5) for r in rows))).summary
  assert summary["text_metrics"]["values"]["chrf"]["mean"] == 1
  (line,) = summary["warnings"]
  assert line.startswith("the labels of 1 of 2 examples are mostly of other")
  assert summary["calibration"] is None  # No text is right or wrong.


def test_order_of_examples_does_not_matter():
  example_set, given = _nli_set()
  order = np.random.default_rng(1).permutation(60)
  shuffled = examples.make_example_set(
      "anli1", "test", "t", [example_set.examples[i] for i in order])
  again = systems.Answers(tuple(given.answers[i] for i in order))
  one, other = (_score(*pair).summary for pair in (
      (example_set, given), (shuffled, again)))
  for name in ("correct", "ci95", "bootstrap_ci95", "by_class", "by_length",
               "by_steps"):
    assert one[name] == other[name]
  assert one["calibration"]["ece"] == pytest.approx(
      other["calibration"]["ece"], abs=1e-12)  # Sums in another order.


@pytest.mark.parametrize("rules", rules_lib.RULES)
def test_metric_functions_equal_the_eval_binary(rules):
  example_set, given = _nli_set()
  (metric_fn,) = metrics.label_metric_fns("anli1", rules)
  found = metric_fn([r.label for r in example_set.examples],
                    [a.text for a in given.answers])
  summary = _score(example_set, given, rules=rules).summary
  assert found["accuracy"] == summary["accuracy"]
  assert found["unparsable"] == summary["unparsable"] / summary["n"]


def test_rouge_and_overlap():
  text, other = "Bald eagles fly over rivers.", "eagles often fly over Texas"
  expected = rouge_scorer.RougeScorer(["rougeL"]).score(text, other)
  assert text_overlap.rouge_l(text, other) == expected["rougeL"].fmeasure
  for same in (text, "...", ""):
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    assert text_overlap.rouge_l(same, same) == (
        scorer.score(same, same)["rougeL"].fmeasure)


def test_words_found_in_the_question_are_counted_as_in_an_audit():
  rows = [examples.Example(str(i), "The 12 dogs were running.</s>A dog?",
                           "neutral", rationale=text)
          for i, text in enumerate(
              ["The 12 dogs were in a park.", "dogs", "It is so.", "cats"])]
  audited = audit.SplitAudit(datasets.get("anli1"), audit.count_words)
  audited.add_all(records.Record(r.id, r.inputs, r.label, "", r.rationale)
                  for r in rows)
  example_set = examples.make_example_set("anli1", "test", "t", rows)
  found = _score(example_set, systems.Answers(tuple(
      systems.Answer(r.id, r.label, rationale=r.rationale) for r in rows)))
  # "It is so." has no word that says anything.
  assert found.summary["rationales"]["input_overlap"] == (
      audited.as_json()["mean_overlap_with_inputs"]) == (
          pytest.approx((2 / 3 + 1 + 0) / 3))
  nothing = _score(example_set, systems.Answers(tuple(
      systems.Answer(r.id, r.label, rationale="It is so.") for r in rows)))
  assert nothing.summary["rationales"]["input_overlap"] is None


@pytest.mark.parametrize("name, text, inputs, expected", [
    ("svamp", "He had 8 and lost 3, so 8 - 3 = 5.", "", "5"),
    ("anli1", "It cannot be neutral. So it is entailment.", "", "entailment"),
    ("tracking", "mary went to the kitchen .", "", "kitchen"),
    ("cqa", "Eagles live by the sea.",
     "Where?\nAnswer Choices:\n(a) sea\n(b) away", "sea"),
    ("svamp", "no number", "", None), ("anli1", "", "", None)])
def test_stated_answer(name, text, inputs, expected):
  assert rationales.stated_answer(
      benchmarks.get(name), text, inputs) == expected


def test_agreement_and_perplexity():
  rows = [examples.Example("a", "q 8 3", "5", rationale="8 - 3 = 5"),
          examples.Example("b", "q", "5")]
  given = [
      systems.Answer("a", "5", rationale="8 - 3 = 5", rationale_log_prob=-2.0,
                     rationale_target_tokens=4),
      systems.Answer("b", "4", rationale="it is 5", rationale_log_prob=-6.0,
                     rationale_target_tokens=4)]
  judged = [benchmarks.get("svamp").judge(a.text, "5") for a in given]

  def summarize(**kwargs):
    summary = rationales.Summary(benchmarks.get("svamp"), **kwargs)
    for of_one in zip(rows, given, judged):
      summary.add(*of_one)
    return summary.result()

  found = summarize()
  assert (found["n"], found["n_teacher"], found["n_stated"]) == (2, 1, 2)
  assert found["agreement"] == 0.5 and found["rouge_l"] == 1.0
  assert found["perplexity"] == pytest.approx(np.exp(8 / 8))
  # A teacher is not compared with itself.
  own = summarize(of_teacher=True)
  assert (own["n"], own["n_teacher"], own["rouge_l"]) == (2, 0, None)


def test_calibration_equals_scikit_learn():
  rng = np.random.default_rng(0)
  scores = rng.uniform(size=500)
  correct = rng.uniform(size=500) < scores ** 2
  ours = breakdowns.calibration(scores, correct)
  accuracy, confidence = sk_calibration.calibration_curve(
      correct, scores, n_bins=10)
  np.testing.assert_allclose([b["accuracy"] for b in ours["bins"]], accuracy)
  np.testing.assert_allclose([b["score"] for b in ours["bins"]], confidence)
  weights = np.array([b["n"] for b in ours["bins"]]) / 500
  assert ours["ece"] == pytest.approx(
      float(weights @ np.abs(accuracy - confidence)))
  # The edges: 0 in the first bin, 1 in the last, 0.1 in the lower one.
  edges = breakdowns.calibration([0.0, 0.1, 1.0], [True] * 3)["bins"]
  assert [(b["low"], b["n"]) for b in edges] == [(0.0, 2), (0.9, 1)]
  assert breakdowns.calibration([], []) is None


def test_ranges_hold_every_example_once():
  lengths = [5, 5, 5, 5, 5, 5, 6, 30]
  rows = breakdowns.by_length(lengths, [True] * 4 + [False] * 4)
  assert sum(r["n"] for r in rows) == 8
  assert sum(r["correct"] for r in rows) == 4
  assert rows[0]["range"] == "5"
  steps = breakdowns.by_steps([1, 2, None, 9, 7], [True] * 5)
  assert [(r["range"], r["n"]) for r in steps] == [
      ("1", 1), ("2", 1), ("6+", 2)]
  svamp = benchmarks.get("svamp")
  row = examples.Example("a", "q", "( ( 4.0 - 2.0 ) + -3.0 )")
  assert breakdowns.number_of_steps(svamp, row) == 2


def test_lengths_of_all_systems_are_words_on_one_sorted_axis():
  example_set, given = _nli_set()
  tokens = systems.Answers(tuple(
      dataclasses.replace(a, input_tokens=1000 - i)
      for i, a in enumerate(given.answers)))
  one, other = (_score(example_set, g).summary["by_length"]
                for g in (given, tokens))
  assert one == other and one["unit"] == "words"
  rows = [{"range": name, "accuracy": 0.5, "ci95": [0.4, 0.6]}
          for name in ("1", "3–5", "6+", "10–12")]
  plot = plots.by_range(
      "x.png", "title", "words", [("a", rows[2:]), ("b", rows[:3])])
  axes, = plot.figure.axes
  assert [t.get_text() for t in axes.get_xticklabels()] == [
      "1", "3–5", "6+", "10–12"]
  assert plot.table.rows[0] == ("a", "6+", "50", "40.0 to 60.0")


def test_comparisons_stay_within_a_benchmark_and_mode():
  example_set, given = _nli_set()
  results = []
  for name, mode in itertools.product("ab", ("generate", "score")):
    system = _System()
    system.name = name
    results.append(scored.score(system, example_set, systems.Answers(
        given.answers, mode=mode)))
  found = scored.compare_all(results)
  assert [(c["mode"], c["first"], c["second"]) for c in found] == [
      ("generate", "a", "b"), ("score", "a", "b")]
  assert all(c["difference"] == 0 and not c["significant"] for c in found)
