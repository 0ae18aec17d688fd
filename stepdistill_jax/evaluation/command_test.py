"""Tests of the command: whole calls on small records, without a model."""

import csv
import html.parser
import json
import shutil
import subprocess
import sys

import pytest

from stepdistill_jax.evaluation import command as main
from stepdistill_jax.evaluation.report import outputs
from stepdistill_jax.records import record_writer, records

HOSTILE = '</script><img src=x onerror="alert(1)">|`*_[x](javascript:1) &amp; '


@pytest.fixture(name="records_dir", scope="module")
def _records_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  rows = [records.Record(
      id=f"svamp/test/{i}", inputs=f"{HOSTILE} had {i} apples", status="ok",
      label=f"( {i}.0 + 1.0 )", teacher_label=f"({i} + {i % 2})",
      rationale=f"{HOSTILE} {i} + 1") for i in range(12)]
  record_writer.write_records(folder, "svamp", "palm", {"test": rows})
  return folder


@pytest.fixture(name="predictions")
def _predictions(tmp_path):
  path = tmp_path / "mine.jsonl"
  path.write_text("".join(
      json.dumps({"id": f"svamp/test/{i}", "score": i / 12, "rationale": "so",
                  "text": f"{i + 1}" if i < 9 else HOSTILE}) + "\n"
      for i in range(11)))
  return path


def _call(*flags):
  return main.main(list(map(str, flags)))


def test_a_call_end_to_end(records_dir, predictions, tmp_path, capsys):
  output = tmp_path / "scores"
  code = _call("--teacher=palm", f"--predictions=$x$={predictions}",
               "--benchmarks=svamp", f"--records_dir={records_dir}",
               f"--output={output}", "--csv", "--tensorboard")
  printed = capsys.readouterr()
  assert code == 0 and not printed.err
  assert "75.00" in printed.out and "have no prediction" in printed.out
  results = json.loads((output / "results.json").read_text())
  mine, teacher = results["systems"]
  assert results["schema_version"] == 1
  assert (mine["name"], mine["n"], mine["correct"]) == ("$x$", 12, 9)
  assert (mine["missing"], mine["unparsable"]) == (1, 3)
  assert (teacher["correct"], teacher["kind"]) == (6, "teacher")
  (pair,) = results["comparisons"]
  assert pair["difference"] == pytest.approx(3 / 12)
  rows = [json.loads(line)
          for line in (output / "examples.jsonl").read_text().splitlines()]
  assert len(rows) == 24
  assert {"id", "input", "target", "prediction", "parsed", "correct",
          "score"} <= set(rows[0])
  assert sum(r["correct"] for r in rows) == 15
  assert (output / "results.csv").read_text().count("svamp,test") == 2
  assert list((output / "tensorboard").rglob("events*"))
  # The same call again writes the same scores.
  before = {**results, "created": ""}
  _call("--teacher=palm", f"--predictions=$x$={predictions}",
        "--benchmarks=svamp", f"--records_dir={records_dir}",
        f"--output={output}", "--csv", "--tensorboard")
  after = json.loads((output / "results.json").read_text())
  assert {**after, "created": ""} == before


def test_texts_are_shown_by_their_metrics_alone(tmp_path):
  """A summary that is not the label's text is neither wrong nor worth 0%."""
  rows = [records.Record(
      id=f"dialogsum/test/{i}", inputs=f"Tom: {i}?", label=f"Tom asks {i}.")
          for i in range(4)]
  record_writer.write_records(tmp_path, "dialogsum", "human", {"test": rows})
  (tmp_path / "mine.jsonl").write_text("".join(json.dumps(
      {"id": row.id, "text": row.label + " today."}) + "\n" for row in rows))
  output = tmp_path / "scores"
  assert _call(f"--predictions={tmp_path / 'mine.jsonl'}", "--csv",
               "--benchmarks=dialogsum", f"--records_dir={tmp_path}",
               f"--output={output}") == 0
  # ROUGE-L of three words in four: 2 * 1 * 3/4 / (1 + 3/4).
  (line,) = csv.DictReader((output / "results.csv").open())
  assert float(line["rougeL"]) == pytest.approx(6 / 7)
  assert line["accuracy"] == line["correct"] == ""
  assert [path.name for path in (output / "plots").iterdir()] == [
      "rougeL_dialogsum.png"]
  report = (output / "report.md").read_text()
  assert "dialogsum: rougeL with 95% bootstrap" in report
  assert "accuracy" not in report


