"""Imports of a user's own data: kinds, prompts, and what models wrote."""

import json
import shlex

import pytest

from stepdistill_jax.answers import labels as labels_lib, parsing, reading
from stepdistill_jax.cli import stepdistill, stepdistill_eval
from stepdistill_jax.evaluation import examples, teacher_cache
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import formats, row_inputs, tables
from stepdistill_jax.util import errors


def imported(tmp_path, rows, columns, dataset="mine", **options):
  path = tmp_path / "test.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  result = tables.import_columns(
      dataset=dataset, outputs=path, columns=columns, teacher="t",
      output=tmp_path / "r", **options)
  return result, sorted(
      records.read_records(tmp_path / "r", dataset, "t", "test"),
      key=lambda record: int(record.origin.split("[")[1][:-1]))


def answered(tmp_path, lines, dataset="mine", reads=None, **options):
  """Imports a cache of (label, output, fields of its line)."""
  with completions.cache_writer(
      tmp_path / "c", teacher="t", dataset=dataset, split="test") as writer:
    for i, (label, output, fields) in enumerate(lines):
      writer.append(completions.Completion(
          str(i), {"inputs": f"row {i}", "label": label}, output, **fields))
  if reads:
    manifest = tmp_path / "c" / "manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "reads": reads}))
  result = formats.import_cache(
      tmp_path / "c", output=tmp_path / "r", **options)
  return result, list(
      records.read_records(tmp_path / "r", dataset, "t", "test"))


@pytest.mark.parametrize("labels, kind", [
    (["1", "1,200", "-3.5"], datasets.NUMBER),
    (["( 8.0 - 3.0 )", "2 * 4"], datasets.EQUATION),
    (["yes", "no", "Yes", "no"], datasets.CLASS),
    (["Paris", "a wedding ring", "two"], datasets.TEXT),
    ([" ".join(["word"] * 40), " ".join(["other"] * 30)], datasets.SUMMARY),
    ([], datasets.TEXT)])
def test_a_kind_is_guessed(labels, kind):
  assert labels_lib.guess_kind(labels, ["Which?"] * len(labels)) == kind


ROWS = [{"q": f"May I keep book {i}?", "desk": desk, "out": out}
        for i, (desk, out) in enumerate([
            ("loans", "Lent. So the answer is **Loans**."),
            ("loans", "<think>events? no</think>Lent. Answer: loans"),
            ("Events", "A talk. So the answer is events."),
            ("events", "So the answer is returns."),
            ("events", "I do not know."),
            ("events", '{"reason": "A talk.", "answer": "events"}')])]
COLUMNS = {"inputs": "q", "label": "desk", "output": "out"}


def test_a_closed_set_is_guessed_said_and_kept(tmp_path):
  result, found = imported(tmp_path, ROWS, COLUMNS)
  assert result.info["kind"] == "class"
  assert result.info["labels"] == ["events", "loans"]
  assert "guessed from 6 human labels" in result.info["notes"][0]
  assert [r.teacher_label for r in found] == [
      "loans", "loans", "events", "", "", "events"]
  assert [r.status for r in found] == [
      "ok", "ok", "ok", parsing.LABEL_NOT_SEEN, parsing.NO_MARKER, "ok"]
  assert [r.rule for r in found] == [
      "answer is", "answer:", "answer is", "answer is", "", "json"]
  assert found[1].thinking == "events? no"
  counts = result.info["sources"]["test"]["rules"]["strict"]
  assert counts["correct"] == 4
  assert {name: entry["count"] for name, entry in counts["read_by"].items()
          } == {"answer is": 2, "answer:": 1, "json": 1}
  assert {name: entry["count"] for name, entry in counts["cleaned"].items()
          } == {"bold": 1, "thinking": 1}
  assert "book" not in counts["read_by"]["json"]["examples"][0]
  assert "A talk." in counts["read_by"]["json"]["examples"][0]
  spec = examples.load("mine", "test", records_dir=tmp_path / "r").spec
  assert spec.kind == datasets.CLASS
  assert spec.judge("It is for **Events**, I think.", "events").correct
  assert spec.judge("loans or events", "events").parsed is None


@pytest.mark.parametrize("options, label, status", [
    ({"kind": "text"}, "returns", parsing.EMPTY_RATIONALE),
    ({"kind": "class"}, "", parsing.LABEL_NOT_ALLOWED),
    ({"labels": ("loans", "events", "returns")}, "returns",
     parsing.EMPTY_RATIONALE)])
