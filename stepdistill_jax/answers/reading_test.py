"""What chat and reasoning models write: read whole, or refused by name."""

import dataclasses
import doctest
import json

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.answers import (
  cleaning,
  json_objects,
  kinds,
  numerals,
  parsing,
  reading,
  rules,
)
from stepdistill_jax.records import datasets

DESK = dataclasses.replace(
    datasets.own_dataset("desk"), label_kind=datasets.CLASS,
    labels=("loans", "new books", "no"), labels_guessed=True)
WORDS = datasets.own_dataset("words")
CHOICES = ("bank", "river bank", "sea", "new york")


def read(output, dataset=DESK, *, inputs="", choices=(), **options):
  if isinstance(dataset, str):
    dataset = datasets.get(dataset)
  return reading.read(
      dataset, output, datasets.Row(inputs, "", choices=choices), **options)


@pytest.mark.parametrize("module", [cleaning, json_objects, kinds, numerals])
def test_doctests(module):
  assert doctest.testmod(module).failed == 0


THINKING = [
    "<think>The answer is 12? No.</think>\n{}",
    "Maybe the answer is 11.\n</think>\n\n{}",
    "<thinking>So the answer is 3.</thinking>{}",
    "[THINK]The answer is 3.[/THINK]{}",
    "<mm:think>The answer is 3.</mm:think>{}",
    "<longcat_think>The answer is 3.</longcat_think>{}",
    "<think time='3'>The answer is 3.</think >{}",
    "<antThinking>The answer is 3.</antThinking>{}",
    "<start_of_think>The answer is 3.<end_of_think>{}",
    "<|thinking|>The answer is 3.<|/thinking|>{}",
    "<|channel>thought\nThe answer is 3.\n<channel|>{}",
    "Thinking...\nThe answer is 3.\n...done thinking.\n\n{}",
    "<think>The answer is 3.</think><response>{}</response>",
    "<|channel|>analysis<|message|>a < b, so the answer is 3.<|end|><|start|>"
    "assistant<|channel|>final <|constrain|>text<|message|>{}",
    "◁think▷The answer is 3.◁/think▷{}",
    "<|begin_of_thought|>The answer is 3.<|end_of_thought|>{}",
    "<|START_THINKING|>The answer is 3.<|END_THINKING|>{}",
    "<think>a</think> The answer is 3. <think>b</think>{}",
    "<|channel|>analysis<|message|>The answer is 3.<|end|><|start|>assistant"
    "<|channel|>final<|message|>{}<|return|>",
    "analysisThe answer is 3.assistantfinal{}",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
    "<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user The answer is 3.",
]


@pytest.mark.parametrize("around", THINKING)
def test_what_was_thought_is_no_answer(around):
  parsed = read(around.format("3 + 4 = 7. The answer is 7."), "gsm8k")
  assert (parsed.rationale, parsed.label) == ("3 + 4 = 7.", "7")
  assert bool(parsed.thinking) == ("thinking" in parsed.cleaned)


def test_thinking_as_the_rationale():
  text = "<think>Books are lent.</think>The answer is loans."
  assert read(text).rationale == "Books are lent."
  assert "thinking taken as rationale" in read(text).cleaned
  never = read(text, options=reading.Options(thinking="never"))
  assert (never.rationale, never.status) == ("", parsing.EMPTY_RATIONALE)
  text = text.replace("The", "Lent. The")
  assert read(text).rationale == "Lent."
  always = read(text, options=reading.Options(thinking="always"))
  assert (always.rationale, always.label) == ("Books are lent.", "loans")
  for cut in ("<think>The answer is loans.", "<think>loans</think>\n"):
    parsed = read(cut)
    assert (parsed.label, parsed.status) == ("", parsing.ONLY_THINKING)


