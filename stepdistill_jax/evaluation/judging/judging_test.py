"""Verdicts of models and people: read, counted, compared."""

import csv
import dataclasses
import http.server
import json
import pathlib
import threading

import numpy as np
import pytest
from sklearn import metrics

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation.judging import (
  agreement,
  asking,
  pairs as pairs_lib,
  sheet,
  verdicts,
  win_rates,
)
from stepdistill_jax.teacher.ask import retries, supervisor
from stepdistill_jax.teacher.importing import counts as import_counts
from stepdistill_jax.util import errors
from tests.support import real_data

NAMES = ("finetune", "step_by_step")


def write_lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
  return path


def write_pairs(path, count):
  """The second system's answer is good, the first's is longer and bad."""
  return write_lines(path, [
      {"item": f"q{i}", "question": f"question {i}?",
       "first": f"a bad answer to {i}, and long", "second": f"good {i}"}
      for i in range(count)])


@pytest.mark.parametrize("text, expected", [
    ('{"reason": "A is worse", "answer_choice": "B"}', 1.0),
    ('```json\n{"reason": "r", "verdict": "A"}\n```', 0.0),
    ('{"answer_choice": "Tie"}', 0.5),
    ("[[A]]", 0.0), ("My verdict: [[B>>A]]", 1.0), ("[[A<B]]", 1.0),
    ("[[A=B]]", 0.5), ("[[C]]", 0.5), ("B", 1.0),
    ("Both are fine. Final answer: A", 0.0),
    ("<think>[[A]] at first</think>[[B]]", 1.0),
    ("[[A]], or rather [[B]]", None),
    ("I think A is better.", None), ("A is good but B is better.", None),
    ("neither convinces", None), ("", None), ('{"answer_choice": "D"}', None),
])
def test_a_verdict_is_read_from_text(text, expected):
  assert verdicts.read_text(text)[0] == expected


def test_rows_without_a_partner_are_counted(tmp_path):
  first = write_lines(tmp_path / "a.jsonl", [
      {"id": i, "text": f"a{i}"} for i in (1, 2, 3, 3)])
  second = write_lines(tmp_path / "b.jsonl", [
      {"id": i, "text": f"b{i}"} for i in (2, 3, 4)])
  questions = write_lines(tmp_path / "q.jsonl", [
      {"id": i, "question": f"q{i}"} for i in (2, 4)])
  found = pairs_lib.join_predictions(first, second, questions)
  assert found.names == ("a", "b")
  assert list(found.pairs.values()) == [pairs_lib.Pair("2", "q2", "a2", "b2")]
  assert {reason: entry["count"] for reason, entry in
          found.dropped.as_json().items()} == {
              pairs_lib.NO_PARTNER: 2, pairs_lib.REPEATED: 1,
              pairs_lib.MISSING: 1}


def test_two_systems_of_one_name_are_refused(tmp_path):
  first, second = (write_lines(tmp_path / name, [
      {"id": 1, "question": "q", "text": "a"}])
      for name in ("p.jsonl", "p.json"))
  with pytest.raises(errors.UserError, match="both systems are called 'p'"):
    pairs_lib.join_predictions(first, second)


def test_an_answer_without_its_partner_is_named(tmp_path):
  rows = [{"item": "q0", "question": "?", "first": "a", "second": "b"},
          {"item": "q1", "question": "?", "first": "a", "second": None},
          {"item": "q2", "first": "a", "second": "b"}]
  dropped = pairs_lib.read_pairs(
      write_lines(tmp_path / "p.jsonl", rows)).dropped.as_json()
  assert {reason: entry["examples"][0].rpartition(" ")[2]
          for reason, entry in dropped.items()} == {
              pairs_lib.NO_PARTNER: "q1", pairs_lib.MISSING: "q2"}


