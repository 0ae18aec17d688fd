"""The line of a run that has ended."""

import io

import rich.console

from stepdistill_jax.study import display, jobs as jobs_lib


def _printed(*scores):
  job = jobs_lib.Job("a", "one run", (), (), 4, "svamp", "")
  console = rich.console.Console(file=io.StringIO(), width=80)
  with display.Display([job], console) as shown:
    shown.begin_run(job)
    shown.end_run(job, {"systems": [
        *({"kind": "checkpoint", "benchmark": name, "accuracy": accuracy,
           "ci95": (0.25, 0.75)} for name, accuracy in scores),
        {"kind": "teacher", "benchmark": "svamp", "accuracy": 0.9}]}, None)
  return console.file.getvalue()


def test_a_run_has_its_accuracy_on_each_data_set():
  assert "one run   50.0% [25.0%, 75.0%]  done earlier" in _printed(
      ("svamp", 0.5))
  assert "one run  esnli 50.0%, svamp 25.0%  done earlier" in _printed(
      ("esnli", 0.5), ("svamp", 0.25))
