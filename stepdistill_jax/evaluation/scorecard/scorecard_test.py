"""The scorecard, from results of evaluations and judges."""

import copy
import json

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation.scorecard import card, pitfalls
from stepdistill_jax.util import errors


def system(name, kind, accuracy, **more):
  return {"name": name, "kind": kind, "benchmark": "svamp", "mode": "generate",
          "n": 200, "accuracy": accuracy, "ci95": [accuracy - .05,
                                                   accuracy + .05],
          "unparsable": 0, "missing": 0, "warnings": [], "cost": None,
          "by_class": None, **more}


RESULTS = {
    "systems": [
        system("palm", "teacher", 0.8),
        system("student", "checkpoint", 0.6, unparsable=30, cost={
            "parameters": 220_000_000, "input_tokens": 40.0,
            "label_tokens_per_example": 10.0,
            "rationale_tokens_per_example": None,
            "latency_s": [0.02, 0.05]},
               warnings=["3 of 200 questions are also in the train split of "
                         "svamp, which the run was trained on"])],
    "comparisons": [{
        "benchmark": "svamp", "mode": "generate", "first": "palm",
        "second": "student", "difference": 0.02, "ci95": [-0.04, 0.08],
        "n": 200, "holm_p": 0.4, "significant": False}]}
JUDGING = {
    "systems": ["palm", "student"], "warnings": [], "graders": [{
        "grader": "ann", "win_rate": 0.3, "ci95": [0.2, 0.4], "pairs": 50,
        "unreadable": 10, "shown_first": {"share": 0.7, "ci95": [0.6, 0.8],
                                          "n": 50},
        "longer": {"share": None, "ci95": None, "n": 0}}]}


def test_rows_have_what_was_measured_and_nothing_else():
  teacher, student = card.rows_of(
      [RESULTS], None, {"student": card.Price(1.0, 4.0)})
  assert (teacher.kept, teacher.tokens, teacher.usd) == (None, None, None)
  assert student.kept == pytest.approx(0.75)
  assert student.p_teacher == 0.4
  assert student.latency_s == [0.02, 0.05]
  # 1,000 answers of 40 prompt and 10 completion tokens.
  assert student.usd == pytest.approx((1.0 * 40 + 4.0 * 10) * 1000 / 1e6)
  (table,) = card.tables([teacher, student])
  assert "not measured" in table.rows[0]


def test_students_are_named_by_their_data_and_differences_are_judged():
  results = copy.deepcopy(RESULTS)
  results["systems"][1]["method"] = {"trained": "synthetic_cot_answer"}
  results["systems"].append(system("start", "checkpoint", 0.1, method={
      "trained": "untrained"}))
  rows = card.rows_of([results], None, {})
  assert [row.trained for row in rows] == [
      None, "synthetic_cot_answer", "untrained"]
  (table,) = card.tables(rows)
  at = table.header.index("trained on")
  assert [row[at] for row in table.rows] == [
      "teacher", "synthetic_cot_answer", "untrained"]
  found = card.differences([results])
  assert found.rows == (("svamp", "palm − student", "+2.00", "-4.0 to +8.0",
                         "0.400", "no"),)


def test_made_up_answers_have_no_quality():
  teacher, student = card.rows_of([RESULTS], None, {}, made=["student"])
  assert (student.quality, student.kept, student.p_teacher) == (
      None, None, None)
  assert teacher.quality == 0.8 and student.latency_s == [0.02, 0.05]
  (table,) = card.tables([teacher, student])
  assert "made up" in table.rows[1]
  assert not card.differences([RESULTS], ["student"]).rows
  found = pitfalls.find([RESULTS], [JUDGING], ["student", "ann"])
  assert not any("noise" in line or "ann" in line for line in found)
  with pytest.raises(errors.UserError, match="did you mean: student"):
    card.rows_of([RESULTS], None, {}, made=["studen"])


def test_a_judge_of_the_teachers_family_is_doubted():
  judging = copy.deepcopy(JUDGING)
  judging["graders"][0]["grader"] = "gemini-3-pro"
  assert any("same family (gemini) as teacher palm" in line
             for line in pitfalls.find([RESULTS], [judging]))


def test_a_judge_of_the_family_of_a_students_teacher_is_doubted():
  results, judging = copy.deepcopy(RESULTS), copy.deepcopy(JUDGING)
  results["systems"][1]["method"] = {"teacher": "llama3_1_405b"}
  judging["graders"][0]["grader"] = "Llama-3.1-70B-Instruct"
  assert any("same family (llama) as teacher llama3_1_405b" in line
             for line in pitfalls.find([results], [judging]))
  results["systems"][1]["method"] = {"teacher": None}
  assert not any("same family" in line
                 for line in pitfalls.find([results], [judging]))


def test_a_judge_of_other_questions_disagrees_with_no_metric():
  results, judging = copy.deepcopy(RESULTS), copy.deepcopy(JUDGING)
  results["comparisons"][0].update(
      significant=True, difference=-0.1, ci95=[-0.15, -0.05])
  named = lambda: [line for line in pitfalls.find([results], [judging])
                   if "prefers the other" in line]
  for benchmarks, lines in (([], 1), (["svamp"], 1), (["dialogsum"], 0)):
    judging["benchmarks"] = benchmarks
    assert len(named()) == lines


def test_pitfalls_are_found():
  found = pitfalls.find([RESULTS], [JUDGING])
  for part in (
      "30 of 200 answers are unparsable", "also in the train split",
      # Nine times the examples would make the interval three times as small.
      "differ by +2.00 points, within 6.00 of noise; some 1,800 examples",
      "grader ann prefers the answer shown first", "10 of 60 verdicts"):
    assert any(part in line for line in found), part
  assert len(found) == 5


