"""The reports, as a browser shows them."""

import dataclasses
import json

import pytest

from stepdistill_jax.evaluation import command as main
from stepdistill_jax.quickstart import command, plan as plan_lib
from stepdistill_jax.records import record_writer, records
from tests.support import real_data as testing

pytestmark = pytest.mark.interop


def test_an_evaluations_examples_are_listed(tmp_path):
  rows = [records.Record(
      id=f"svamp/test/{i}", inputs=f"{i} pears, and one?", rationale="a sum",
      label=f"( {i}.0 + 1.0 )", teacher_label=f"({i} + 1)") for i in range(4)]
  record_writer.write_records(tmp_path, "svamp", "palm", {"test": rows})
  (tmp_path / "mine.jsonl").write_text("".join(json.dumps(
      {"id": row.id, "text": "(3 + 1)"}) + "\n" for row in rows))
  assert main.main([
      "--teacher=palm", f"--predictions=mine={tmp_path / 'mine.jsonl'}",
      "--benchmarks=svamp", f"--records_dir={tmp_path}",
      f"--output={tmp_path / 'scores'}"]) == 0
  page, messages = testing.open_in_browser(tmp_path / "scores/report.html")
  assert messages == []
  # Written by its script, which shows the wrong ones first.
  assert "3 of 8 examples, page 1 of 1" in page
  assert page.count('aria-label="wrong: (3 + 1)"') == 3


def test_a_quickstarts_report_has_its_figures(tmp_path):
  plan = dataclasses.replace(
      plan_lib.BUDGETS["small"], budget="test", train_stories=16,
      validation_stories=8, test_stories=8, shares=(1.0,), seeds=(0,), steps=1,
      methods=("finetune", "step_by_step"))
  report = command.run_plan(tmp_path / "out", plan, quiet=True, workers=1)
  page, messages = testing.open_in_browser(tmp_path / "out/report.html")
  assert messages == []
  accuracy = report["runs"][0]["accuracy"]
  assert f"{100 * accuracy:.1f}" in page
  assert "data:image/svg+xml;base64," in page