NUMBERS = [
    (".5 cups.", "0.5"), ("$.75.", "0.75"), ("3/4 of the pie.", "3/4"),
    (r"\(\boxed{\frac{3}{4}}\).", "3/4"), (r"$\dfrac34$", "3/4"),
    ("1 1/2 hours.", "1.5"), ("1½ hours", "1.5"), ("½", "1/2"),
    ("48 + 24 = 72 clips.", "72"), ("−5 degrees.", "-5"), ("-$5", "-5"),
    ("+7", "7"), ("1.5 million dollars.", "1500000"), ("2 thousand", "2000"),
    (r"3 \times 10^3.", "3000"), ("3 x 10^{-2} m", "0.03"), ("1e3", "1000"),
    ("1{,}200.", "1200"), ("1 200 pages.", "1200"), ("1 200", "1200"),
    ("1,234,567.89", "1234567.89"), ("1.234,56", "1234.56"),
    ("1,00,000 rupees", "100000"), ("２３", "23"), ("25%", "25"),
    (r"25\%", "25"), ("€18", "18"), ("18kg", "18"), ("**18**", "18"),
    (r"\text{18 apples}", "18"), ("that she has 18 dollars left.", "18"),
    ("about 18", "18"), ("x = 18", "18"), ("18.00", "18.00"),
    ("(8 - 3)", "5"), ("3 + 4 apples", "7"), ("72. He sold 3 boxes.", "72"),
    ("minus 5", "-5"), ("that it is minus 5 degrees", "-5"),
    ("negative 5", "-5"), ("1 234,56 euros", "1234.56"), ("72, not 48", "72"),
    ("72 (48 + 24)", "72"), ("72, 24 more than 48", "72"),
    ("18 (18/2 = 9 each)", "18"), ("1.5 Million dollars", "1500000"),
    ("5 hundred thousand", "500000"), ("5 lakh", "500000"), ("٣", "3"),
    ("60 miles per hour", "60"), ("5 of the 10 apples", "5"),
    ("at least 5", "5"), ("no more than 5", "5"), ("the 3rd", "3"),
    ("3 pm", "3"), ("5 m^2", "5"), ("10 mg/kg", "10"), ("3 miles", "3"),
    ("5 times as many", "5"), ("$5 each", "5"), ("2 pairs", "2"),
    ("5 * (3 + 1)", "20"),
]
UNCLEAR = ["3,5 kilos.", "3-5 apples", "12:30", "5k", "1.2.3", "2^10", "3x",
           "1/0", "9" * 40, "1,2,3", r"\sqrt{16}", r"\boxed{3\sqrt{2}}",
           r"$\frac{\sqrt{3}}{2}$", r"25\pi", "2π", "5 √6", "1_000", "12万",
           "1-1/2 cups", "36 + 4√63", "1 1/2 + 2", "2201_3", "1 234,567",
           "3 of 4", "3 out of 4 apples", "5 (out of 10)", "5 stars out of 10",
           "page 5 of 10", "1/3 of 12", "25% of 80", "25 percent of 80",
           "half of 12", "twice 5", "5 squared", "5 times 3", "10 choose 2",
           "5 per 10", "60 miles per 2 hours", "3 : 4", "3 ~ 4", "3...4",
           "12 dozen", "2 thirds", "12 and a half", "two and 1/2", "5 bn",
           "1.5 M", "5 k", "3百", "not 5", "more than 5", "fewer than 10",
           ">5", "5+", "±3", "5 - 9", "about 5-6", "3:30 pm", "12/25/2024",
           "2024-12-25", "25 December 2024", "March 5, 2024", "555-1234",
           "(555) 123-4567", "-1 + √5", "square root of 16"]


@pytest.mark.parametrize("text, label", NUMBERS)
@pytest.mark.parametrize("around", [
    "Why not. The answer is {}", '{{"reasoning": "Why not.", "Answer": "{}"}}',
    "Why not.\n#### {}", "Why not.\n\nFinal Answer: {}"])
def test_numbers(text, label, around):
  if around.startswith("{{"):
    text = text.replace("\\", "\\\\")
  parsed = read(around.format(text), "gsm8k")
  assert (parsed.label, parsed.status) == (label, "ok")


@pytest.mark.parametrize("text", UNCLEAR)
def test_no_part_of_a_number(text):
  parsed = read(f"So it is. The answer is {text}", "gsm8k")
  assert (parsed.label, parsed.status) == ("", numerals.UNCLEAR)