class _Page(html.parser.HTMLParser):
  """Collects what could run or load, and the text of each element."""

  def __init__(self):
    super().__init__()
    self.tags, self.handlers, self.sources = [], [], []
    self.scripts = []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    for name, value in attrs:
      if name.startswith("on"):
        self.handlers.append(name)
      if name in ("src", "href", "action"):
        self.sources.append(value)

  def handle_data(self, data):
    if self.tags and self.tags[-1] == "script" and data.strip():
      self.scripts.append(data)


def test_reports_hold_no_markup_of_a_model(records_dir, predictions, tmp_path):
  output = tmp_path / "scores"
  _call("--teacher=palm", f"--predictions=<script>={predictions}",
        "--benchmarks=svamp", f"--records_dir={records_dir}",
        f"--output={output}")
  page = _Page()
  text = (output / "report.html").read_text()
  page.feed(text)
  assert not page.handlers
  assert page.tags.count("script") == 2 and page.tags.count("img") == 4
  # Every resource is inside the file.
  assert all(source.startswith("data:image/svg+xml;")
             for source in page.sources)
  assert "http" not in text.replace("http-equiv", "")
  rows = json.loads(page.scripts[0])
  assert any(HOSTILE in row["prediction"] for row in rows)
  for name in ("search", "system", "benchmark", "outcome"):
    assert f'id="{name}"' in text
  assert "<img" not in (output / "report.md").read_text()


def test_errors_come_first_where_not_all_fit():
  rows = [{"benchmark": "b", "system": s, "mode": "generate", "id": i,
           "correct": i % 2 == 0} for s in "xy" for i in range(10)]
  chosen = outputs._choose(rows, 10)
  assert len(chosen) == 10
  assert sum(not row["correct"] for row in chosen) == 10


def test_a_very_long_answer_is_cut_in_the_page_alone(records_dir, tmp_path):
  long = "7 " + "x" * 3_000_000
  (tmp_path / "p.jsonl").write_text(
      json.dumps({"id": "svamp/test/6", "text": long}) + "\n")
  _call(f"--predictions={tmp_path / 'p.jsonl'}", "--benchmarks=svamp",
        f"--records_dir={records_dir}", f"--output={tmp_path / 'scores'}")
  page = (tmp_path / "scores" / "report.html").read_text()
  assert len(page) < len(long) and "[3,000,002 characters" in page
  rows = map(json.loads, (tmp_path / "scores" / "examples.jsonl").open())
  assert long in [row["prediction"] for row in rows]


def test_json_output(records_dir, capsys):
  assert _call("--teacher=palm", f"--records_dir={records_dir}", "--json",
               "--limit=5", "--rules=reference") == 0
  results = json.loads(capsys.readouterr().out)
  assert results["systems"][0]["n"] == 5
  assert results["config"]["rules"] == "reference"
  assert any("gsm8k was left out" in w for w in results["warnings"])


def test_gin_and_flags(records_dir, capsys, tmp_path):
  (tmp_path / "eval.gin").write_text(
      'EvalConfig.limit = 3\nEvalConfig.rules = "reference"\n')
  assert _call("--teacher=palm", f"--records_dir={records_dir}", "--json",
               f"--gin_file={tmp_path}/eval.gin", "--gin.EvalConfig.seed=7",
               "--limit=4") == 0
  config = json.loads(capsys.readouterr().out)["config"]
  assert (config["limit"], config["rules"], config["seed"]) == (
      4, "reference", 7)


def test_all_are_those_that_can_be_scored(records_dir, tmp_path, capsys):
  """A data set without a test split, and one without labels, are named."""
  folder = tmp_path / "records"
  shutil.copytree(records_dir, folder)
  row = records.Record(id="a/1", inputs="q", label="", teacher_label="x")
  record_writer.write_records(folder, "own", "palm", {"train": [row]})
  record_writer.write_records(folder, "other", "palm", {"test": [row]})
  flags = ("--teacher=palm", f"--records_dir={folder}", "--json")
  assert _call(*flags, "--benchmarks=all") == 0
  results = json.loads(capsys.readouterr().out)
  assert [s["benchmark"] for s in results["systems"]] == ["svamp"]
  left_out = [w for w in results["warnings"] if "no records of it" not in w]
  assert len(left_out) == 2
  assert left_out[0].startswith("benchmark other was left out: split 'test'")
  assert left_out[1].startswith("benchmark own was left out: no split 'test'")
  # Whoever names it gets the error.
  assert _call(*flags, "--benchmarks=own") == 2
  said = capsys.readouterr().err
  assert "no split 'test'" in said and "(there: train)" in said
  assert "did you mean" not in said
  shutil.rmtree(folder / "stepdistill_svamp")
  assert _call(*flags, "--benchmarks=all") == 2
  said = capsys.readouterr().err
  assert "nothing can be scored" in said and "own was left out" in said


