"""A study from nothing to its report: killed, resumed, changed, failing."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from stepdistill_jax.records import record_writer, records
from stepdistill_jax.study import (
  jobs as jobs_lib,
  places,
  workers as workers_lib,
)
from tests.support import real_data as testing

pytestmark = pytest.mark.usefixtures("forked_python")
OURS, OTHERS = "svamp-finetune-base-100pct", "svamp-step_by_step-base-100pct"


def _record(split: str, i: int) -> records.Record:
  label = f"( {i}.0 + 1.0 )"
  return records.Record(
      id=f"svamp/{split}/{i}", inputs=f"Mary has {i} pears and gets one.",
      label=label, teacher_label=label, rationale=f"So {i} + 1.")


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
  """Records of one data set by two teachers, and a small vocabulary."""
  folder = tmp_path_factory.mktemp("data")
  for teacher in ("palm540b", "llama3"):
    record_writer.write_records(folder / "records", "svamp", teacher, {
        split: [_record(split, i) for i in range(first, first + 12)]
        for split, first in (("train", 0), ("validation", 20), ("test", 40))})
  testing.write_tiny_vocabulary(folder / "spiece.model")
  return folder


@pytest.fixture(name="start")
def _start(data, tmp_path):
  def start(*arguments):
    """Starts `stepdistill study`, as a user's process."""
    return subprocess.Popen(
        [sys.executable, "-m", "stepdistill_jax.cli.stepdistill", "study",
         *arguments, f"--records_dir={data / 'records'}"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
            **os.environ, "STEPDISTILL_VOCAB": str(data / "spiece.model"),
            "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)})

  return start


def finish(process):
  """(exit code, output, errors) of what `start` started."""
  out, err = process.communicate(timeout=500)
  return process.returncode, out, err


def contents(folder: pathlib.Path):
  """All files of runs and scores, with the times of their last change."""
  return {path: path.stat().st_mtime_ns for kind in ("runs", "scores")
          for path in (folder / kind).rglob("*") if path.is_file()}


TABLE1 = ("table1", "--miniature", "--only=svamp", "--output=out",
          "--teacher=gptneox20b=llama3", "--workers=2",
          "--gin.network.T5Config.vocab_size=384")


def test_table1_in_miniature_killed_and_finished(start, tmp_path):
  first = start(*TABLE1)
  for line in first.stdout:  # Until a run is done.
    if line.startswith("   1/6"):
      break
  first.kill()
  assert "Traceback" not in first.communicate()[1]
  done = [p.parent.name for p in (tmp_path / "out/scores").glob(
      "*/results.json")]
  assert 1 <= len(done) < 6
  kept = {path: time for path, time in contents(tmp_path / "out").items()
          if any(f"/{name}/" in str(path) for name in done)}
  code, out, err = finish(start(*TABLE1))
  assert code == 0, out + err
  assert out.count("done earlier") >= len(done)
  after = contents(tmp_path / "out")
  assert {path: after[path] for path in kept} == kept
  report = json.loads((tmp_path / "out/report.json").read_text())
  beside = {line["name"]: line for line in report["beside"]}
  for name, expected in ((OURS, 0.6263), (f"{OTHERS}-palm540b", 0.655),
                         (f"{OTHERS}-llama3", 0.63)):
    line = beside[name]
    assert (line["seeds"], line["of"]) == (2, 2)
    assert line["expected"] == pytest.approx(expected)
    assert line["difference"] == pytest.approx(line["mean"] - expected)
    low, high = line["ci95"] or (0, 0)
    assert line["verdict"] == ("no interval" if line["ci95"] is None else
                               "within" if low <= expected <= high
                               else "outside")
  assert beside["cqa-finetune-base-100pct"]["verdict"] == "not measured"
  assert report["failed"] == {} and report["left"] == []
  page = (tmp_path / "out/report.html").read_text()
  assert "In miniature" in page and "Measured, beside" in page
  # The folder says by itself what it is of.
  study = json.loads((tmp_path / "out/study.json").read_text())
  assert study["study"] == "table1" and study["versions"]["jax"]
  assert set(study["data_sha256"]) >= {"svamp/palm540b", "svamp/llama3"}
  assert (tmp_path / "out/study.toml").read_text().startswith("# Step-by-step")
  # Once more: nothing but the report.
  code, out, _ = finish(start(*TABLE1))
  assert code == 0 and contents(tmp_path / "out") == after
  # A change is shown; taken, it puts aside what it concerns.
  changed = (*TABLE1, "--gin.LEARNING_RATE=0.5")
  code, out, err = finish(start(*changed))
  assert code == 2 and err.count("\n") == 1
  assert "bindings was LEARNING_RATE = 0.001" not in err
  assert "--accept" in err and "LEARNING_RATE = 0.5" in err
  assert contents(tmp_path / "out") == after
  code, out, err = finish(start(
      "table2", "--miniature", "--only=svamp", "--output=out"))
  assert code == 2 and "holds the study 'table1', not 'table2'" in err


SWEEP = """
datasets = ["svamp"]
methods = ["finetune"]
sizes = ["tiny"]
seeds = [0, 1]
gin.TRAIN_STEPS = 4
gin.BATCH_SIZE = 4
gin.EVAL_PERIOD = 4
gin.EVAL_STEPS = 1
gin.CHECKPOINT_PERIOD = 4
gin."network.T5Config.vocab_size" = 384
gin."network.T5Config.num_encoder_layers" = 1
gin."network.T5Config.num_decoder_layers" = 1
sweep = {learning_rate = [1e-3, 1e30]}
[students]
tiny = "random"
"""


def test_a_run_that_diverges_is_listed_and_not_chosen(start, tmp_path):
  (tmp_path / "mine.toml").write_text(SWEEP)
  code, out, err = finish(start("mine.toml", "--workers=1"))
  assert code == 1, out + err
  report = json.loads((tmp_path / "study_mine/report.json").read_text())
  (failed,) = report["failed"]
  assert failed == "svamp-finetune-tiny-100pct-learning_rate1e+30-seed0"
  assert "\n" not in report["failed"][failed]
  assert report["choices"] == {
      "svamp-finetune-tiny-100pct": {"learning_rate": 1e-3}}
  (line,) = report["beside"]
  assert (line["seeds"], line["of"]) == (2, 2)
  # The test split was scored with the chosen setting alone.
  assert sorted(p.name for p in (tmp_path / "study_mine/scores").iterdir()) == [
      "svamp-finetune-tiny-100pct-learning_rate0.001-seed0",
      "svamp-finetune-tiny-100pct-learning_rate0.001-seed0-validation",
      "svamp-finetune-tiny-100pct-learning_rate0.001-seed1"]


class _Watcher:
  """Kills the process of the first run, once."""

  def __init__(self):
    self.begun, self.failed, self.kill = [], {}, None

  def begin_run(self, job):
    self.begun.append(job.name)
    if len(self.begun) == 1:
      self.kill()

  def fail_run(self, job, line):
    self.failed[job.name] = line


def test_a_killed_process_is_replaced_and_failures_do_not_stop_others(tmp_path):
  jobs = [jobs_lib.Job(
      name, name, ("gin/recipes/svamp_fintune.gin",), (), 1, "svamp",
      str(tmp_path)) for name in ("a", "b")]
  place = places.Place(1, "cpu", None, "here")
  watcher, called = _Watcher(), []
  with workers_lib.Workers(
      tmp_path, jobs, place, logs=tmp_path / "logs",
      on_failure=lambda: called.append(1)) as workers:
    watcher.kill = workers.processes[0].kill
    failures = workers.run(watcher)
  assert watcher.begun == ["a", "a", "b"] and len(called) == 2
  assert failures == watcher.failed and set(failures) == {"a", "b"}
  assert failures["a"].startswith(
      "unknown gin file 'gin/recipes/svamp_fintune.gin'; did you mean: ")


def test_commands_for_other_machines_are_bash(start, tmp_path):
  code, out, err = finish(start(
      "table1", "--only=svamp*seed0", "--write_commands=jobs"))
  assert code == 0, err
  for name in ("slurm", "tpu_vm", "gke"):
    script = (tmp_path / f"jobs/{name}.sh").read_text()
    assert script.count("--gin_bindings='RANDOM_SEED = 0'") == 3
    subprocess.run(["bash", "-n", tmp_path / f"jobs/{name}.sh"], check=True)
  assert '--gin_file="${STUDENT_BASE}/student.gin"' in script
  again = next(line for line in script.splitlines()
               if "stepdistill study table1" in line)
  assert "--output=" in again and "--records_dir=/" in again
  assert not (tmp_path / "study_table1").exists()


@pytest.mark.parametrize("arguments, message", [
    (["tabel1"], "unknown study 'tabel1'; did you mean: table1"),
    (["table1", "--only=cqa,svmap"],
     "--only=svmap is in no run's name; did you mean: svamp"),
    (["table1", "--teacher=palm"], "expected --teacher=A=B"),
    (["table1", "--student=basis=x"], "unknown size 'basis'"),
    (["table1", "--topology=v5e-9"], "unknown slice 'v5e-9'"),
    (["table1", "--price=1.2"], "--price needs a slice"),
    (["table1", "--only=svamp*finetune", "--student=base=nowhere"],
     "is not the folder of an import"),
])
def test_mistakes_are_one_line(start, arguments, message):
  code, _, err = finish(start(*arguments))
  assert code == 2 and message in err and err.count("\n") == 1, err