def test_a_decimal_comma_where_the_rest_has_one():
  assert read("The answer is 3,5 kilos.", "gsm8k",
              inputs="7,25 + 1?").label == "3.5"
  assert read("Half of 7,0. The answer is 3,5.", "gsm8k").label == "3.5"
  assert not read("Half of 7.0. The answer is 3,5.", "gsm8k").label
  assert read("Ein Sack hat 2,5 kg. The answer is 1.500.", "gsm8k"
              ).label == "1500"
  assert read("A bag has 2.5 kg. The answer is 1.500.", "gsm8k"
              ).label == "1.500"


@pytest.mark.parametrize("text", [
    "3 or 4", "3 and 4 apples", "3 to 4", "between 3 and 4", "3, 4", "(3, 4)",
    r"\boxed{3, 4}", "3, 4, and 5 apples", "[3; 4]", "3 hours 20 minutes",
    "5 feet 3 inches", "5'3\"", "1 million 200 thousand", "3 6", "5 ft 3",
    "from 3 to 4", "3 apples, 4 pears", "x = 5 or x = 3", "x = 5, y = 3"])
def test_one_of_two_numbers(text):
  parsed = read(f"Hm. The answer is {text}.", "gsm8k")
  assert (parsed.label, parsed.status) == ("", parsing.SEVERAL_ANSWERS)


def test_dozens_where_they_are_asked_for():
  for asked, label in (("How many dozen eggs?", "12"), ("How many eggs?", "")):
    assert read("Hm. The answer is 12 dozen.", "gsm8k", inputs=asked
                ).label == label


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    first=st.integers(2, 60), second=st.integers(2, 60),
    between=st.sampled_from([
        " of ", " out of ", " in every ", " per ", " over ", ":", " : ",
        " versus ", " times ", " to ", " or ", " and ", " - minus ", "…", "^",
        " divided by ", "% of ", " mod ", ", ", " hours ", " ± ", "√", "_"]),
    lead=st.sampled_from([
        "The answer is {}.", "So it is {}.", '{{"answer": {}}}',
        "It comes to {}.", "#### {}"]))
def test_neither_of_two_numbers(first, second, between, lead):
  text = "Why not. " + lead.format(f"{first}{between}{second}")
  parsed = read(text, "gsm8k")
  assert (parsed.label, parsed.status) == ("", parsed.status) != ("", "ok")


DECORATED = [
    "**loans**.", "*loans*", "`loans`", '"loans".', "“loans”",
    r"\boxed{loans}.", r"$\boxed{\text{loans}}$", r"\text{Loans}", "LOANS",
    "[loans]",
    "lo\u00adans\u200b", "<b>loans</b>.", "&quot;loans&quot;",
    "loans. Let me know if you need more!", "loans.<|im_end|>", "loans.</s>",
    "loans<|eot_id|>", "\n\nloans\n\nI hope that helps.", ": loans",
    "_loans_", "loans, because books are lent"]


@pytest.mark.parametrize("text", DECORATED)
@pytest.mark.parametrize("lead", [
    "So the answer is ", "**So the answer is:** ", "The correct answer is ",
    "Therefore, the most likely answer is ", "\n\nAnswer: ", "\n### Answer\n",
    "\n\n**Final Answer:** ", "\n#### ", "Final Answer: The final answer is ",
    "Hm, so the answer is new books? No. The answer is ",
    "<answer>"])
def test_decorated_labels(lead, text):
  parsed = read(f"Books are lent. {lead}{text}")
  assert parsed.label == "loans"
  assert parsed.rationale.startswith("Books are lent.") and (
      "**" not in parsed.rationale and parsed.status == "ok")