def test_scored_systems_are_pairs(tmp_path):
  write_lines(tmp_path / "examples.jsonl", [
      {"system": system, "benchmark": "svamp", "mode": mode, "id": f"svamp/{i}",
       "input": f"{i}?", "target": str(i), "prediction": text}
      for system, mode, text in (("a", "generate", "one"),
                                 ("a", "score", "no"), ("b", "generate", "two"))
      for i in range(2)] + [
          {"system": "b", "mode": "generate", "id": "svamp/9", "input": "9?",
           "target": "9", "prediction": "nine"}])
  found = pairs_lib.join_scored(tmp_path, ("a", "b"))
  assert found.pairs["svamp/1"] == pairs_lib.Pair(
      "svamp/1", "1?", "one", "two", "1")
  assert len(found.pairs) == 2 and found.dropped[pairs_lib.NO_PARTNER] == 1
  with pytest.raises(errors.UserError, match="unknown system 'c'"):
    pairs_lib.join_scored(tmp_path, ("a", "c"))


@pytest.mark.parametrize("rows, expected", [
    ([{"item": "q1", "grader": "ann", "verdict": "second"},
      {"item": "q0", "grader": "ann", "verdict": "second",
       "order": "swapped"}],
     {("q1", "ann"): 1.0, ("q0", "ann"): 0.0}),
    # A name is not a matter of position; a spreadsheet's case and blanks are
    # not one of meaning.
    ([{"item": "q0", "grader": "ann", "verdict": "step_by_step",
       "order": "swapped"},
      {"item": "q1", "grader": "ann ", "verdict": "First",
       "order": " Swapped"}],
     {("q0", "ann"): 1.0, ("q1", "ann"): 1.0}),
    ([{"idx": "q0", "annotator1": 2, "annotator2": 0}],
     {("q0", "annotator1"): 1.0, ("q0", "annotator2"): 0.5}),
    ([{"pair_id": "q0", "judge_name": "j", "judgments": [
        {"decision": "A>B"}, {"decision": "B>A"}]}],
     {("q0", "j"): 0.0}),
    ([{"item": "q2", "preference": 1.25, "annotator": "w"}],
     {("q2", "w"): 0.25}),
    ([{"idx": "q2", "gpt_result": "1"}], {("q2", "gpt"): 0.0}),
    ([{"verdict": "step_by_step"}, {"verdict": "FINETUNE"},
      {"verdict": "TIE"}],
     {("q0", "x"): 1.0, ("q1", "x"): 0.0, ("q2", "x"): 0.5}),
])
def test_files_of_verdicts_are_read(tmp_path, rows, expected):
  pairs = pairs_lib.read_pairs(write_pairs(tmp_path / "p.jsonl", 3), NAMES)
  found, reasons = verdicts.read_file(
      write_lines(tmp_path / "x.jsonl", rows), pairs)
  means = {}
  for said in found:
    means.setdefault((said.item, said.grader), []).append(said.preference)
  assert {key: np.mean(values) for key, values in means.items()} == expected
  assert not reasons.as_json()


@pytest.mark.parametrize("names", [NAMES, ("T5", "t5"), ("first", "second")])
def test_verdicts_of_an_earlier_call_are_read_back(tmp_path, names):
  path = write_pairs(tmp_path / "p.jsonl", 3)
  rows = write_lines(tmp_path / "x.jsonl", [
      {"item": "q0", "grader": "ann", "verdict": names[1], "order": "given"},
      {"item": "q1", "grader": "ann", "verdict": "second", "order": "swapped"},
      {"item": "q2", "grader": "ann", "verdict": "?"}])
  said = []
  for given in (rows, tmp_path / "x/verdicts.jsonl"):
    output = given.with_suffix("")
    assert cli.main(["judge", str(path), f"--names={','.join(names)}",
                     f"--verdicts={given}", f"--output={output}"]) == 0
    said.append((output / "verdicts.jsonl").read_text("utf-8"))
  assert said[0] == said[1]
  assert [json.loads(line)["preference"] for line in said[0].splitlines()] == [
      1.0, 0.0, None]


