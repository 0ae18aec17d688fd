"""Tests of answers: what is read, what is not, and that nothing is run."""

import doctest

from hypothesis import given, strategies as st
import pytest

from stepdistill_jax.answers import (
  answer_matching as answers,
  arithmetic,
  benchmarks,
  rules,
)
from stepdistill_jax.records import datasets
from stepdistill_jax.util import errors

CHOICES = ("bank", "river bank", "sea", "Sea")


def test_doctests():
  assert doctest.testmod(answers).failed == 0


@pytest.mark.parametrize("text, value", [
    ("( 8.0 - 3.0 )", 5), ("(10/4)", 2.5), (" 7 ", 7), ("1and", None),
    ("( 8 - 3", None), ("(175, 5)", None), ("2 ** 3", None), ("x", None),
    ("", None), ("1 / 0", None), ("3 and 4", None), ("'a' * 3", None),
    ("9" * 999 + "." , None), ("(" * 400 + "1" + ")" * 400, None),
    ("__import__('os')", None), ("True", None), ("[1][0]", None)])
def test_reference_value(text, value):
  assert answers.reference_value(text) == value


@given(st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: f"( {t[0]} {t[1]} {t[2]} )"), max_leaves=8))
def test_values_equal_python_and_each_other(text):
  """Our own texts are safe to evaluate: that is what the papers' code does."""
  try:
    expected = eval(text)
  except ZeroDivisionError:
    expected = None
  assert answers.reference_value(text) == expected
  strict = arithmetic.value_or_none(text)
  if strict is None or expected is None:
    # Rounding can hide a division by an exact zero, or make one.
    assert expected is None or strict is None
  else:
    assert float(strict) == pytest.approx(expected)


@given(st.text())
def test_no_reader_raises(text):
  answers.last_number(text)
  answers.read_letter(text, CHOICES)
  answers.find_label(text, CHOICES)
  answers.read_choices(text)
  answers.answer_part(text)


def judge(name, text, label, inputs=""):
  return benchmarks.get(name).judge(text, label, inputs=inputs)


@pytest.mark.parametrize("text, value", [
    ("$1,200 + 4", "1204"), ("8 - 3 = 5", "5"), ("5 apples", "5"),
    ("x apples", None)])
def test_strict_equations(text, value):
  assert judge("svamp", text, "(1 + 1)").parsed == value


@pytest.mark.parametrize("text, choice", [
    ("bank", "bank"), (" River  bank. ", "river bank"), ("(c) sea", "sea"),
    ("(b)", "river bank"), ("c", "sea"), ("(a) sea", None), ("(e)", None),
    ("lake", None), ("", None)])
def test_choices(text, choice):
  inputs = datasets.cqa_inputs("Where?", CHOICES)
  assert judge("cqa", text, "bank", inputs).parsed == choice


@pytest.mark.parametrize("text, label", [
    ("So the answer is neutral.", "neutral"),
    ("It may be neutral or not. So the answer is contradiction",
     "contradiction"),
    ("neutral or entailment", "entailment"),  # The one that it ends on.
    ("entailment, not neutral by any means", None),
    ("neutrality", None), ("", None)])
def test_find_label(text, label):
  assert answers.find_label(text, datasets.NLI_LABELS) == label


def test_nested_names_count_once():
  assert answers.find_label("he sat by the river bank", CHOICES[:2]) == (
      "river bank")


@pytest.mark.parametrize("text, value", [
    ("#### 1,234", "1234"), ("8 apples #### -3\n", "-3"), ("7", "7"),
    ("she has $2.50 left. The answer is 2.50.", "2.5"), ("", None)])
def test_numbers(text, value):
  assert judge("gsm8k", text, "1").parsed == value


def test_unknown_rules():
  with pytest.raises(errors.UserError, match="did you mean: strict"):
    rules.check_rules("stirct")