@pytest.mark.parametrize("text, label, status", [
    ("loan", "", parsing.LABEL_NOT_SEEN), ("no", "no", "ok"),
    ("loansome", "", parsing.LABEL_NOT_SEEN),
    ("the new books desk", "new books", "ok"),
    ("not loans", "", parsing.LABEL_NOT_SEEN),
    ("loans or new books", "", parsing.SEVERAL_ANSWERS),
    ("loans and returns", "", parsing.LABEL_NOT_SEEN),
    ("I'm sorry, but I can't help.", "", parsing.LABEL_NOT_SEEN),
    ("no one knows", "", parsing.LABEL_NOT_SEEN),
    ("there is no answer", "", parsing.LABEL_NOT_SEEN),
    ("nobody", "", parsing.LABEL_NOT_SEEN),
    ("none", "", parsing.LABEL_NOT_SEEN),
    ("no, they have wings", "no", "ok"), ("no because it flies", "no", "ok"),
    ("a definite no", "no", "ok"), ("no doubt loans", "loans", "ok"),
    ("not necessarily loans", "", parsing.LABEL_NOT_SEEN),
    ("cannot be loans", "", parsing.LABEL_NOT_SEEN),
    ("anything but loans", "", parsing.LABEL_NOT_SEEN),
    ("far from loans", "", parsing.LABEL_NOT_SEEN),
    ("not sure, but loans", "loans", "ok"),
    ("it is unclear why, so loans", "loans", "ok"),
    ("neither loans nor no", "", parsing.SEVERAL_ANSWERS),
    ("loans, or no, depending", "", parsing.SEVERAL_ANSWERS)])
def test_half_a_word_is_no_label(text, label, status):
  parsed = read(f"Hm. The answer is {text}")
  assert (parsed.label, parsed.status) == (label, status)


@pytest.mark.parametrize("text, rationale, rule", [
    ("1. The correct answer is **loans**. Books are lent.", "Books are lent.",
     "answer first"),
    ("loans\n\nBooks are lent.", "Books are lent.", "answer first"),
    ("Books are lent. It goes to loans.",
     "Books are lent. It goes to loans.", "last sentence"),
    ("Books are lent.\nloans", "Books are lent.", "last sentence"),
    ('All books are lent, so: {"desk": 1, "answer": "loans"}',
     "All books are lent, so:", "json"),
    ("<reasoning>Books are lent.</reasoning>\n<answer>loans</answer>",
     "Books are lent.", "answer tag"),
    (r"Books are lent. \boxed{loans}", "Books are lent.", "boxed")])
def test_where_the_answer_stands(text, rationale, rule):
  parsed = read(text)
  assert (parsed.label, parsed.rule) == ("loans", rule)
  assert parsed.rationale.replace(" loans", "") == rationale.replace(
      " loans", "")


@pytest.mark.parametrize("labels, text, label", [
    (("0", "1"), "label 1", "1"), (("0", "1"), "-1", ""),
    (("0", "1"), "1.0", ""),
    (("0", "1"), "10", ""), (("A", "B"), "B, since A is wrong", "B"),
    (("A", "B"), "a tie", ""), (("A", "B"), "A", "A"),
    (("A", "B"), "option A", "A")])
def test_labels_that_are_parts_of_other_words(labels, text, label):
  dataset = dataclasses.replace(DESK, labels=labels)
  assert read(f"Hm. The answer is {text}.", dataset).label == label


def test_markers_of_ones_own():
  options = reading.Options(markers=("Verdict -",))
  parsed = read("Books are lent. verdict - loans", options=options)
  assert (parsed.label, parsed.rule) == ("loans", "Verdict -")
  assert read("Lent. verdict - ring", WORDS, options=options).label == "ring"
  assert read("Lent. verdict - ring", WORDS).status == parsing.NO_MARKER


@pytest.mark.parametrize("text, label, status", [
    ("(b)", "river bank", "ok"), ("B", "river bank", "ok"),
    ("**(B) river bank**", "river bank", "ok"), ("Option D.", "new york", "ok"),
    ("D. new york", "new york", "ok"), ("the river bank", "river bank", "ok"),
    ("(b) river bank, as it is wet", "river bank", "ok"),
    ("(a) sea", "", parsing.SEVERAL_ANSWERS),
    ("sea (b)", "", parsing.SEVERAL_ANSWERS), ("sea (c)", "sea", "ok"),
    ("anything but sea", "", parsing.LABEL_NOT_A_CHOICE),
    ("(a) or (b)", "", parsing.SEVERAL_ANSWERS),
    ("bank or sea", "", parsing.SEVERAL_ANSWERS),
    ("(z)", "", parsing.LABEL_NOT_A_CHOICE),
    ("a lake", "", parsing.LABEL_NOT_A_CHOICE)])
def test_choices(text, label, status):
  parsed = read(f"It is wet. The answer is {text}", "cqa", choices=CHOICES)
  assert (parsed.label, parsed.status) == (label, status)