def test_what_is_no_verdict_is_counted(tmp_path):
  pairs = pairs_lib.read_pairs(write_pairs(tmp_path / "p.jsonl", 2), NAMES)
  path = write_lines(tmp_path / "x.jsonl", [
      {"item": "q0", "grader": "ann", "verdict": "first"},
      {"item": "q0", "grader": "ann", "verdict": "second"},
      {"item": "q1", "grader": "ann", "verdict": ""},
      {"item": "q1", "grader": "bob", "verdict": "first"},
      {"item": "q1", "grader": "cyd", "verdict": "the blue one"},
      {"item": "q1", "grader": "ann", "verdict": "first", "order": "left"},
      {"item": "q9", "grader": "ann", "verdict": "first"}])
  found, reasons = verdicts.read_file(path, pairs, graders=("ann", "cyd"))
  assert [(v.item, v.grader, v.preference) for v in found] == [
      ("q0", "ann", 0.0), ("q1", "cyd", None), ("q1", "ann", None)]
  assert {reason: entry["count"] for reason, entry in
          reasons.as_json().items()} == {
              verdicts.REPEATED: 1, verdicts.NOT_GRADED: 1,
              verdicts.UNKNOWN_GRADER: 1, verdicts.UNREADABLE: 1,
              verdicts.UNKNOWN_ITEM: 1, verdicts.UNKNOWN_ORDER: 1}
  found, _ = verdicts.read_file(path, pairs)
  with pytest.raises(errors.UserError, match="5 graded_twice"):
    verdicts.read_file(path, pairs, earlier=found)
  with pytest.raises(errors.UserError, match="has no verdict on any"):
    verdicts.read_file(write_lines(tmp_path / "y.jsonl", [
        {"item": "q9", "verdict": "first"}]), pairs)


@pytest.mark.parametrize("text, expected", [
    ('{"reason": "r", "answer": 7}', 7.0), ('{"score": "8/10"}', 8.0),
    ('{"rating": 6.5}', 6.5), ("Rating: [[8]]", 8.0),
    ("The answer is 7/10.", 7.0), ("no idea", None)])
def test_a_grade_is_read(text, expected):
  assert asking.read_grade(text)[0] == expected


def made_up(ratings):
  return [verdicts.Verdict(str(item), f"g{g}", value / 2)
          for item, row in enumerate(ratings) for g, value in enumerate(row)
          if value is not None]


def test_agreement_is_as_computed_otherwise():
  rng = np.random.default_rng(0)
  truth = rng.integers(0, 3, 60)
  ratings = np.stack([np.where(rng.random(60) < 0.7, truth,
                               rng.integers(0, 3, 60)) for _ in range(3)], 1)
  table = agreement.table_of(made_up(ratings))
  two = agreement.agree(table, ["g0", "g1"])
  assert two.kappa == pytest.approx(
      metrics.cohen_kappa_score(ratings[:, 0], ratings[:, 1]), abs=1e-12)
  assert two.same == (ratings[:, 0] == ratings[:, 1]).sum()
  three = agreement.agree(table)
  assert three.items == 60
  # Of whole data, nominal: 1 − α = (1 − κ)(N − 1)/N for N ratings
  # (Krippendorff 2004, "Reliability in content analysis").
  assert 1 - three.alpha == pytest.approx(
      (1 - three.kappa) * (180 - 1) / 180, abs=1e-12)
  low, high = three.kappa_ci95
  assert low < three.kappa < high


def test_agreement_of_what_all_call_the_same_is_not_defined():
  found = agreement.agree(agreement.table_of(made_up([(2, 2), (2, 2)])))
  assert (found.same, found.kappa, found.alpha) == (2, None, None)


def test_a_missing_rating_is_no_category():
  table = agreement.table_of(made_up([(0, 0), (2, None), (2, 2), (0, 2)]))
  found = agreement.agree(table)
  assert (found.items, found.same) == (3, 2)


