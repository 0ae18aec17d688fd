import html.parser
import json

import pytest

from stepdistill_jax.answers import consistency
from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.records import datasets, record_writer, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.audit import audit, report as audit_report
from stepdistill_jax.teacher.importing import formats as importing
from tests.support import real_data as testing


def some_records(number, **fields):
  return [records.Record(
      id=f"svamp/train/{i:04x}", inputs=f"{i} apples and 2?",
      label=f"( {i}.0 + 2.0 )", teacher_label=f"({i} + 2)",
      rationale=f"{i} + 2 = {i + 2}.", **fields) for i in range(number)]


def test_counts(tmp_path):
  found = some_records(4) + [
      records.Record(id="svamp/train/0001-2", inputs="1 apples and 2?",
                     label="( 3.0 )", teacher_label="(4)",
                     rationale="1 + 2 = 3.", status="ok"),
      records.Record(id="svamp/train/ff", inputs="x", status="no_marker")]
  record_writer.write_records(tmp_path, "svamp", "t", {"train": found})
  report, _ = audit.audit(tmp_path, "svamp", "t", vocabulary=None)
  train = report["splits"]["train"]
  assert train["records"] == 6
  assert train["statuses"] == {"ok": 5, "no_marker": 1}
  assert train["with_human_label"] == train["with_teacher_label"] == 5
  assert train["teacher_accuracy"]["correct"] == 4
  assert train["repeated_inputs"] == 1
  assert train["rationales_contradicting_their_label"]["count"] == 1
  assert train["rationales_stating_the_answer"]["count"] == 4
  assert train["lengths"]["rationale"]["p100"] == 5
  assert train["label_balance"]["human"]["distinct"] == 5


def test_pieces_are_those_of_the_vocabulary(tmp_path):
  import sentencepiece

  path = testing.write_tiny_vocabulary(tmp_path / "spiece.model")
  model = sentencepiece.SentencePieceProcessor(model_file=str(path))
  texts = ["the answer is a", "a dog</s>it is", ""]
  assert audit.piece_counter(path)(texts) == [
      len(model.encode(texts[0])),
      len(model.encode("a dog")) + 1 + len(model.encode("it is")), 0]


def test_real_lengths(tmp_path):
  data = testing.real_data_dir()
  importing.import_published(
      dataset="cqa", rows=data / "cqa", outputs=data / "cqa" / "palm",
      teacher="palm540b", output=tmp_path)
  report, _ = audit.audit(tmp_path, "cqa", "palm540b",
                          vocabulary=data / "vocab" / "spiece.model")
  train = report["splits"]["train"]["lengths"]["rationale"]
  # Of all 9,741 rows 29.9 on average, at most 70; a tenth is validation.
  assert train["mean"] == pytest.approx(29.9, abs=0.1)
  assert train["p100"] == 70


def test_the_histogram_percentiles_are_those_of_the_list():
  import collections
  import random

  values = random.Random(0).choices(range(50), k=501)
  result = audit._percentiles(collections.Counter(values))
  ordered = sorted(values)
  assert result["p50"] == ordered[250] and result["p100"] == ordered[-1]
  assert result["mean"] == pytest.approx(sum(values) / 501)


def test_the_page_is_html_and_escapes_what_it_shows(tmp_path):
  evil = "<script>alert(1)</script>"
  record_writer.write_records(tmp_path, "svamp", "t", {"train": [
      records.Record(id="a", inputs=evil, rationale=evil, status=evil)]})
  report, splits = audit.audit(tmp_path, "svamp", "t", vocabulary=None)
  page = audit_report.html_page(report, splits)
  assert evil not in page and "&lt;script&gt;" in page
  opened = []

  class Parser(html.parser.HTMLParser):
    void = {"meta"}

    def handle_starttag(self, tag, attrs):
      if tag not in self.void:
        opened.append(tag)

    def handle_startendtag(self, tag, attrs):
      pass

    def handle_endtag(self, tag):
      if tag not in self.void:
        assert opened.pop() == tag

  Parser().feed(page)
  assert opened == []


def test_twenty_records_are_shown_the_same_each_time(tmp_path):
  record_writer.write_records(
      tmp_path, "svamp", "t", {"train": some_records(100)})
  shown = []
  for order in (1, -1):
    split = audit.SplitAudit(datasets.get("svamp"), audit.count_words)
    split.add_all(some_records(100)[::order])
    shown.append(sorted(item[1] for item in split.samples))
  assert shown[0] == shown[1] and len(shown[0]) == 20


def run(*args):
  return cli.main(["teacher", "audit", *map(str, args)])