@pytest.mark.parametrize("text", [
    "8 - 3 = 5.", "8 - 3 = 5 apples.", "8 - 3 apples.", "**8 - 3**.",
    r"\(8 - 3\).", "8 − 3.", "[8 - 3].", "x = 8 - 3.", r"\boxed{8 - 3}"])
def test_equations(text):
  parsed = read(f"Take away. The answer is {text}", "svamp")
  assert (parsed.label, parsed.rationale) == ("8 - 3", "Take away.")


@pytest.mark.parametrize("text", ["8 × 3.", "8 x 3.", r"\(8 \times 3\).",
                                  "8 · 3"])
def test_products(text):
  assert read(f"Times. The answer is {text}", "svamp").label == "8 * 3"


JSON = [
    '{"reason": "R %s.", "answer_choice": "loans"}',
    '```json\n{"reasoning": "R %s.", "answer": "loans",}\n```',
    "{'Rationale': 'R %s.', 'Final Answer': 'loans'}",
    'Sure! {"reason": "R %s.",\n "ANSWER": "**loans**"} Hope that helps.',
    '{"reason": "an example", "answer": "no"} {"reason": "R %s.", '
    '"answer": "loans"}',
    '{"reason": "R %s.", "answer": "loans"']


@pytest.mark.parametrize("form", JSON)
@pytest.mark.parametrize("latex", [
    r"\frac{1}{2} \times 6", r"\(6\)", r"\boxed{3}", r"\text{a} \neq \theta",
    "two\nlines"])
def test_json(form, latex):
  parsed = read(form % latex)
  assert (parsed.label, parsed.rule) == ("loans", "json")
  assert parsed.rationale == f"R {latex}."


@pytest.mark.parametrize("value, label", [
    ("3 + 4", "7"), ("1/2", "1/2"), ("1,200", "1200"), ("$18", "18"),
    ("18 apples", "18"), (".5", "0.5"), ("18 // dollars", "18"),
    (r"\frac{1}{2}", "1/2"), (r"\boxed{7}", "7"), ("16 - 3 - 4 = 9", "9"),
    ("3 × 10^2", "300"), ("−5", "-5"), ('{"value": 7}', "7"), ("null", ""),
    ('{"answer": "7"}', "7"), ("12:30", ""), ("[3, 4]", ""), ("3 +", "")])
def test_json_values_without_quotation_marks(value, label):
  for form in ('{"reason": "Is it, a: 3 + 4?", "answer": %s}',
               '{"answer": %s, "reason": "Is it, a: 3 + 4?"}',
               '{reason: "Is it, a: 3 + 4?",\nanswer: %s\n}'):
    if "//" in value:
      form = form.replace("%s", "%s\n")
    parsed = read(form % value, "gsm8k")
    assert (parsed.label, parsed.rule, parsed.rationale) == (
        label, "json", "Is it, a: 3 + 4?")
  cut = parsing.cut_at_limit(read('{"reason": "a", "answer": 12', "gsm8k"))
  assert (cut.label, cut.status) == ("", parsing.TRUNCATED)


def test_json_within_json():
  inner = json.dumps({"reason": 'Books "are" lent.', "answer": "loans"})
  for text in (json.dumps(inner), f"Sure: {json.dumps(inner)}",
               json.dumps({"answer": inner}), json.dumps({"response": inner}),
               inner.replace('\\"', "'").replace('"', '\\"')):
    parsed = read(text)
    assert (parsed.label, parsed.rationale.replace("'", '"'), parsed.rule) == (
        "loans", 'Books "are" lent.', "json")
  steps = [{"explanation": "Lend.", "output": "books"}, {"output": "Done."}]
  parsed = read(json.dumps({"steps": steps, "final_answer": "loans"}))
  assert (parsed.label, parsed.rationale) == ("loans", "Lend. books\nDone.")


@pytest.mark.parametrize("output, cut", [
    ("Lent. So the answer is loans", True),
    ("Lent. The answer is loans.", False),
    ('{"reason": "a", "answer": "loans', True),
    ('{"reason": "a", "answer": "loans"', False),
    ('{"answer": "loans", "reason": "a', False)])