def test_a_kind_is_chosen(tmp_path, options, label, status):
  _, found = imported(tmp_path, ROWS, COLUMNS, **options)
  assert (found[3].teacher_label, found[3].status) == (label, status)
  assert found[0].teacher_label == "loans"  # As the human label is spelled.


@pytest.mark.parametrize("options, message", [
    ({"kind": "clas"}, "did you mean: class"),
    ({"kind": "number", "labels": ("a",)}, "--labels are of --kind=class"),
    ({"kind": "text", "dataset": "gsm8k"}, "of gsm8k are of kind number")])
def test_wrong_kinds(tmp_path, options, message):
  with pytest.raises(errors.UserError, match=message):
    imported(tmp_path, ROWS, COLUMNS, **options)


def test_a_marker_is_kept_for_scores(tmp_path):
  rows = [{"q": "Which?", "desk": "ring", "out": "Hm. Verdict - ring."},
          {"q": "Who?", "desk": "ann", "out": "Hm. Verdict - bob."}]
  _, found = imported(tmp_path, rows, COLUMNS,
                      reading=reading.Options(markers=("verdict -",)))
  assert [(r.teacher_label, r.rule) for r in found] == [
      ("ring", "verdict -"), ("bob", "verdict -")]
  spec = examples.load("mine", "test", records_dir=tmp_path / "r").spec
  assert spec.judge(rows[0]["out"], "ring").correct
  assert not spec.judge(rows[1]["out"], "ann").correct


def test_letters_stay_letters(tmp_path):
  rows = [{"q": f"Which {i}?\nA) here\nB) there", "desk": "B", "out": out}
          for i, out in enumerate([
              "Hm. The answer is (B).", "Hm. Answer: there",
              "Hm.\n**A) here**", "(A) or (B)"])]
  result, found = imported(tmp_path, rows, COLUMNS)
  assert result.info["kind"] == "choice"
  assert [r.teacher_label for r in found] == ["B", "B", "A", ""]
  spec = examples.load("mine", "test", records_dir=tmp_path / "r").spec
  assert spec.judge("b", "B", inputs=rows[0]["q"]).correct
  assert not spec.judge("here", "B", inputs=rows[0]["q"]).correct


@pytest.mark.parametrize("gold, labels", [
    ("A, C", ["A, C", "A, C", "", "B"]),
    ("here, not here", ["here, not here", "here, not here", "", "there"])])
def test_several_choices(tmp_path, gold, labels):
  rows = [{"q": f"Which {i}?\nA) here\nB) there\nC) not here", "desk": gold,
           "out": out} for i, out in enumerate([
               "Hm. The answer is (C) and (A).", "Hm. Answer: here, not here",
               "Hm. The answer is A and nowhere.", "Hm. The answer is **B**."])]
  result, found = imported(tmp_path, rows, COLUMNS)
  assert result.info["kind"] == "choices"
  assert [r.teacher_label for r in found] == labels
  assert result.info["sources"]["test"]["rules"]["strict"]["correct"] == 2
  spec = examples.load("mine", "test", records_dir=tmp_path / "r").spec
  assert spec.judge("C, A", gold, inputs=rows[0]["q"]).correct
  assert not spec.judge("A", gold, inputs=rows[0]["q"]).correct


def test_a_known_data_sets_own_label_column(tmp_path):
  rows = [{"q": "2 + 2?", "desk": "2+2=<<2+2=4>>4.\n#### 4",
           "out": "2 + 2 = 4. The answer is 4."},
          {"q": "3 + 3?", "desk": "six", "out": "The answer is 6."}]
  result, found = imported(tmp_path, rows, COLUMNS, "gsm8k")
  assert [r.label for r in found] == ["4", "six"]
  source = result.info["sources"]["test"]
  assert source["rules"]["strict"]["correct"] == 1
  assert source["human_labels"]["equation_unknown"]["count"] == 1


def test_labels_of_another_data_set_are_refused(tmp_path):
  rows = [{"q": f"{i} + 2?", "desk": "loans", "out": f"The answer is {i}."}
          for i in range(3)]
  with pytest.raises(errors.UserError, match=(
      "none of the 3 human labels is one of gsm8k's .3 equation_unknown")):
    imported(tmp_path, rows, COLUMNS, "gsm8k")


def test_a_template_of_several_columns(tmp_path):
  rows = [{"title": "Hi", "body": "Lost book", "desk": "loans"}]
  columns = {"label": "desk", "teacher_label": "desk"}
  _, found = imported(tmp_path, rows, columns, template="{title}\\n{body}!")
  assert found[0].inputs == "Hi\nLost book!"
  with pytest.raises(errors.UserError, match="did you mean: title"):
    imported(tmp_path, rows, columns, template="{titel}")
  with pytest.raises(errors.UserError, match="one of inputs and --template"):
    imported(tmp_path, rows, {**columns, "inputs": "body"}, template="{title}")


