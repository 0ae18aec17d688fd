"""Completions that are no chain of thought: read right, or refused by name."""

import json
import string

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.answers import answer_forms, parsing
from stepdistill_jax.records import datasets

CHOICES = ("park", "math problem", "gravity")


def read(form, output, dataset="mine", choices=()):
  parser = answer_forms.get_parser(datasets.get(dataset), form)
  parsed = parser(output, datasets.Row("i", "", choices=choices))
  return parsed.rationale, parsed.label, parsed.status


def answer(reason, choice):
  return json.dumps({"reason": reason, "answer_choice": choice})


@pytest.mark.parametrize("dataset, choice, label, status", [
    ("esnli", "neutral", "neutral", "ok"),
    ("esnli", "Neutral.", "neutral", "ok"),
    ("esnli", "maybe", "", parsing.LABEL_NOT_ALLOWED),
    ("cqa", "gravity", "gravity", "ok"),
    ("cqa", "(b) Math problem", "math problem", "ok"),
    ("cqa", "b", "math problem", "ok"),
    ("cqa", "f", "", parsing.LABEL_NOT_A_CHOICE),
    ("svamp", "(8 - 3)", "(8 - 3)", "ok"),
    ("svamp", "8 - x", "", "equation_unknown"),
    ("gsm8k", "18", "18", "ok"),
    ("gsm8k", 18, "18", "ok"),
    ("mine", "two\nlines", "two\nlines", "ok"),
    ("mine", True, "true", "ok"),
    ("mine", None, "", parsing.EMPTY_OUTPUT),
    ("mine", {"a": 1}, "", parsing.EMPTY_OUTPUT),
])
def test_json(dataset, choice, label, status):
  expected = ("why", label, status)
  text = answer("why", choice)
  assert read("json", text, dataset, CHOICES) == expected
  for around in ("```json\n%s\n```", "Sure! %s Hope that helps {}.",
                 '{"reason": "an example"} %s'):
    assert read("json", around % text, dataset, CHOICES) == expected


@pytest.mark.parametrize("output", [
    "I do not know.", '{"reason": "cut', "[1, 2]", '{"other": 5}',
    "{" * 10_000, '{"a": ' * 5000])
def test_what_is_not_json(output):
  assert read("json", output) == ("", "", answer_forms.NOT_JSON)


@pytest.mark.parametrize("output", [
    "Why. The answer is 5.", '{"answer": 5, "reasoning": "Why."}',
    "Why.\n\\boxed{5}"])
def test_other_keys_and_forms_where_json_was_asked_for(output):
  assert read("json", output) == ("Why.", "5", "ok")


def test_json_without_reason():
  assert read("json", '{"answer_choice": "x"}') == (
      "", "x", parsing.EMPTY_RATIONALE)
  assert read("json", " ") == ("", "", parsing.EMPTY_OUTPUT)


@pytest.mark.parametrize("output, dataset, label, status", [
    ("neutral", "anli1", "neutral", "ok"),
    ("Answer: Neutral.\n", "anli1", "neutral", "ok"),
    ("The answer is (c) gravity", "cqa", "gravity", "ok"),
    ("(a) park or (b) math problem", "cqa", "", parsing.SEVERAL_ANSWERS),
    ("(3 + 4)", "svamp", "(3 + 4)", "ok"),
    ("It depends.", "mine", "It depends.", "ok"),
    ("", "mine", "", parsing.EMPTY_OUTPUT),
])
def test_answers(output, dataset, label, status):
  assert read("answer", output, dataset, CHOICES) == ("", label, status)


def test_rationales_and_turns():
  assert read("rationale", " As it is. \n") == ("As it is.", "", "ok")
  assert read("turns", " Hello!\nHow are you? ") == (
      "", "Hello!\nHow are you?", "ok")
  for form in ("rationale", "turns"):
    assert read(form, " ") == ("", "", parsing.EMPTY_OUTPUT)


def _rounds(*summaries):
  return json.dumps({"rounds": [
      {"missing_entities": [], "summary": s} for s in summaries]})


def test_density():
  assert read("density", _rounds("a", "b", "c", "d")) == ("", "d", "ok")
  assert read("density", _rounds("a", "b", "c")) == (
      "", "", answer_forms.TOO_FEW_ROUNDS)
  assert read("density", _rounds("a", "b", " ", "d")) == (
      "", "", answer_forms.TOO_FEW_ROUNDS)
  assert read("density", '{"rounds": 4}') == ("", "", answer_forms.NOT_JSON)


