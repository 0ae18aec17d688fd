"""Measured beside expected, and the search for what beats the teacher."""

import json
import types

import pandas as pd

from stepdistill_jax.study import definition, summary

TEACHERS = pd.DataFrame([{
    "dataset": "svamp", "teacher": "palm540b", "split": "test",
    "accuracy": 0.7, "n": 200}])


def line(size, share, mean, ci95=None, expected=None, parameters=1.0,
         method="step_by_step"):
  group = None if mean is None else types.SimpleNamespace(
      mean=mean, ci95=ci95, ci_of="", accuracies={0: mean, 1: mean})
  cell = definition.Cell("svamp", method, size, share, "palm540b")
  return summary.Line(cell, "svamp", 2, group, expected, "table", parameters)


def test_the_paper_is_within_or_outside_the_interval():
  lines = [line("base", 1.0, 0.6, (0.5, 0.7), 0.655),
           line("base", 0.5, 0.6, (0.5, 0.64), 0.655),
           line("base", 0.25, 0.6, None, 0.655),
           line("base", 0.125, None, None, 0.655), line("base", 0.2, 0.6)]
  assert [one.verdict for one in lines] == [
      "within", "outside", "no interval", "not measured", None]
  study = definition.Study("s", "s", (), {}, None, {
      definition.Cell("svamp", "teacher", "base", 1.0, "palm540b"): (
          0.74, "plot")}, "")
  table = summary.beside(lines, TEACHERS, study)
  rows = [dict(zip(table.header, row)) for row in table.rows]
  assert rows[0]["differs by"] == "-5.50" and rows[0]["paper %"] == "65.50"
  assert rows[0]["seeds"] == "2 of 2" and rows[0]["95%"] == "50.0 to 70.0"
  assert rows[-1]["method"] == "few-shot teacher"
  assert (rows[-1]["mean %"], rows[-1]["differs by"]) == ("70.00", "-4.00")
  short = summary.beside(lines, TEACHERS, study, short=True)
  assert short.rows[0][0] == "svamp step_by_step base 100% palm540b"
  # What is measured alone, and how much is not.
  assert len(short.rows) == len(table.rows) - 1
  assert "Not measured: 1 more" in short.note
  pinto = summary.beside([line("base", 1.0, 0.6, method="pinto")], TEACHERS,
                         study, short=True)
  assert "reads the teacher's rationale, at test too" in pinto.rows[0][0]


def test_the_smallest_student_and_the_least_data_are_searched_for():
  lines = [
      line("large", 1.0, 0.8, (0.75, 0.85), parameters=3.0),
      line("large", 0.25, 0.72, (0.65, 0.8), parameters=3.0),
      line("large", 0.125, 0.69, parameters=3.0),
      line("base", 1.0, 0.75, (0.71, 0.8)), line("base", 0.5, 0.71, (0.6, 0.8)),
      line("base", 0.25, None)]
  table = summary.beating(lines, TEACHERS)
  (row,) = [dict(zip(table.header, row)) for row in table.rows]
  assert row["smallest student"] == "base at 50%: 71.00, within chance"
  assert row["least data"] == "large at 25%: 72.00, within chance"
  assert row["cells scored"] == "5 of 6" and row["teacher %"] == "70.00"
  # Beyond chance, where the whole interval is above the teacher.
  (row,) = summary.beating(lines[:1] + lines[3:4], TEACHERS).rows
  assert "base at 100%: 75.00" in row
  (row,) = summary.beating([line("base", s, 0.1) for s in (0.5, 1.0)],
                           TEACHERS).rows
  assert row.count("none") == 2
  assert not summary.beating(lines[:1], TEACHERS).rows


def test_runs_that_learned_from_other_records_are_named(tmp_path):
  jobs = [types.SimpleNamespace(name=f"{cell}-seed{seed}", group=cell)
          for cell in ("a", "b") for seed in (0, 1)]
  for job in jobs:
    (tmp_path / "runs" / job.name).mkdir(parents=True)
    digest = "new" if job.name == "b-seed1" else "old"
    (tmp_path / "runs" / job.name / "run.json").write_text(
        json.dumps({"data": {"files_sha256": digest}}))
  table = summary._other_records(tmp_path, jobs)
  assert list(map(tuple, table.rows)) == [("b", "old: 1, new: 1")]