def test_a_verdict_that_flips_is_a_tie(tmp_path):
  pairs = pairs_lib.read_pairs(write_pairs(tmp_path / "p.jsonl", 4), NAMES)
  said = [
      # For the second, the first, whatever comes first, and unreadable.
      *(verdicts.Verdict("q0", "j", 1.0, order) for order in
        (verdicts.GIVEN, verdicts.SWAPPED)),
      *(verdicts.Verdict("q1", "j", 0.0, order) for order in
        (verdicts.GIVEN, verdicts.SWAPPED)),
      verdicts.Verdict("q2", "j", 0.0, verdicts.GIVEN),
      verdicts.Verdict("q2", "j", 1.0, verdicts.SWAPPED),
      verdicts.Verdict("q3", "j", 1.0, verdicts.GIVEN),
      verdicts.Verdict("q3", "j", None, verdicts.SWAPPED)]
  (rate,) = win_rates.of_graders(pairs, said)
  assert (rate.first, rate.ties, rate.second) == (1, 1, 1)
  assert (rate.flipped, rate.unreadable, rate.pairs) == (1, 1, 3)
  assert rate.win_rate == 0.5
  # Shown first and chosen: q0 swapped, q1 given, q2 both; of seven readable.
  assert (rate.shown_first["count"], rate.shown_first["n"]) == (4, 7)
  # The first system's answers are the longer ones; q1 alone prefers it.
  assert (rate.longer["count"], rate.longer["n"]) == (1, 2)


@pytest.mark.parametrize("judge, name, warns", [
    ("meta-llama/Llama-3.1-405B-Instruct", "llama_8b_distilled", True),
    ("Qwen/Qwen3-32B", "Llama-3.1-8B", False),
    ("gpt-4o", "o1-mini", True), ("ChatGPT", "text-davinci-002", True),
    ("my_judge", "my_judge_2", False),
])
def test_a_judge_of_the_same_family_is_warned_of(judge, name, warns):
  assert bool(win_rates.self_preference(judge, {name: "system"})) == warns


def test_a_spreadsheet_calculates_nothing_of_a_sheet(tmp_path):
  pairs = pairs_lib.Pairs(
      {"-1": pairs_lib.Pair("-1", "@now", "=1+1", "- a list")}, NAMES,
      import_counts.Reasons())
  table = sheet.write(pairs, tmp_path / "sheet.html")
  with table.open(encoding="utf-8-sig", newline="") as file:
    (row,) = csv.DictReader(file)
  assert row["item"] == "-1" and row["question"] == "'@now"
  assert {row["answer_1"], row["answer_2"]} == {"'=1+1", "'- a list"}


def test_a_sheet_is_blind_balanced_and_read_back(tmp_path, capsys):
  path = write_pairs(tmp_path / "p.jsonl", 10)
  assert cli.main([
      "judge", str(path), f"--output={tmp_path / 'out'}",
      f"--names={','.join(NAMES)}",
      f"--export_sheet={tmp_path / 'sheet.html'}"]) == 0
  page = (tmp_path / "sheet.html").read_text("utf-8")
  assert not any(name in page for name in NAMES)
  with (tmp_path / "sheet.csv").open(encoding="utf-8-sig", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["item"] for row in rows] != [f"q{i}" for i in range(10)]
  assert sum(row["order"] == verdicts.SWAPPED for row in rows) == 5
  for row in rows[:-1]:  # The last one is not graded.
    row["grader"] = "ann"
    row["verdict"] = "first" if "good" in row["answer_1"] else "second"
  with (tmp_path / "filled.csv").open("w", encoding="utf-8") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  assert cli.main([
      "judge", str(path), f"--output={tmp_path / 'out'}",
      f"--names={','.join(NAMES)}", f"--verdicts={tmp_path / 'filled.csv'}"
  ]) == 0
  results = json.loads((tmp_path / "out/judging.json").read_text("utf-8"))
  (ann,) = results["graders"]
  assert (ann["grader"], ann["second"], ann["win_rate"]) == ("ann", 9, 1.0)
  assert "1 not_graded" in capsys.readouterr().out