@pytest.mark.parametrize("change, n", [
    ({"n": 24}, "200 or 24"), ({"split": "validation"}, "200")])
def test_scores_of_other_examples_are_not_put_together_silently(change, n):
  one, other = ({"comparisons": [], "systems": [s]}
                for s in copy.deepcopy(RESULTS["systems"]))
  assert not any("the same examples" in line
                 for line in pitfalls.find([one, other], []))
  other["systems"][0].update(change)
  assert pitfalls.find([one, other], [])[0].startswith(
      f"svamp: not all systems answered the same examples (palm on 200; "
      f"student on {change.get('n', 200)})")
  (table,) = card.tables(card.rows_of([one, other], None, {}))
  assert f"accuracy of {n} examples" in table.note


@pytest.mark.parametrize("price", [
    "student=-1,2", "student=inf,1", "student=nan,1", "student=1", "=1,2"])
def test_a_price_is_two_numbers(tmp_path, capsys, price):
  (tmp_path / "results.json").write_text(json.dumps(RESULTS))
  assert cli.main(["scorecard", f"--scores={tmp_path}", f"--price={price}",
                   f"--output={tmp_path}"]) == 2
  assert f"--price={price}: expected NAME=IN,OUT" in capsys.readouterr().err


def test_metric_and_judge_that_disagree_are_named():
  results = copy.deepcopy(RESULTS)
  results["comparisons"][0].update(
      significant=True, difference=-0.1, ci95=[-0.15, -0.05])
  found = pitfalls.find([results], [JUDGING])
  assert any("by accuracy student is better, grader ann prefers the other"
             in line for line in found)


def test_a_label_that_is_never_said_is_named():
  results = copy.deepcopy(RESULTS)
  results["systems"][1]["by_class"] = {
      "labels": ["yes", "no", "(unparsable)"],
      "confusion": [[3, 0, 0], [2, 0, 0]]}
  assert "svamp, student: the label 'no' is never the answer" in (
      pitfalls.find([results], []))


def test_a_label_that_is_never_right_is_none_that_should_be_said():
  results = copy.deepcopy(RESULTS)
  results["systems"][1]["by_class"] = {
      "labels": ["yes", "no", "(unparsable)"],
      "confusion": [[3, 0, 0], [0, 0, 0]]}
  assert not any("never the answer" in line
                 for line in pitfalls.find([results], []))


def test_missing_answers_are_not_called_unparsable():
  results = copy.deepcopy(RESULTS)
  results["systems"][1].update(unparsable=41, missing=40)
  found = [line for line in pitfalls.find([results], [])
           if "200 answers" in line]
  assert found == ["svamp, student: 40 of 200 answers are missing: they count "
                   "as wrong, or as empty texts; look at them before comparing"]
  results["systems"][1].update(unparsable=80, text_metrics={"values": {}})
  assert any("40 of 200 answers are empty: they say nothing" in line
             for line in pitfalls.find([results], []))


def test_shares_are_of_one_teacher_who_is_named():
  results = copy.deepcopy(RESULTS)
  results["systems"].insert(1, system("llama", "teacher", 0.4))
  shares = lambda name: [row[table.header.index("of the teacher's %")]
                         for table in card.tables(card.rows_of(
                             [results], name, {})) for row in table.rows]
  assert shares(None) == ["not measured"] * 3
  (table,) = card.tables(card.rows_of([results], None, {}))
  assert "name palm or llama with --teacher" in table.note
  assert shares("palm") == ["the teacher", "50", "75"]
  # A teacher may be a file of predictions.
  assert shares("student") == ["133", "67", "the teacher"]
  (table,) = card.tables(card.rows_of([results], "student", {}))
  assert "--teacher" not in table.note


def test_the_command_writes_one_page(tmp_path, capsys):
  for name, value in (("results", RESULTS), ("judging", JUDGING)):
    (tmp_path / f"{name}.json").write_text(json.dumps(value))
  arguments = ["scorecard", f"--scores={tmp_path}", f"--judged={tmp_path}",
               f"--output={tmp_path / 'card'}"]
  arguments.append("--price=student=0.1,0.2")
  assert cli.main(arguments) == 0
  capsys.readouterr()
  page = (tmp_path / "card/report.html").read_text("utf-8")
  assert "0.020, 0.050" in page and "What to doubt" in page
  values = json.loads((tmp_path / "card/scorecard.json").read_text("utf-8"))
  assert [row["system"] for row in values["rows"]] == ["palm", "student"]
  for more, message in (
      ("--price=studen=0.1,0.2", "did you mean: student"),
      ("--price=student=cheap", "expected NAME=IN,OUT"),
      ("--price=student=0.1,0.3", "--price=student is given twice"),
      ("--teacher=plam", "did you mean: palm")):
    assert cli.main([*arguments, more]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_result_is_refused(tmp_path):
  (tmp_path / "results.json").write_text("[]")
  with pytest.raises(errors.UserError, match="is no results.json"):
    card.read(tmp_path, "results.json")
  with pytest.raises(errors.UserError, match="in two of the --scores"):
    card.rows_of([RESULTS, RESULTS], None, {})


@pytest.mark.parametrize("n, line", [
    (1, "svamp: scored on 1 examples alone: by chance an accuracy may be 98"),
    (24, "svamp: scored on 24 examples alone: by chance an accuracy may be 20"),
    (200, None)])
def test_few_examples_are_doubted(n, line):
  results = copy.deepcopy(RESULTS)
  for system in results["systems"]:
    system["n"] = n
  assert [found.startswith(line or "") for found in pitfalls.find([results], [])
          if "alone: by chance" in found] == ([True] if line else [])