def test_exported_inputs_come_back_as_predictions(
    records_dir, tmp_path, capsys):
  path = tmp_path / "inputs.jsonl"
  assert _call(f"--export_inputs={path}", "--benchmarks=svamp",
               f"--records_dir={records_dir}") == 0
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  answered = tmp_path / "answered.jsonl"
  answered.write_text("".join(
      json.dumps({"id": r["id"], "text": "1"}) + "\n" for r in rows))
  capsys.readouterr()
  assert _call(f"--predictions={answered}", "--benchmarks=svamp", "--json",
               f"--records_dir={records_dir}") == 0
  results = json.loads(capsys.readouterr().out)
  assert results["systems"][0]["correct"] == 1
  assert not results["warnings"] and not results["systems"][0]["warnings"]


@pytest.mark.parametrize("flags, message", [
    ([], "nothing to score"),
    (["--teacher=palm"], "--output=DIR is missing"),
    (["--teacher=plam", "--json"], "did you mean: palm"),
    (["--teacher=palm", "--json", "--benchmarks=svmap"], "svamp"),
    (["--teacher=palm", "--json", "--benchmarks=cqa"], "no local data"),
    (["--teacher=palm", "--json", "--split=dev"], "unknown split 'dev'"),
    (["--teacher=palm", "--json", "--benchmarks=svamp", "--split=train"],
     "no split 'train'"),
    (["--teacher=palm", "--json", "--rules=loose"], "set of rules"),
    (["--teacher=palm", "--json", "--gin.EvalConfig.limit=0"], "at least 1"),
    (["--teacher=palm", "--json", "--batch_size=many"], "number or auto"),
    (["--teacher=palm", "--json", "--gin_file=no.gin"], "no.gin"),
    (["--teacher=palm", "--json", "--gin.EvalConfig.lmit=3"], "lmit"),
    (["--predictions=/no/file.jsonl", "--json"], "was not found"),
    (["--teacher=palm", "--output=/dev/null"], "is a file"),
    (["--export_inputs=/no/such/folder/x"], "No such file"),
    (["--teacher=palm", "--json", "--gin.EvalConfig.seed=-1"], "at least 0"),
    (["--teacher=palm", "--json", "--gin.EvalConfig.seed='x'"], "seed must"),
    (["--teacher=palm", "--json", "--gin.EvalConfig.limit=1.5"],
     "EvalConfig.limit must be a whole number or None; got 1.5"),
    (["--teacher=palm", "--json", "--gin.ModelConfig.batch_size=2.5"],
     "whole number"),
    (["--teacher=palm", "--json", "--gin.ModelConfig.compute_dtype='f8'"],
     "compute_dtype"),
])
def test_bad_input_is_one_line(records_dir, capsys, flags, message):
  code = _call(*flags, f"--records_dir={records_dir}")
  printed = capsys.readouterr()
  assert code == 2, printed
  assert message in printed.err
  assert printed.err.count("\n") == 1


def test_output_with_other_files_is_refused(records_dir, tmp_path, capsys):
  (tmp_path / "thesis.tex").write_text("years of work")
  assert _call("--teacher=palm", f"--output={tmp_path}",
               f"--records_dir={records_dir}") == 2
  assert "holds other files" in capsys.readouterr().err


def test_json_is_strict():
  assert json.loads(outputs.dump_json({"a": float("nan"), "b": [1.5]})) == {
      "a": None, "b": [1.5]}


def test_help_and_metrics_load_no_framework():
  code = ("import sys; from stepdistill_jax.answers import metrics; "
          "from stepdistill_jax.evaluation import command as main; "
          "main.build_parser().format_help(); "
          "metrics.label_metric_fns('svamp')[0](['1'], ['1']); "
          "print([m for m in ('tensorflow', 'jax', 'torch', 'statsmodels', "
          "'matplotlib') if m in sys.modules])")
  found = subprocess.run([sys.executable, "-c", code], capture_output=True,
                         text=True, check=True)
  assert found.stdout.strip() == "[]"