def test_a_label_that_may_be_cut(output, cut):
  parsed = parsing.cut_at_limit(read(output))
  assert (parsed.label, parsed.status == parsing.TRUNCATED) == (
      ("", True) if cut else ("loans", False))
  twelve = parsing.cut_at_limit(read("So. The answer is 12.", "gsm8k"))
  assert (twelve.label, twelve.status) == ("", parsing.TRUNCATED)


_AROUND = st.sampled_from([
    "{}", "**{}**", "`{}`", '"{}"', r"\boxed{{{}}}", "${}$", r"\({}\)", "*{}*",
    r"\text{{{}}}", "“{}”"])
_LEADS = st.sampled_from([
    "The answer is {}", "So the final answer is: {}", "Answer: {}", "#### {}",
    "**Answer:** {}", "<answer>{}</answer>", "Final answer:\n\n{}"])
_FRAMES = st.sampled_from([
    "{}", "{}.", "{}<|im_end|>", "<think>The answer is no.</think>{}",
    "{}\n\nLet me know if you need more!", "```\n{}\n```", "{}</s>"])


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    answer=st.sampled_from([
        ("loans", DESK), ("new books", DESK), ("12", "gsm8k"), ("3/4", "gsm8k"),
        ("-0.5", "gsm8k"), ("1200", "gsm8k"), ("neutral", "anli1"),
        ("sea", "cqa"), ("8 - 3", "svamp"), ("wedding ring", WORDS)]),
    inner=_AROUND, outer=_AROUND, lead=_LEADS, frame=_FRAMES)
def test_a_known_answer_in_any_decoration(answer, inner, outer, lead, frame):
  label, dataset = answer
  text = frame.format("Here is why.\n" + lead.format(
      outer.format(inner.format(label))))
  parsed = read(text, dataset, choices=CHOICES)
  assert (parsed.label, parsed.rationale) == (label, "Here is why.")


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(st.sampled_from(
    list("0123456789.,/-+ $%e^:x") + ["million", "and", "½", "−", "\u2009"]),
    max_size=12).map("".join))
def test_a_number_is_whole_or_none(text):
  for number in numerals.find(numerals.normalize(text)):
    if number.value is not None:
      (again,) = numerals.find(number.text)
      assert again.value == number.value


def test_published_completions_have_one_marker():
  parser = rules.get_parser(datasets.get("svamp"), "strict", rules.PUBLISHED)
  row = datasets.Row("", "")
  assert parser("So. The answer is (3 + 4).\n\nQ: x", row).label == "(3 + 4)"
  assert parser("So.\n#### (3 + 4)", row).status == parsing.NO_MARKER


@pytest.mark.parametrize("text", [
    "not (a)", "not bank", "not A.", "neither"])
def test_a_denied_choice_is_no_answer(text):
  parsed = read(f"Water. The answer is {text}", "cqa", choices=CHOICES)
  assert (parsed.label, parsed.status) == ("", parsing.LABEL_NOT_A_CHOICE)


def test_a_negated_label_is_another_word():
  parsed = read("Cards. So the answer is non-loans.")
  assert (parsed.label, parsed.status) == ("", parsing.LABEL_NOT_SEEN)


def test_an_answer_under_other_keys():
  for key in ("category", "finalAnswer", "Class", "output", "correct answer"):
    parsed = read(json.dumps({"reason": "Lent.", key: "loans"}))
    assert (parsed.label, parsed.rationale) == ("loans", "Lent.")


def test_reasons_under_other_keys():
  for key in ("thinking", "justification", "step by step"):
    text = f'{{"{key}": "Books are lent.", "answer": "loans"}}'
    assert read(text).rationale == "Books are lent."


@pytest.mark.parametrize("text, label", [
    ("1.5 million", "1500000"), ("18 apples", "18"),
    ("So the total is 18 apples.\n\n---\n*Note: 3 are red.*", "18"),
    ("1) 11 + 7 = 18\n2) So 18 apples.", "18"), ("&#49;8", "18"),
    ("15 red fish and 3 blue fish.", ""), ("So he has 18 (11 + 7).", "18"),
    ("So 11 + 7 = 18 apples", "18"), ("She has 11 and buys 7 more, so", "")])
def test_an_answer_alone_needs_no_stop(text, label):
  assert read(text, "gsm8k").label == label
