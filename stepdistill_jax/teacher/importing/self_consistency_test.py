"""Votes over samples: against counting by hand, and against each other."""

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.answers import parsing
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher.importing import self_consistency as sc


def parsed(label, rationale="because", status=None):
  return parsing.Parsed(
      rationale, label, status or ("ok" if label else parsing.NO_LABEL))


def choose(labels, *, gold="", dataset="anli1", **options):
  counts = sc.Counts()
  samples = [parsed(label, f"because {n}") for n, label in enumerate(labels)]
  row = datasets.Row(inputs="i", label=gold)
  choice = sc.choose(datasets.get(dataset), row, samples, counts, **options)
  return choice, counts


@pytest.mark.parametrize("labels, label, rationale, agreement", [
    (["neutral"], "neutral", "because 0", 1.0),
    (["entailment", "neutral", "neutral"], "neutral", "because 1", 2 / 3),
    (["", "neutral", ""], "neutral", "because 1", 1 / 3),
    (["neutral", "entailment"], "neutral", "because 0", 0.5),
    (["", ""], "", "because 0", 1.0),
])
def test_majority(labels, label, rationale, agreement):
  choice, _ = choose(labels)
  assert choice.parsed.label == label
  assert choice.parsed.rationale == rationale
  assert choice.agreement == pytest.approx(agreement)


def test_equations_agree_by_value():
  choice, counts = choose(
      ["(9)", "(2 * 4)", "8.0", "( 16 / 2 )", "oops"], dataset="svamp")
  assert choice.parsed.label == "(2 * 4)"
  assert choice.agreement == pytest.approx(3 / 5)
  assert counts == sc.Counts(rows=1, samples=5)


def test_a_usable_rationale_comes_first():
  samples = [parsed("neutral", "", parsing.EMPTY_RATIONALE),
             parsed("neutral", "good")]
  choice = sc.choose(datasets.get("anli1"), datasets.Row("i", ""), samples,
                     sc.Counts())
  assert choice.parsed == samples[1]


@pytest.mark.parametrize("labels, gold, label, rationale, status", [
    (["neutral", "neutral"], "neutral", "neutral", "because 0", "ok"),
    (["entailment", "neutral", "entailment"], "neutral", "entailment",
     "because 1", "ok"),
    (["entailment", ""], "neutral", "entailment", "", sc.REJECTED),
    (["entailment"], "", "entailment", "because 0", "ok"),
])
def test_rejection_takes_rationales_and_leaves_labels(
    labels, gold, label, rationale, status):
  choice, counts = choose(labels, gold=gold, reject_wrong=True)
  assert choice.parsed == parsing.Parsed(rationale, label, status)
  assert counts.rejected_rows == (status == sc.REJECTED)
  assert counts.rejected_samples == sum(
      bool(gold) and bool(label) and label != gold for label in labels)
  # What the teacher says, and how sure it is, is the same without rejection.
  plain, _ = choose(labels, gold=gold)
  assert (plain.parsed.label, plain.agreement) == (label, choice.agreement)


@hypothesis.given(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1,
                           max_size=9), st.randoms())
@hypothesis.settings(max_examples=200, deadline=None)
def test_the_vote_does_not_depend_on_the_order(labels, random):
  shuffled = labels[:]
  random.shuffle(shuffled)
  first, counts = choose(labels, dataset="mine")
  second, counts_again = choose(shuffled, dataset="mine")
  assert first.agreement == second.agreement
  assert counts == counts_again
  if not counts.ties:
    assert first.parsed.label == second.parsed.label
  if first.parsed.label:
    assert labels.count(first.parsed.label) == max(
        labels.count(label) for label in "abc")
    assert first.agreement == pytest.approx(
        labels.count(first.parsed.label) / len(labels))