def conversation(*turns):
  return [{"role": role, "content": content} for role, content in turns]


MESSAGES = [
    {"messages": conversation(
        ("system", "One word."), ("user", f"Say which.\nPremise: {p}\nGo."),
        ("assistant", answer)), "gold": gold}
    for p, answer, gold in (("a", "Yes.", "yes"), ("b", "**no**", "no"),
                            ("c", "<think>no?</think>yes", "yes"),
                            ("d", "Maybe", "no"))]


@pytest.mark.parametrize("prompt, inputs", [
    ("user", "Say which.\nPremise: a\nGo."), ("short", "Premise: a"),
    ("full", "One word.\nSay which.\nPremise: a\nGo.")])
def test_rows_of_messages(tmp_path, prompt, inputs):
  _, found = imported(
      tmp_path, MESSAGES, {"messages": "messages", "label": "gold"},
      student_prompt=prompt)
  assert found[0].inputs == inputs
  assert [r.teacher_label for r in found] == ["yes", "no", "yes", ""]


def test_conversations(tmp_path):
  rows = [{"messages": conversation(
      ("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?"),
      ("assistant", "A model. The answer is 5.\nReally."))},
          {"messages": "none"}]
  result, found = imported(
      tmp_path, rows, {"messages": "messages"}, kind="conversation")
  (record,) = found
  assert record.inputs == "user: Hi\nassistant: Hello!\nuser: Who are you?"
  assert record.teacher_label == "A model. The answer is 5.\nReally."
  assert result.info["sources"]["test"]["dropped"][
      "messages_not_a_conversation"]["count"] == 1


def test_what_prompts_share():
  assert row_inputs.shared_ends(["A\nx\nB", "A\ny\nB"]) == ("A\n", "\nB")
  assert row_inputs.shared_ends(["Ab", "Ac"]) == ("", "")
  assert row_inputs.shared_ends(["A", "A"]) == ("", "")


LINES = [
    ("loans", "So the answer is loans.", {}),
    ("loans", "Lent. So the answer is loan", {"finish_reason": "length"}),
    ("loans", "Lent. So the answer is loans.", {"finish_reason": "length"}),
    ("loans", "I'm sorry, I can't help with that.", {}),
]


def test_a_cut_label_and_a_refusal(tmp_path):
  _, found = answered(tmp_path, LINES)
  assert [(r.teacher_label, r.status) for r in found] == [
      ("loans", parsing.EMPTY_RATIONALE), ("", parsing.TRUNCATED),
      ("loans", "ok"), ("", parsing.NO_MARKER)]


def test_where_the_label_alone_was_asked_for(tmp_path):
  lines = [("loans", "<think>events?</think>\nloans", {}),
           ("loans", "loan", {"finish_reason": "length"}), LINES[3],
           ("loans", "**Loans**", {})]
  _, found = answered(tmp_path, lines, reads="answer")
  assert [(r.teacher_label, r.status, r.rationale) for r in found] == [
      ("loans", "ok", ""), ("", parsing.TRUNCATED, ""),
      ("", parsing.LABEL_NOT_SEEN, ""), ("loans", "ok", "")]


@pytest.mark.parametrize("key", ["thinking", "reasoning"])
@pytest.mark.parametrize("thinking, rationale", [
    ("missing", "Books are lent."), ("never", "")])
def test_reasoning_beside_the_answer(tmp_path, thinking, rationale, key):
  (tmp_path / "c").mkdir()
  (tmp_path / "c" / "manifest.json").write_text(json.dumps(
      {"format_version": 1, "teacher": "t", "dataset": "mine",
       "split": "test"}))
  (tmp_path / "c" / "shard-00000.jsonl").write_text(json.dumps(
      {"id": "0", "input": {"inputs": "May I?", "label": "loans"},
       "output": "So the answer is loans.", "finish_reason": "stop",
       key: "Books are lent.", "error": None}) + "\n")
  formats.import_cache(tmp_path / "c", output=tmp_path / "r",
                       reading=reading.Options(thinking=thinking))
  (found,) = records.read_records(tmp_path / "r", "mine", "t", "test")
  assert (found.teacher_label, found.rationale, found.thinking) == (
      "loans", rationale, "Books are lent.")
  example_set = examples.load("mine", "test", records_dir=tmp_path / "r")
  (given,) = teacher_cache.TeacherCache(tmp_path / "c").answer(example_set)
  assert given.answers[0].text == "loans"


