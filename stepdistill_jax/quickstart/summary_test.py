"""Tests of the report, made from folders as the runs leave them."""

import dataclasses
import io
import json

from matplotlib.backends import backend_agg
import numpy as np
import pytest
import rich.console

from stepdistill_jax.evaluation.report import run_report
from stepdistill_jax.quickstart import (
  benchmark_data,
  command,
  page,
  plan as plan_lib,
  summary,
  text,
)
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.study import jobs as jobs_lib

PLAN = dataclasses.replace(
    plan_lib.BUDGETS["small"], train_stories=40, test_stories=50,
    shares=(0.5, 1.0), seeds=(0, 1, 2), methods=plan_lib.METHODS)
STORY = "mary took the apple . mary went to the attic . where is the apple ?"
TASKS = {"finetune": "label_gold", "distill": "label_simulated",
         "step_by_step": "step_gold_simulated"}
# Chances to be right, so that step-by-step is ahead.
CHANCE = {"finetune": 0.3, "distill": 0.2, "step_by_step": 0.8}


def write_run(output_dir, run, correct, answer="attic", rationale="why ."):
  """What `stepdistill-eval` leaves of a run, as far as the report reads it."""
  folder = jobs_lib.scores_dir(output_dir, run)
  folder.mkdir(parents=True)
  asked = {"benchmark": "tracking", "split": "test", "mode": "generate"}
  model_dir = jobs_lib.run_dir(output_dir, run)
  model_dir.mkdir(parents=True)
  (model_dir / "config.gin").write_text(
      f"MIXTURE_OR_TASK_NAME = 'tracking_{TASKS[run.method]}'\n"
      f"RANDOM_SEED = {run.seed}\nOPTIMIZER = @adafactor.Adafactor()\n"
      f"preprocessors.choose_train_share.share = {run.share}\n")
  scores = {
      **asked, "source": str(model_dir / "checkpoint_2"),
      "name": run.name, "kind": "checkpoint", "n": len(correct),
      "correct": int(sum(correct)), "accuracy": float(np.mean(correct)),
      "ci95": [0.1, 0.9], "unparsable": 0, "rationales": None,
      "cost": {"parameters": 222_208}}
  teacher = {**asked, "n": len(correct), "source": "",
             "name": "teacher simulated", "kind": "teacher", "accuracy": 0.85,
             "ci95": [0.8, 0.9]}
  (folder / "results.json").write_text(
      json.dumps({"systems": [scores, teacher]}))
  rows = [
      {**asked, "system": run.name, "id": f"tracking/test/{n}", "input": STORY,
       "target": "attic", "prediction": answer, "correct": bool(right),
       **({"rationale": rationale} if run.method == "step_by_step" else {})}
      for n, right in enumerate(correct)]
  # The teacher's rows stand in the same file.
  rows += [dict(rows[0], system="teacher simulated", correct=False)]
  (folder / "examples.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows))


def write_outputs(output_dir, **texts):
  rng = np.random.default_rng(0)
  correct = {}
  for run in PLAN.runs():
    correct[run] = rng.random(PLAN.test_stories) < CHANCE[run.method]
    write_run(output_dir, run, correct[run], **texts)
  record_writer.write_records(output_dir / "records", "tracking", "simulated", {
      "train": [records.Record(id=f"tracking/train/{n}", inputs="a", label="b")
                for n in range(PLAN.train_stories)]})
  counts = {"completions": 40, "rules": {"strict": {
      "correct": 33, "labels": 39, "accuracy": 33 / 40,
      "statuses": {"ok": {"count": 39}, "truncated": {"count": 1}}}}}
  data = benchmark_data.BenchmarkData(
      output_dir / "records",
      {"rules": "strict", "sources": {"train": counts}},
      output_dir / "teacher_audit.html", made=True)
  return summary.summarize(output_dir, PLAN, data, seconds=1.0), correct


def test_differences_are_paired_by_seed_and_counted_from_the_answers(tmp_path):
  report, correct = write_outputs(tmp_path)
  assert [d["share"] for d in report["differences"]] == [0.5, 1.0, None]
  for difference in report["differences"][:2]:
    by_seed = [
        correct[plan_lib.Run("step_by_step", difference["share"], s)].mean()
        - correct[plan_lib.Run("finetune", difference["share"], s)].mean()
        for s in PLAN.seeds]
    assert difference["by_seed"] == pytest.approx(by_seed)
    assert difference["mean"] == pytest.approx(np.mean(by_seed))
    low, high = difference["ci95"]
    assert low < difference["mean"] < high
  assert report["differences"][-1]["mean"] == pytest.approx(
      np.mean([d["mean"] for d in report["differences"][:2]]))


def test_methods_have_a_mean_at_every_size(tmp_path):
  report, correct = write_outputs(tmp_path)
  assert len(report["methods"]) == 3 * 2
  for entry in report["methods"]:
    runs = [correct[plan_lib.Run(entry["method"], entry["share"], s)]
            for s in PLAN.seeds]
    assert entry["mean"] == pytest.approx(np.mean(runs))
  sizes = report["train_stories"]
  assert 0 < sizes["0.5"] < sizes["1"] == PLAN.train_stories
  assert len(report["examples"]) == 3


def test_the_report_of_the_same_runs_has_the_same_numbers(tmp_path):
  """`stepdistill report` of the folder, from what lies in it."""
  own, _ = write_outputs(tmp_path)
  report = run_report.make([tmp_path])
  assert not report.skipped
  groups = {(g.method, g.share): g for g in report.groups.itertuples()}
  assert len(groups) == len(own["methods"])
  for entry in own["methods"]:
    group = groups[entry["method"], entry["share"]]
    assert group.mean == pytest.approx(entry["mean"], rel=1e-12)
    assert group.ci95 == pytest.approx(entry["ci95"], rel=1e-12)
  found = {(d["group"].method, d["group"].share): d
           for d in report.differences}
  for entry in own["differences"][:2]:
    difference = found[entry["first"], entry["share"]]
    assert difference["difference"] == pytest.approx(
        entry["mean"], rel=1e-12)
    assert difference["ci95"] == pytest.approx(entry["ci95"], rel=1e-12)
  assert run_report.as_json(report, {})["how"] == own["how"]


def test_a_negative_difference_is_reported_as_such():
  difference = {"first": "step_by_step", "second": "finetune", "share": 1.0,
                "train_stories": 1200, "mean": -0.05, "ci95": (-0.08, -0.02),
                "by_seed": (-0.04, -0.06)}
  line, = text.difference_lines({"differences": [difference]})
  assert line == ("1,200 stories: -5.0 points, 95% interval [-8.0, -2.0], by "
                  "seed -4.0, -6.0 (worse, beyond chance)")
  assert text.verdict(dict(difference, ci95=(-0.1, 0.1))) == "within chance"
  assert text.verdict(dict(difference, ci95=None)) == "one seed cannot tell"


def test_reports_escape_what_models_write(tmp_path):
  hostile = "<script>alert(1)</script> [bold]x[/bold]"
  report, _ = write_outputs(tmp_path, answer=hostile, rationale=hostile)
  command.write_report(tmp_path, report)
  written = (tmp_path / "report.html").read_text()
  assert "<script" not in written
  assert "&lt;script&gt;" in written
  assert "://" not in written  # Self-contained; base64 has no colon.
  assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
      json.dumps(report))
  assert (tmp_path / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
  printed = io.StringIO()
  text.print_report(report, rich.console.Console(file=printed, width=120))
  assert "[bold]x[/bold]" in printed.getvalue()


def test_the_page_marks_the_quoted_sentences(tmp_path):
  report, _ = write_outputs(tmp_path)
  report["examples"] = [{
      "input": STORY, "label": "attic", "answer": "attic", "correct": True,
      "rationale": "mary went to the attic ."}]
  text = page.render(report, page.learning_curve(report))
  assert "<mark>mary went to the attic .</mark>" in text
  assert "<mark>mary took" not in text
  assert '<p class="question">where is the apple ?</p>' in text


def test_the_legend_crosses_no_line(tmp_path):
  report, _ = write_outputs(tmp_path)
  figure = page.learning_curve(report).figure
  backend_agg.FigureCanvasAgg(figure).draw()  # Lays it out.
  legend, = figure.legends
  axes, = figure.axes
  assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