def test_the_command(tmp_path, capsys):
  record_writer.write_records(
      tmp_path / "r", "svamp", "t", {"train": some_records(3)})
  for folder in ("r", "r/stepdistill_svamp", "r/stepdistill_svamp/t",
                 "r/stepdistill_svamp/t/1.0.0"):
    assert run(tmp_path / folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["records"] == 3
  assert (tmp_path / "r/stepdistill_svamp/t/1.0.0/audit.html").is_file()
  assert run(tmp_path / "r") == 0
  assert "teacher accuracy 100.00% (3 of 3 with a human label)" in (
      capsys.readouterr().out)
  assert run(tmp_path / "r", "--dataset=svmap") == 2
  assert "did you mean: svamp?" in capsys.readouterr().err
  assert run(tmp_path / "nowhere") == 2
  assert "there is no folder" in capsys.readouterr().err
  assert run(tmp_path) == 2
  assert "no records in" in capsys.readouterr().err
  assert run("--json", f"--records_dir={tmp_path / 'r'}") == 0
  assert run("--teacher=tt", f"--records_dir={tmp_path / 'r'}") == 2
  assert "unknown teacher 'tt'; did you mean: t?" in capsys.readouterr().err


def test_a_cache_is_audited_without_being_imported(tmp_path, capsys):
  with completions.cache_writer(
      tmp_path / "c", teacher="t", dataset="mine", split="train") as writer:
    writer.append(completions.Completion(
        "0", {"inputs": "q", "label": "a"}, "r. So the answer is a."))
  assert run(tmp_path / "c", "--json") == 0
  report = json.loads(capsys.readouterr().out)
  assert report["splits"]["train"]["teacher_accuracy"]["correct"] == 1
  assert (tmp_path / "c" / "audit.html").is_file()
  assert completions.find_caches(tmp_path / "c") == [tmp_path / "c"]


def test_what_was_not_measured_is_no_zero(tmp_path, capsys):
  record_writer.write_records(tmp_path, "mine", "t", {"train": [
      records.Record(id="a", inputs="q", label="b", rationale="It is so.")]})
  assert run("--json", f"--records_dir={tmp_path}") == 0
  report = json.loads(capsys.readouterr().out)
  train = report["splits"]["train"]
  assert report["leaked_inputs"] is None  # No import has counted them.
  assert train["teacher_accuracy"]["correct"] is None
  assert train["rationales_contradicting_their_label"]["count"] is None
  assert train["rationales_stating_the_answer"]["count"] is None
  assert train["mean_overlap_with_inputs"] is None
  assert run(f"--records_dir={tmp_path}") == 0
  said = capsys.readouterr().out
  page = (tmp_path / "stepdistill_mine/t/1.0.0/audit.html").read_text("utf-8")
  for text in (said, page):
    assert "not measured (no teacher label to compare with 1 human" in text
    assert "0.00%" not in text


def test_an_audit_of_what_nobody_can_use_reports_and_fails(tmp_path, capsys):
  with completions.cache_writer(
      tmp_path / "c", teacher="t", dataset="mine", split="train") as writer:
    writer.append(
        completions.Completion("0", {"inputs": "q", "label": "a"}, "No."))
  assert run(tmp_path / "c") == 2
  printed = capsys.readouterr()
  assert "1 no_marker" in printed.out and "page: " in printed.out
  assert printed.err.startswith("error: no record of mine/t can be used")


@pytest.mark.parametrize("dataset, fields, contradicts, states", [
    ("svamp", ("(3 + 4)", "3 + 4 = 7."), False, True),
    ("svamp", ("(3 + 4)", "3 + 4 = 8."), True, False),
    ("svamp", ("(3 + 4)", "so it is."), False, False),
    ("svamp", ("(1000 + 200)", "It makes = 1,200 in all."), False, True),
    ("esnli", ("neutral", "it may be, which is a contradiction."), True,
     False),
    ("esnli", ("neutral", "neutral, not contradiction"), False, True),
    ("esnli", ("neutral", "it may be."), False, False),
    ("mine", ("kitchen", "went to the office."), None, False),
])
def test_consistency(dataset, fields, contradicts, states):
  record = records.Record("a", "q", "", fields[0], fields[1])
  spec = datasets.get(dataset)
  assert consistency.contradicts_label(spec, record) is contradicts
  assert consistency.states_answer(spec, record) is states


def test_consistency_of_choices():
  inputs = datasets.cqa_inputs("Q?", ("new york", "york", "rome"))
  spec = datasets.get("cqa")

  def contradicts(label, rationale):
    return consistency.contradicts_label(
        spec, records.Record("a", inputs, "", label, rationale))

  assert contradicts("rome", "only New York has them")
  assert not contradicts("new york", "only New York has them")
  assert contradicts("york", "only New York has them")
  assert not contradicts("rome", "Rome and York have them")