def test_a_capital_letter_is_no_reason_to_reject(tmp_path):
  lines = [("loans", "Lent. So the answer is Loans.", {}),
           ("events", "Lent. So the answer is loans.", {})]
  _, found = answered(tmp_path, lines, reject_wrong=True, kind="text")
  assert [(r.teacher_label, r.rationale) for r in found] == [
      ("loans", "Lent."), ("loans", "")]


def test_the_same_figures_three_ways(tmp_path, capsys):
  """By import, by --teacher, and by --predictions."""
  outputs = [
      "```json\n{\"reasoning\": \"1\n+ 1\", \"answer\": \"2\",}\n```",
      "So 3.\n\nThe final answer is: $\\boxed{3}$", "1 + 3 = 4",
      '{"reasoning": "cut \\( x', "It is 1/4.", "It is −6."]
  rows = [{"question": f"{i}?", "answer": f"# {gold}", "output": output}
          for i, (gold, output) in enumerate(zip(
              ("2", "3", "4", "5", "3/4", "-6"), outputs))]
  result, found = imported(
      tmp_path, rows, {"inputs": "question", "label": "answer",
                       "output": "output"}, "gsm8k")
  counts = result.info["sources"]["test"]["rules"]["strict"]
  assert counts["correct"] == 4
  assert {name: entry["count"] for name, entry in counts["read_by"].items()
          } == {"json": 1, "boxed": 1, "last sentence": 3}
  (tmp_path / "p.jsonl").write_text("".join(
      json.dumps({"id": record.id, "text": output}) + "\n"
      for record, output in zip(found, outputs)))
  for flags in ([], ["--free_text"]):
    assert stepdistill_eval.main([
        "--teacher=t", f"--predictions={tmp_path / 'p.jsonl'}", "--json",
        "--benchmarks=gsm8k", f"--records_dir={tmp_path / 'r'}", *flags]) == 0
    lines = json.loads(capsys.readouterr().out)["systems"]
    # Of free text, the published rule asks for a mark where there is no JSON.
    assert {line["kind"]: line["correct"] for line in lines} == {
        "teacher": 4, "predictions": 2 if flags else 4}


def test_the_command_says_what_it_read(tmp_path, capsys):
  (tmp_path / "rows.jsonl").write_text("".join(
      json.dumps(row) + "\n" for row in ROWS))
  command = [
      "teacher", "import", "--format=columns", "--dataset=mine", "--teacher=t",
      f"--outputs={tmp_path / 'rows.jsonl'}",
      f"--records_dir={tmp_path / 'my records'}",
      "--columns=inputs=q,label=desk,output=out"]
  assert stepdistill.main([*command, "--marker=A talk.", "--kind=text"]) == 0
  shown = capsys.readouterr().out
  assert "read by: " in shown and "labels are of kind text" in shown
  assert stepdistill.main(command) == 0
  shown = capsys.readouterr().out
  assert "read by: 2 answer is, 1 answer:, 1 json" in shown
  program, *audit = shlex.split(
      shown[shown.index("next: ") :].split("`")[1])
  assert program == "stepdistill" and audit[:2] == ["teacher", "audit"]
  assert stepdistill.main(audit) == 0
  shown = capsys.readouterr().out
  assert "read by: 2 answer is" in shown and "cleaned: 1 bold" in shown
  page = next((tmp_path / "my records").rglob("audit.html")).read_text()
  assert "strict, read by" in page and "read by json" in page
  assert "events? no" in page


@pytest.mark.parametrize("thinking, rationales", [
    ("missing", ["Lent.", "Books."]), ("always", ["Lent.", "Lent."]),
    ("never", ["", "Books."])])
def test_thinking_in_rows_of_messages(tmp_path, thinking, rationales):
  rows = [{"gold": "loans", "messages": [
      {"role": "user", "content": [{"type": "text", "text": f"Row {i}?"}]},
      {"role": "assistant", "content": f"<think>Lent.</think>{text}"}]}
          for i, text in enumerate(("loans", "Books. The answer is loans."))]
  _, found = imported(
      tmp_path, rows, {"messages": "messages", "label": "gold"},
      reading=reading.Options(thinking=thinking))
  assert [(r.inputs, r.teacher_label, r.status) for r in found] == [
      ("Row 0?", "loans", "ok"), ("Row 1?", "loans", "ok")]
  assert [r.rationale for r in found] == rationales
