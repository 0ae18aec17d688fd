"""Caches, records and runs of an older version are read, and go on.

`written_by_c6d1c46.tar.xz` was written by that commit's commands: twenty rows
of docs/own_data collected from a teacher on loopback, the records made of
them, and a run of four steps on these.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tarfile

import pytest

from stepdistill_jax.records import records

pytestmark = pytest.mark.usefixtures("forked_python")
ROOT = pathlib.Path(__file__).resolve().parents[1]
_ARCHIVE = pathlib.Path(__file__).with_name("written_by_c6d1c46.tar.xz")
_NETWORK = {"emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 16,
            "num_encoder_layers": 1, "num_decoder_layers": 1,
            "vocab_size": 384}
_MACROS = {"MAX_INPUTS": 128, "MAX_LABEL": 16, "MAX_RATIONALE": 128,
           "EVAL_PERIOD": 4, "CHECKPOINT_PERIOD": 4, "TRAIN_STEPS": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("older")
  with tarfile.open(_ARCHIVE) as archive:
    archive.extractall(folder, filter="data")
  return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(folder / "spiece.model"))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(folder / "records"))


def _run(module, *arguments):
  done = subprocess.run(
      [sys.executable, "-m", f"stepdistill_jax.cli.{module}", *arguments],
      capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_the_cache_gives_the_records_that_are_there(folder):
  _run("stepdistill", "teacher", "import", "--format=cache", "--outputs=cache",
       "--records_dir=again")
  for split, number in {"train": 18, "validation": 2}.items():
    before, after = (
        list(records.read_records(folder / name, "desk", "llama", split))
        for name in ("records", "again"))
    # What an answer was read by is new.
    assert {record.rule for record in after} == {"answer is"}
    assert before == [dataclasses.replace(record, rule="") for record in after]
    assert len(after) == number
  audited = {
      name: json.loads(_run("stepdistill", "teacher", "audit", "--dataset=desk",
                            "--teacher=llama", f"--records_dir={name}",
                            "--json"))["splits"]
      for name in ("records", "again")}
  # Of labels that are known to be of a closed set, contradictions are, too.
  contradictions = {
      name: [split.pop("rationales_contradicting_their_label")["of"]
             for split in splits.values()]
      for name, splits in audited.items()}
  assert contradictions == {"records": [0, 0], "again": [18, 2]}
  assert audited["records"] == audited["again"]
  assert audited["again"]["train"]["records"] == 18


def test_the_run_goes_on_and_is_scored(folder):
  bindings = {**_MACROS, **{f"network.T5Config.{k}": v
                            for k, v in _NETWORK.items()}}
  _run("t5x", "train", '--gin.MODEL_DIR="run"',
       f"--gin_file={ROOT}/docs/own_data/desk_step_by_step.gin",
       *(f"--gin.{name}={value}" for name, value in bindings.items()))
  starts = json.loads((folder / "run/run.json").read_text())["starts"]
  assert [start["step"] for start in starts] == [0, 4]
  scored = json.loads(_run(
      "stepdistill_eval", "--checkpoint=run/checkpoint_4", "--benchmarks=desk",
      "--split=validation", "--json"))
  (student,) = [s for s in scored["systems"] if s["kind"] == "checkpoint"]
  assert (student["cost"]["step"], student["n"]) == (4, 2)