@pytest.mark.parametrize("damage, rounds, status", [
    (lambda text: f"Here is the [JSON] list:\n{text}\nDone.", 5, "ok"),
    (lambda text: f"```json\n{text[:-1]},]\n```", 5, "ok"),
    (lambda text: str(json.loads(text)), 5, "ok"),
    (lambda text: text.replace("Tom's", "Tom\\'s"), 5, "ok"),
    (lambda text: text[:-1], 5, "ok"),
    # The answer ended at its most tokens, in the fifth summary.
    (lambda text: text[:-15], 5, answer_forms.TOO_FEW_ROUNDS),
    (lambda text: text[:text.rindex("{") + 5], 4, answer_forms.TOO_FEW_ROUNDS),
    (lambda text: "[]", 0, answer_forms.NOT_JSON)])
def test_published_lists_of_density_are_mended(damage, rounds, status):
  parser = answer_forms.get_parser(datasets.get("mine"), "density")
  text = json.dumps([{"Missing_Entities": "Tom", "Denser_Summary":
                      f"Tom's summary has {word} words."}
                     for word in ("two", "three", "four", "five", "six")])
  found = parser(damage(text), datasets.Row("", ""))
  assert found.status == status
  assert found.label == (
      "Tom's summary has six words." if status == "ok" else "")
  kept = json.loads(found.rounds or "[]")
  assert len(kept) == rounds
  assert all(r["summary"].startswith("Tom's summary") for r in kept)


def test_rounds_of_a_users_own_file_are_known_by_their_keys():
  rounds = _rounds("a", "b", "c", "d")
  for form, label, kept in (("chain_of_thought", "d", 4), ("message", "d", 4)):
    parser = answer_forms.get_parser(datasets.get("dialogsum"), form)
    found = parser(rounds, datasets.Row("", ""))
    assert (found.label, found.status) == (label, "ok")
    assert len(json.loads(found.rounds)) == kept
    cut = parser(rounds[:-30], datasets.Row("", ""))
    assert (cut.label, cut.status) == ("", answer_forms.TOO_FEW_ROUNDS)
    plain = parser("Tom said [sic] that he is late.", datasets.Row("", ""))
    assert plain.label == "Tom said [sic] that he is late."
    assert not plain.rounds


def test_every_round_of_density_is_kept():
  """Under the published keys, whose entities are one text."""
  parser = answer_forms.get_parser(datasets.get("mine"), "density")
  written = [("Ann Lee; 3,000 pears", "one"), (["May"], "two"), ("", "three")]
  asked = json.dumps([{"Missing_Entities": entities, "Denser_Summary": summary}
                      for entities, summary in written])
  kept = [{"missing_entities": ["Ann Lee", "3,000 pears"], "summary": "one"},
          {"missing_entities": ["May"], "summary": "two"},
          {"missing_entities": [], "summary": "three"}]
  found = parser(asked, datasets.Row("", ""))
  assert (found.label, found.status) == ("", answer_forms.TOO_FEW_ROUNDS)
  assert json.loads(found.rounds) == kept
  four = json.dumps([*json.loads(asked), {"Denser_Summary": "four"}])
  found = parser(four, datasets.Row("", ""))
  assert (found.label, found.status) == ("four", "ok")
  assert json.loads(found.rounds)[:3] == kept


@hypothesis.given(
    form=st.sampled_from([f for f in answer_forms.FORMS
                          if f != answer_forms.CHAIN_OF_THOUGHT]),
    dataset=st.sampled_from(["svamp", "cqa", "esnli", "gsm8k", "mine"]),
    output=st.one_of(
        st.text(string.printable + "é\u2028\ud800"),
        st.recursive(st.one_of(st.none(), st.text(max_size=5), st.integers()),
                     lambda x: st.one_of(st.lists(x), st.dictionaries(
                         st.sampled_from(["reason", "answer_choice", "rounds",
                                          "summary"]), x))).map(json.dumps)))
@hypothesis.settings(max_examples=300, deadline=None)
def test_parsers_never_raise(form, dataset, output):
  rationale, label, status = read(form, output, dataset, CHOICES)
  assert isinstance(rationale, str) and isinstance(label, str)
  assert status != "ok" or rationale or label
