"""Tests of the benchmark table."""

import pytest

from stepdistill_jax.answers import benchmarks
from stepdistill_jax.util import errors

CQA = "Where?\nAnswer Choices:\n(a) at home\n(b) away\n(c) Rome\n(d) b\n(e) x"


def _judge(name, prediction, label, **kwargs):
  return benchmarks.get(name).judge(prediction, label, **kwargs)


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
@pytest.mark.parametrize("rules", ["strict", "reference"])
def test_gold_is_correct_and_empty_is_unparsable(name, rules):
  kind = benchmarks.get(name).kind
  label = {"equation": "( 8.0 - 3.0 )", "number": "#### 1,234",
           "choice": "away", "class": "contradiction", "text": "kitchen",
           "summary": "A man left.", "conversation": "Hello there."}[kind]
  if kind == "choice" and benchmarks.get(name).labels:  # Letters.
    label = benchmarks.get(name).labels[-1]
  inputs = CQA if kind == "choice" else "question"
  assert _judge(name, label, label, inputs=inputs, rules=rules).correct
  for nothing in ("", " ", "\n"):
    judged = _judge(name, nothing, label, inputs=inputs, rules=rules)
    assert not judged.correct
    assert judged.parsed is None or rules == "reference"


def test_rules_differ_where_they_should():
  assert _judge("anli1", " Neutral.", "neutral").correct
  assert not _judge("anli1", " Neutral.", "neutral", rules="reference").correct
  assert _judge("cqa", "(b) Away", "away", inputs=CQA).correct
  reference = _judge("cqa", "Away", "away", inputs=CQA, rules="reference")
  assert not reference.correct and reference.parsed is None


def test_cqa_readings():
  judged = _judge("cqa", "Away", "away", inputs=CQA)
  assert judged.variants == {
      "exact_text": False, "case_insensitive": True, "letter": True}
  judged = _judge("cqa", "(c)", "Rome", inputs=CQA)
  assert judged.variants == {
      "exact_text": False, "case_insensitive": False, "letter": True}


def test_svamp_by_value():
  assert _judge("svamp", "(84 / 2)", "( 84.0 / 2.0 )",
                rules="reference").correct
  assert _judge("svamp", "42", "( 84.0 / 2.0 )").correct
  assert _judge("svamp", "(84 / 3)", "( 84.0 / 2.0 )").parsed == "28"
  # A gold label without a value makes nothing right.
  assert not _judge("svamp", "x", "x").correct


def test_free_text():
  assert _judge("esnli", "They hug. So the answer is neutral.", "neutral",
                free_text=True).correct
  assert _judge("svamp", "8 - 3 = 5, so the answer is 5.", "( 8.0 - 3.0 )",
                free_text=True).correct
  assert _judge("cqa", "At home? No: answer: (b)", "away", inputs=CQA,
                free_text=True).correct
  unmarked = _judge("svamp", "8 - 3 = 5", "( 8.0 - 3.0 )", free_text=True)
  assert unmarked.parsed is None and not unmarked.correct


def test_names():
  everything = benchmarks.parse_names("all", own=["mine"])
  assert benchmarks.parse_names("cqa, all", own=["mine"]) == [
      benchmarks.get("cqa"), *(b for b in everything if b.name != "cqa")]
  assert [b.name for b in benchmarks.parse_names("cqa, svamp,cqa")] == [
      "cqa", "svamp"]
  assert len(benchmarks.parse_names("all")) == len(benchmarks.BENCHMARKS)
  with pytest.raises(errors.UserError, match="did you mean: svamp"):
    benchmarks.parse_names("svmap")
  with pytest.raises(errors.UserError, match="is empty"):
    benchmarks.parse_names(" , ")
