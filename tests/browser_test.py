"""The reports, as a browser shows them."""

import dataclasses
import json

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation import command as main
from stepdistill_jax.evaluation.judging import (
  pairs as pairs_lib,
  sheet,
  verdicts,
)
from stepdistill_jax.evaluation.report import command_test
from stepdistill_jax.quickstart import command, plan as plan_lib
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.study import (
  definition,
  jobs as jobs_lib,
  resolving,
  summary,
)
from stepdistill_jax.teacher.importing import counts as import_counts
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
  assert not testing.accessibility_problems(tmp_path / "scores/report.html")
  # Written by its script, which shows the wrong ones first.
  assert "3 of 8 examples, page 1 of 1" in page
  assert page.count('aria-label="wrong: (3 + 1)"') == 3


def test_an_evaluations_texts_have_their_metrics(tmp_path):
  rows = [records.Record(
      id=f"dialogsum/test/{i}", inputs=f"Tom: {i}?", label=f"Tom asks {i}.")
          for i in range(2)]
  record_writer.write_records(tmp_path, "dialogsum", "human", {"test": rows})
  (tmp_path / "mine.jsonl").write_text("".join(json.dumps(
      {"id": row.id, "text": f"{row.label} Now."}) + "\n" for row in rows))
  assert main.main([
      f"--predictions=mine={tmp_path / 'mine.jsonl'}", "--benchmarks=dialogsum",
      f"--records_dir={tmp_path}", f"--output={tmp_path / 'scores'}"]) == 0
  page, messages = testing.open_in_browser(tmp_path / "scores/report.html")
  assert messages == []
  assert "2 of 2 examples, page 1 of 1" in page  # No error hides the others.
  assert page.count("rouge1 0.857, rouge2 0.8, rougeL 0.857") == 2
  assert "[object" not in page and 'aria-label="wrong' not in page


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
  assert not testing.accessibility_problems(tmp_path / "out/report.html")


def test_the_other_pages_are_for_everyone(tmp_path, monkeypatch):
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path / "records"))
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  record_writer.write_records(tmp_path / "records", "svamp", "palm540b", {
      split: [records.Record(
          id=f"svamp/{split}/{i}", inputs=f"{i} pears, and one?",
          label=f"{i + 1}", teacher_label=f"{i}",
          rationale="One more. " * (1 + 30 * i))
              for i in range(4)] for split in ("train", "test")})
  systems = [command_test.system(command_test.write_run(
      tmp_path / f"{method}_{share}_{seed}", method, share=share, seed=seed),
                                 .5 + .1 * share)
             for method in ("finetune", "step_by_step")
             for share in (.5, 1.0) for seed in (0, 1)]
  command_test.write_results(tmp_path / "scores", systems)
  for arguments, page in (
      (["data", "show", "svamp_step_gold_palm540b",
        f"--html={tmp_path / 'show.html'}"], "show.html"),
      (["teacher", "audit", "--dataset=svamp", "--teacher=palm540b",
        f"--html={tmp_path / 'audit.html'}"], "audit.html"),
      (["report", str(tmp_path), f"--output={tmp_path / 'report'}"],
       "report/report.html")):
    assert cli.main(arguments) == 0
    _, messages = testing.open_in_browser(tmp_path / page)
    assert messages == []
    assert not testing.accessibility_problems(tmp_path / page), page


def test_a_studys_page_is_for_everyone(tmp_path):
  study = definition.read(definition.find("fig4"))
  resolved = resolving.resolve(study, resolving.Options(
      tmp_path / "records", miniature=True))
  jobs = [job for job in resolving.jobs(
      resolved, {}, resolving.Options(tmp_path / "records", miniature=True),
      study.limit) if job.name.startswith("svamp")]
  for job in jobs[1:]:  # One is left to do.
    _, method, size, share, *_ = job.name.split("-")
    run = command_test.write_run(
        jobs_lib.run_dir(tmp_path, job), method, size, float(
            share.removesuffix("pct")) / 100, int(job.name[-1]))
    command_test.write_results(
        jobs_lib.scores_dir(tmp_path, job),
        [command_test.system(run, .5 + .1 * (method == "step_by_step"))])
  assert summary.write(
      tmp_path, study, resolved, jobs, [], {jobs[1].name: "no records"}, True,
      {job.name for job in jobs})
  page, messages = testing.open_in_browser(tmp_path / "report.html")
  assert messages == []
  assert not testing.accessibility_problems(tmp_path / "report.html")
  for title in ("Measured, beside the papers'", "Not done", "Left to do"):
    assert title in page
  assert "few-shot teacher" in page and "no records" in page


def test_a_sheet_is_graded_by_keyboard(tmp_path):
  sync_api = pytest.importorskip("playwright.sync_api")
  pairs = pairs_lib.Pairs(
      {f"q{i}": pairs_lib.Pair(f"q{i}", f"question <b>{i}</b>?", f"bad {i}",
                               f"good {i}") for i in range(4)},
      ("one", "other"), import_counts.Reasons())
  sheet.write(pairs, tmp_path / "sheet.html")
  assert not testing.accessibility_problems(tmp_path / "sheet.html")
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=testing.find_browser(), args=["--no-sandbox"])
    tab = browser.new_context(accept_downloads=True).new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((tmp_path / "sheet.html").as_uri())
    for _ in range(3):  # The fourth is left; each goes on to the next.
      tab.keyboard.press(
          "1" if tab.text_content("#answer_1").startswith("good") else "2")
    tab.reload()  # What was graded is kept.
    assert tab.text_content("#progress") == "3 of 4 pairs are graded."
    assert tab.text_content("#title") == "Pair 4 of 4"
    tab.keyboard.press("k")
    tab.keyboard.press("0")  # Changes the third to a tie, goes to the fourth.
    assert tab.text_content("#title") == "Pair 4 of 4"
    assert "<b>" in tab.text_content("#question")
    tab.fill("#grader", "Ann B.")
    with tab.expect_download() as download:
      tab.click("#save")
    download.value.save_as(tmp_path / "verdicts.csv")
    # One whose browser keeps nothing, and whose name is not of ASCII's letters.
    tab = browser.new_context(accept_downloads=True).new_page()
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.add_init_script(
        "Object.defineProperty(window, 'localStorage', "
        "{get() { throw new DOMException('', 'SecurityError'); }})")
    tab.goto((tmp_path / "sheet.html").as_uri())
    tab.keyboard.press("0")
    assert tab.text_content("#progress") == (
        "1 of 4 pairs are graded. This browser keeps nothing: save before you "
        "leave the page.")
    tab.fill("#grader", "Анна")
    with tab.expect_download() as download:
      tab.click("#save")
    assert download.value.suggested_filename == "verdicts_Анна.csv"
    browser.close()
  assert said == []
  found, reasons = verdicts.read_file(tmp_path / "verdicts.csv", pairs)
  assert [v.grader for v in found] == ["Ann B."] * 3
  assert [v.preference for v in found] == [1.0, 1.0, 0.5]
  assert reasons[verdicts.NOT_GRADED] == 1
