"""The quickstart from nothing to its report, with real processes."""

import dataclasses
import io
import json
import pathlib
import signal
import subprocess
import sys

import gin
import pytest
import rich.console

from stepdistill_jax.evaluation import api
from stepdistill_jax.quickstart import (
  command,
  plan as plan_lib,
  runs as runs_lib,
)
from stepdistill_jax.study import (
  display,
  jobs as jobs_lib,
  places,
  workers as workers_lib,
)
from stepdistill_jax.util import errors

pytestmark = pytest.mark.usefixtures("forked_python")
PYTHON = sys.executable  # No fork, which dies a little after its command.
PLAN = dataclasses.replace(
    plan_lib.BUDGETS["small"], budget="test", train_stories=40,
    validation_stories=8, test_stories=12, shares=(1.0,), seeds=(0, 1),
    steps=2, methods=("finetune", "step_by_step"))


def files(folder):
  """All files with the times of their last change."""
  return {path: path.stat().st_mtime_ns
          for path in folder.rglob("*") if path.is_file()}


def test_from_nothing_to_a_report_and_again(tmp_path, capsys):
  output = tmp_path / "out"
  first = command.run_plan(output, PLAN, workers=2)
  printed = capsys.readouterr().out
  assert "step_by_step − finetune" in printed
  assert "unseen story 3" in printed
  assert len(first["runs"]) == 4
  for run in PLAN.runs():
    rows = (jobs_lib.scores_dir(output, run) / "examples.jsonl").read_text()
    answered = [json.loads(row) for row in rows.splitlines()]
    assert sum(row["system"] == run.name for row in answered) == 12
    assert (jobs_lib.run_dir(output, run) / "checkpoint_2").is_dir()
  for name in ("report.html", "learning_curve.png", "teacher_audit.html"):
    assert (output / name).stat().st_size > 1000
  # The command that it ends in finds the run's records by itself.
  assert "| stepdistill predict " in printed
  student = api.load(jobs_lib.run_dir(output, next(iter(PLAN.runs()))))
  (answer,) = student.predict([first["examples"][0]["input"]])
  assert answer == first["examples"][0]["answer"]
  # A second call does nothing but the report.
  before = files(output / "runs") | files(output / "scores")
  second = command.run_plan(output, PLAN, workers=2)
  assert "done earlier" in capsys.readouterr().out
  assert files(output / "runs") | files(output / "scores") == before
  for key in ("methods", "differences", "examples", "runs"):
    assert second[key] == first[key]


def start(folder):
  """The processes of PLAN, two of them."""
  return workers_lib.Workers(
      folder, runs_lib.jobs(folder, PLAN), places.of_small_students(2))


class _Watcher:
  """Remembers its calls."""

  def __init__(self, at_begin=lambda: None):
    self.begun, self._at_begin = [], at_begin

  def begin_run(self, run):
    self.begun.append(run)
    self._at_begin()


def test_a_killed_process_is_reported_and_ends_the_others(tmp_path):
  plan_lib.claim_folder(tmp_path, PLAN)
  with start(tmp_path) as workers:
    processes = workers.processes
    processes[0].kill()
    with pytest.raises(errors.UserError, match=r"exit code -9.*goes on"):
      workers.run(_Watcher())
  assert not any(process.is_alive() for process in processes)


def test_an_interruption_ends_all_processes(tmp_path):
  plan_lib.claim_folder(tmp_path, PLAN)

  def interrupt():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    with start(tmp_path) as workers:
      processes = workers.processes
      workers.run(_Watcher(interrupt))
  assert not any(process.is_alive() for process in processes)


PARENT = """
import pathlib, sys
from stepdistill_jax.quickstart import quickstart_test
if __name__ == "__main__":
  folder = quickstart_test.start(pathlib.Path(sys.argv[1]))
  print(*(process.pid for process in folder.processes), flush=True)
  sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_killed_command(tmp_path, number):
  script = tmp_path / "parent.py"
  script.write_text(PARENT)
  parent = subprocess.Popen(
      [PYTHON, str(script), str(tmp_path)], stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert len(parent.stdout.readline().split()) == 2
  parent.send_signal(number)
  # Ends when the last process that has this end of the pipe does.
  _, said = parent.communicate(timeout=120)
  assert "Traceback" not in said


@pytest.mark.parametrize("name", ["it's", 'a "b" c', "back\\slash"])
def test_folders_of_any_name_reach_gin(tmp_path, name):
  job = runs_lib.jobs(tmp_path / name, PLAN)[0]
  text = jobs_lib.bindings(tmp_path / name, job)[0]
  assert gin.config.parse_value(text.removeprefix("MODEL_DIR = ")) == str(
      jobs_lib.run_dir(tmp_path / name, job))


def test_runs_that_overlap_have_a_bar_each():
  printed = io.StringIO()
  console = rich.console.Console(
      file=printed, force_terminal=True, width=120)
  now = [0.0]
  jobs = runs_lib.jobs(pathlib.Path("out"), PLAN)
  watcher = display.Display(jobs, console, clock=lambda: now[0])
  first, second, *_ = jobs
  results = {"systems": [
      {"kind": "checkpoint", "accuracy": 0.5, "ci95": [0.25, 0.75]}]}
  with watcher:
    watcher.begin_run(first)
    watcher.begin_run(second)
    for step in range(3):
      now[0] += 1
      watcher.at_step(first, step)
    watcher._bars.refresh()
    watcher.scoring(first, 3, 12)
    watcher.end_run(first, results, 3.0)
    watcher.end_run(second, results, None)
  assert "1/4" in printed.getvalue() and "2/4" in printed.getvalue()
  assert "2 of 2 steps, 1/s" in printed.getvalue()
  assert "50.0% [25.0%, 75.0%]  3s" in printed.getvalue()
  assert "done earlier" in printed.getvalue()