class Judge(http.server.BaseHTTPRequestHandler):
  """Prefers what is good; of q0 whatever stands first; of q1 in prose."""

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["content-length"])))
    asked = body["messages"][-1]["content"]
    self.server.asked.append(asked)
    if "question 7?" in asked and "Answer A:\ngood" in asked:
      self.send_error(400)  # Of one order alone.
      return
    if "question 0?" in asked:
      text = '{"reason": "it comes first", "answer_choice": "A"}'
    elif "question 1?" in asked:
      text = "Hard to say; A is fine and B is fine."
    elif "Answer A:" in asked:
      letter = "A" if "Answer A:\ngood" in asked else "B"
      text = json.dumps({"reason": "good", "answer_choice": letter})
    else:
      grade = self.server.best if "\ngood" in asked else 3
      text = json.dumps({"reason": "r", "answer": grade})
    data = json.dumps({"choices": [{
        "index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5}}).encode()
    self.send_response(200)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *_):
    pass


@pytest.fixture(scope="module")
def server():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
    server.asked, server.best = [], 9
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def judge(server, path, output, *more):
  assert cli.main([
      "judge", str(path), f"--output={output}", f"--names={','.join(NAMES)}",
      f"--base_url=http://127.0.0.1:{server.server_port}/v1",
      "--model=Llama-judge", *more]) == 0
  return json.loads((output / "judging.json").read_text("utf-8"))


def test_a_model_judges_both_orders_and_is_paid_once(
    server, tmp_path, monkeypatch, capsys):
  pytest.importorskip("openai")
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  path = write_pairs(tmp_path / "p.jsonl", 5)
  before = len(server.asked)
  assert cli.main([
      "judge", str(path), f"--output={tmp_path / 'out'}", "--model=Llama-judge",
      f"--base_url=http://127.0.0.1:{server.server_port}/v1", "--dry_run"]) == 0
  assert "10 requests are missing" in capsys.readouterr().out
  assert len(server.asked) == before
  found = judge(server, path, tmp_path / "out", "--trained_by=Llama-3.1-405B")
  (rate,) = found["graders"]
  assert (rate["second"], rate["ties"], rate["flipped"]) == (3, 1, 1)
  assert (rate["unreadable"], rate["first"]) == (1, 0)
  assert found["not_read"]["Llama-judge"]["verdict_unreadable"]["count"] == 2
  assert found["prompt"]["id"] == "judge_pairwise"
  assert "same family (llama) as teacher Llama-3.1-405B" in (
      found["warnings"][0])
  assert len(server.asked) == 10
  again = judge(server, path, tmp_path / "out", "--trained_by=Llama-3.1-405B")
  assert again["graders"] == found["graders"] and len(server.asked) == 10
  # A pair of another text is another question; the others are not asked.
  lines = path.read_text("utf-8").splitlines()
  changed = {**json.loads(lines[4]), "second": "good, and changed"}
  write_lines(path, [*map(json.loads, lines[:4]), changed])
  judge(server, path, tmp_path / "out")
  assert len(server.asked) == 12
  capsys.readouterr()


def test_a_pair_judged_in_one_order_alone_is_not_won(
    server, tmp_path, monkeypatch):
  pytest.importorskip("openai")
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  found = judge(server, write_pairs(tmp_path / "p.jsonl", 8),
                tmp_path / "out", "--min_success_ratio=0.5")
  (rate,) = found["graders"]
  # q0 flips, q1 is prose, q7 has one order.
  assert (rate["second"], rate["unreadable"], rate["pairs"]) == (5, 2, 6)
  assert found["not_read"]["Llama-judge"]["judge_gave_no_answer"]["count"] == 1


def test_an_interrupted_judge_says_what_is_missing(
    server, tmp_path, monkeypatch, capsys):
  pytest.importorskip("openai")
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  path = write_pairs(tmp_path / "p.jsonl", 4)
  whole = supervisor.run

  def interrupted(*args, **kwargs):
    outcome = whole(*args, **kwargs)
    return dataclasses.replace(outcome, missing=3, progress=dataclasses.replace(
        outcome.progress, stopped=retries.INTERRUPTED))

  monkeypatch.setattr(supervisor, "run", interrupted)
  ask = [
      "judge", str(path), f"--output={tmp_path / 'out'}", "--model=j",
      f"--base_url=http://127.0.0.1:{server.server_port}/v1"]
  assert cli.main(ask) == 130
  results = json.loads((tmp_path / "out/judging.json").read_text("utf-8"))
  assert results["warnings"] == [
      "3 of the judge's 8 judgements are missing; run the same command again "
      "to go on"]
  sheet = write_lines(tmp_path / "sheet.jsonl", [
      {"item": "q0", "grader": "j", "verdict": "first"}])
  asked = len(server.asked)
  assert cli.main([*ask, f"--verdicts={sheet}"]) == 2
  assert "are both called 'j'" in capsys.readouterr().err
  assert len(server.asked) == asked


def test_a_model_grades_single_answers(server, tmp_path, monkeypatch):
  pytest.importorskip("openai")
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  path = write_pairs(tmp_path / "p.jsonl", 4)
  rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
  write_lines(path, rows[2:])
  found = judge(server, path, tmp_path / "out", "--prompt=score")
  assert [(row["system"], row["mean"], row["graded"])
          for row in found["scores"]] == [
              ("finetune", 3.0, 2), ("step_by_step", 9.0, 2)]
  monkeypatch.setattr(server, "best", 11)  # Of 10.
  found = judge(server, path, tmp_path / "beyond", "--prompt=score")
  assert [(row["mean"], row["graded"], row["unreadable"])
          for row in found["scores"]] == [(3.0, 2, 0), (None, 0, 2)]
  assert found["not_read"]["Llama-judge"]["grade_out_of_range"]["count"] == 2


@pytest.mark.parametrize("arguments, message", [
    (["--model=m"], "there is nothing to judge"),
    (["PAIRS"], "nobody judges"),
    (["PAIRS", "--names=a"], "expected two names"),
    (["PAIRS", "--verdicts=nope.csv"], "no file --verdicts=nope.csv"),
    (["PAIRS", "--verdicts=SHEET", "--graders=ann,bab"], "did you mean: bob"),
    (["--scores=SHEET", "--model=m"], "say which two with --names"),
    (["PAIRS", "--scores=SHEET"], "give one of PAIRS"),
    (["PAIRS", "--model=m", "--prompt=pairwise_with_reference",
      "--base_url=http://127.0.0.1:9/v1"], "a right answer, which some pairs"),
])
def test_mistakes_are_named(tmp_path, capsys, arguments, message):
  path = write_pairs(tmp_path / "p.jsonl", 2)
  sheet = write_lines(tmp_path / "sheet.jsonl", [
      {"item": "q0", "grader": name, "verdict": "first"}
      for name in ("ann", "bob")])
  given = [str(path) if a == "PAIRS" else a.replace("SHEET", str(sheet))
           for a in arguments]
  assert cli.main(["judge", *given, f"--output={tmp_path / 'out'}"]) == 2
  assert message in capsys.readouterr().err


def real(name):
  return pathlib.Path(real_data.real_data_dir() / "seed2") / name


def test_real_judgements_give_their_figures():
  pandalm = real("pandalm/testset-v1.json.gz")
  pairs = pairs_lib.read_pairs(pandalm)
  people, _ = verdicts.read_file(pandalm, pairs)
  found = agreement.agree(agreement.table_of(people))
  assert (found.same, found.items) == (879, 999)
  alpaca = real("alpaca_eval/FuseChat-Llama-3.1-8B-Instruct."
                "gpt4turbo_annotations.json.gz")
  pairs = pairs_lib.read_pairs(alpaca)
  (rate,) = win_rates.of_graders(pairs, verdicts.read_file(alpaca, pairs)[0])
  assert (rate.pairs, round(100 * rate.win_rate, 2)) == (805, 63.33)
  assert rate.shown_first["share"] is None  # The file does not say the order.
  judgebench = real("judgebench/judged_arena_hard_o1-mini.jsonl.gz")
  pairs = pairs_lib.read_pairs(judgebench)
  (rate,) = win_rates.of_graders(
      pairs, verdicts.read_file(judgebench, pairs)[0])
  assert (rate.pairs, rate.flipped) == (350, 76)
  pairs = pairs_lib.join_predictions(
      real("faireval/answer_gpt35.jsonl"),
      real("faireval/answer_vicuna-13b.jsonl"),
      real("faireval/question.jsonl"), ("CHATGPT", "VICUNA13B"))
  (rate,) = win_rates.of_graders(pairs, verdicts.read_file(
      real("faireval/review_gpt35_vicuna-13b_human.txt"), pairs)[0])
  assert (rate.first, rate.ties, rate.second) == (41, 14, 25)
