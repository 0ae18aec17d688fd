"""A run in an object store: trained, gone on with, scored, converted.

TensorFlow, orbax and TensorStore are the real ones; what they ask is answered
on this machine (`object_store`).
"""

import json
import pathlib

import pytest

from stepdistill_jax.runs import checkpoint_manifest
from stepdistill_jax.util import argument_parser_test, remote_storage
from tests.support import object_store, students as evaluation_testing

RUN = "gs://bucket/runs/a"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  folder = tmp_path_factory.mktemp("store")
  with pytest.MonkeyPatch.context() as patch, object_store.served(folder) as (
      served, environment):
    for name, value in environment.items():
      patch.setenv(name, value)
    remote_storage._why_not_reachable.cache_clear()
    yield served
    remote_storage._why_not_reachable.cache_clear()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  evaluation_testing.write_records(folder, rows=5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_VOCAB", str(
        folder / evaluation_testing.VOCABULARY))
    yield folder


def run(command: str) -> None:
  assert argument_parser_test.ends_at_once(command) == 0


def training(records, steps: int, model_dir: str = RUN) -> str:
  return (
      "t5x train --engine=embedded --allow_config_change "
      "--gin_file=gin/recipes/svamp_step_by_step.gin "
      f"--gin.MODEL_DIR='{model_dir}' --tfds_data_dir={records} "
      f"--gin.TRAIN_STEPS={steps} --gin.BATCH_SIZE=2 --gin.EVAL_PERIOD=0 "
      "--gin.CHECKPOINT_PERIOD=1 --gin.MAX_INPUTS=32 --gin.MAX_LABEL=16 "
      "--gin.MAX_RATIONALE=16 --gin.network.T5Config.vocab_size=384 "
      "--gin.network.T5Config.num_encoder_layers=1 "
      "--gin.network.T5Config.num_decoder_layers=1 "
      "--gin.train.train_eval_dataset_cfg=None "
      "--gin.train.infer_eval_dataset_cfg=None")


@pytest.fixture(scope="module")
def trained(store, records):
  run(training(records, 1))
  run(training(records, 2))
  return store


def local_copy(store, folder: pathlib.Path) -> pathlib.Path:
  """Copies the run to this machine, as `gcloud storage cp -r` would."""
  for (_, name), (data, _) in store.objects.items():
    if not name.endswith("/"):
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
  return folder / "runs" / "a"


def test_training_goes_on_from_the_store(trained):
  names = {name for _, name in trained.objects}
  for step in (1, 2):
    checkpoint = f"runs/a/checkpoint_{step}/"
    assert {checkpoint + "state/_METADATA", checkpoint + "commit_success.txt",
            checkpoint + checkpoint_manifest.MANIFEST_FILE} <= names
  record = json.loads(trained.objects["bucket", "runs/a/run.json"][0])
  assert [start["step"] for start in record["starts"]] == [0, 1]
  assert record["finished"]["step"] == 2


def test_evaluation_reads_what_training_writes(
    trained, records, tmp_path, capsys):
  results = []
  for path in (RUN, local_copy(trained, tmp_path)):
    run(f"stepdistill-eval --checkpoint=student={path} --benchmarks=svamp "
        f"--records_dir={records} --rationales=no --json")
    system = json.loads(capsys.readouterr().out)["systems"][0]
    assert system["source"] == f"{path}/checkpoint_2"
    results.append({key: system[key] for key in (
        "n", "correct", "unparsable", "accuracy")})
  assert results[0] == results[1]


def test_verify_inspect_and_convert(trained, records, tmp_path, capsys):
  local = local_copy(trained, tmp_path)
  found = []
  for path in (RUN, local):
    run(f"stepdistill checkpoint verify {path}")
    assert [line.rpartition(": ")[2] for line in
            capsys.readouterr().out.splitlines()] == [
                  "good"] * 3  # Of step 0 too.
    run(f"stepdistill checkpoint inspect {path} --json")
    found.append(json.loads(capsys.readouterr().out))
  assert found[0]["arrays"] == found[1]["arrays"]
  assert (found[0]["step"], found[0]["stored_bytes"]) == (2, None)
  weights = []
  for number, path in enumerate((RUN, local)):
    output = tmp_path / f"student{number}"
    run(f"stepdistill checkpoint export-hf {path} --output={output} --quiet "
        f"--records_dir={records}")
    weights.append((output / "model.safetensors").read_bytes())
  assert weights[0] == weights[1]


def test_a_bucket_that_refuses(store, records, capsys):
  store.denied.add("private")
  for command in ("stepdistill checkpoint inspect gs://private/x",
                  "stepdistill-eval --json --checkpoint=gs://private/x",
                  training(records, 1, "gs://private/x")):
    assert argument_parser_test.ends_at_once(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: gs://private/x"), line
    assert "403" in line and "gcloud auth application-default login" in line
