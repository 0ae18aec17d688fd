"""Metrics of free texts against their packages, and the rule of entities."""

import json

import pytest
from rouge_score import rouge_scorer
import sacrebleu

from stepdistill_jax.answers import metrics, text_metrics
from stepdistill_jax.records import datasets
from tests.support import real_data

LABEL = "Mr. Brown offers Mrs. Wang a reduction of 5%."
TEXT = "Mr. Brown offered a 5% reduction today."


def test_they_are_the_packages_values():
  scores = text_metrics.score(datasets.SUMMARY, [LABEL], TEXT)
  expected = rouge_scorer.RougeScorer(
      ["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(LABEL, TEXT)
  assert {name: scores[name] for name in expected} == {
      name: value.fmeasure for name, value in expected.items()}
  assert 100 * scores["chrf"] == pytest.approx(
      sacrebleu.sentence_chrf(TEXT, [LABEL]).score)
  assert scores["words"] == 7.0


def test_a_text_that_goes_on_is_not_worth_nothing():
  """An exact match would give 0; ROUGE-L F1 is 2PR/(P+R)."""
  longer = text_metrics.score(datasets.SUMMARY, [TEXT], TEXT + " today.")
  assert longer["rougeL"] == pytest.approx(2 * 7 / (7 + 8))
  (metric,) = metrics.label_metric_fns(
      "mine", spec=lambda: datasets.Dataset("mine", datasets.SUMMARY, None))
  found = metric([TEXT], [TEXT + " today."])
  assert found["accuracy"] == 0 and found["rougeL"] == longer["rougeL"]


def test_of_several_references_the_best_and_the_mean():
  found = text_metrics.score(datasets.SUMMARY, [LABEL, TEXT], TEXT)
  one = text_metrics.score(datasets.SUMMARY, [LABEL], TEXT)
  assert found["rouge1"] == found["chrf"] == 1
  assert found["rouge1_mean"] == pytest.approx((1 + one["rouge1"]) / 2)
  assert "rouge1_mean" not in one


def test_without_a_label_nothing_is_compared():
  assert text_metrics.score(datasets.CONVERSATION, (), "Hello there.") == {
      "words": 2.0, "repetition": 0.0, "refusal": 0.0}


@pytest.mark.parametrize("text, expected", [
    ("a b c d", 0.0), ("a b c", 0.0), ("", 0.0),
    # Five of ten 4-grams, of which the first five are new.
    ("one two three four five one two three four five one two three", 0.5),
])
def test_repetition_counts_4_grams_seen_before(text, expected):
  assert text_metrics.repetition(text) == pytest.approx(expected)


@pytest.mark.parametrize("text, expected", [
    ("I'm sorry, but I can't help with that.", 1.0),
    ("I cannot provide instructions for this.", 1.0),
    ("As an AI language model, I have no opinion.", 1.0),
    ("Sure! You can't go wrong with pasta.", 0.0),
    ("As an AI assistant, I don't have experiences.", 1.0),
    ("As an AI language model, I try to use a range of words.", 0.0),
    ("I'm sorry to hear that. What happened?", 0.0),
    ("I'm sorry for your loss.", 0.0),
    ("I can help you write a letter.", 0.0), ("", 0.0)])
def test_refusals(text, expected):
  assert text_metrics.refusal(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("Mrs. Wang met Mr. Brown in New York on May 4.",
     {"mrs. wang", "mr. brown", "new york", "may 4"}),
    ("#Person1# lends #Person2# $20. He is glad.",
     {"#person1#", "#person2#", "$20"}),
    ("The man left. Maria's dog stayed for three days.", {"maria", "three"}),
    ("I'm late. I've met Tom. Didn't Ann? Don't go, we won't. Can't he?",
     {"tom", "ann"}),
    ("Émile and Øystein met Иван in Århus.",
     {"émile", "øystein", "иван", "århus"}),
    ("", set())])
def test_entities_by_rule(text, expected):
  assert text_metrics.entities_by_rule(text) == expected


def test_entities_of_real_summaries():
  """Counted by hand in 20 summaries that the rule was not made with."""
  by_hand = [1, 2, 2, 5, 2, 3, 2, 6, 3, 2, 2, 2, 3, 3, 3, 2, 6, 2, 2, 2]
  path = real_data.real_data_dir() / "seed2/dialogsum/dialogsum.dev.jsonl"
  lines = path.read_text("utf-8").splitlines()[10::25]
  found = [len(text_metrics.entities_by_rule(json.loads(line)["summary"]))
           for line in lines]
  # "DJ", and "U.S." as two: 57 entities for 55.
  assert sum(abs(a - b) for a, b in zip(found, by_hand, strict=True)) == 2
