"""Failures of object stores: asked for once, one line each."""

import threading
import time
import urllib.error
import urllib.request

import pytest

from stepdistill_jax.util import (
  argument_parser_test,
  entry_points,
  errors,
  remote_storage,
)


@pytest.fixture
def closed_network(monkeypatch):
  """All that would leave this machine goes to a port that nobody listens at."""
  for name in ("http_proxy", "https_proxy"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
  for name in ("no_proxy", "NO_PROXY"):
    monkeypatch.delenv(name, raising=False)
  remote_storage._why_not_reachable.cache_clear()
  yield
  remote_storage._why_not_reachable.cache_clear()


@pytest.mark.parametrize("command", [
    "stepdistill checkpoint import-t5x gs://bucket/x --output=y",
    "stepdistill checkpoint inspect gs://bucket/x",
    "stepdistill checkpoint verify gs://bucket/x",
    "stepdistill checkpoint export-hf gs://bucket/x --output=y",
    "stepdistill-eval --checkpoint=gs://bucket/x --output=y",
    "stepdistill-eval --checkpoint=name=gs://bucket/x --output=y",
    "t5x train --gin_file=gs://bucket/x/a.gin",
    "t5x train --gin_file=a.gin --gin.MODEL_DIR='gs://bucket/x'",
    "t5x train --gin_file=a.gin --tfds_data_dir=gs://bucket/x",
    "t5x eval --gin_file=a.gin --gin.CHECKPOINT_PATH='gs://bucket/x'",
    "stepdistill plan --topology=v5e-8 --gin_file=gs://bucket/x/a.gin",
])
def test_no_network_is_one_line_at_once(
    capsys, closed_network, tmp_path, monkeypatch, command):
  monkeypatch.chdir(tmp_path)
  start = time.monotonic()
  assert argument_parser_test.ends_at_once(command) == 2
  assert time.monotonic() - start < 10
  line, = capsys.readouterr().err.splitlines()
  assert line.startswith("error: gs://bucket/x")
  assert "storage.googleapis.com" in line and "Connection refused" in line
  assert "check the network (and https_proxy), or copy it" in line
  assert not list(tmp_path.iterdir())


def test_a_gin_file_that_names_a_remote_folder(
    capsys, closed_network, tmp_path):
  (tmp_path / "run.gin").write_text(
      "include 'tests/support/testing.gin'\n"
      "MODEL_DIR = 'gs://bucket/x'\nTRAIN_STEPS = 2\n")
  assert argument_parser_test.ends_at_once(
      f"t5x train --engine=embedded --gin_file={tmp_path}/run.gin") == 2
  assert "\nerror: gs://bucket/x cannot be used: storage.googleapis.com" in (
      capsys.readouterr().err)


def test_a_store_that_does_not_answer_is_waited_for_a_while(monkeypatch):
  ended = threading.Event()

  def wait(*unused_args, **unused_options):
    ended.wait()
    raise TimeoutError

  monkeypatch.setattr(remote_storage, "_SECONDS", 0.05)
  monkeypatch.setattr(urllib.request.OpenerDirector, "open", wait)
  remote_storage._why_not_reachable.cache_clear()
  with pytest.raises(errors.UserError, match="did not answer within 0.05 s"):
    remote_storage.require_reachable("gs://bucket/x")
  ended.set()
  remote_storage._why_not_reachable.cache_clear()


def test_any_answer_is_a_network(monkeypatch):
  def refuse(unused_opener, url, timeout):
    raise urllib.error.HTTPError(url, 403, "forbidden", {}, None)

  monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
  remote_storage._why_not_reachable.cache_clear()
  remote_storage.require_reachable("MODEL_DIR = 'gs://bucket/x'")
  remote_storage._why_not_reachable.cache_clear()


def test_other_stores_are_not_supported():
  with pytest.raises(errors.UserError, match="s3:// is not supported; only"):
    remote_storage.require_reachable("s3://bucket/x")


# As TensorFlow and TensorStore said it.
@pytest.mark.parametrize("text, unreachable, advice", [
    ("Error executing an HTTP request: libcurl code 6 meaning 'Could not "
     "resolve hostname', error details: Could not resolve host: "
     "www.googleapis.com\n\t when reading metadata of gs://bucket/x", True,
     "check the network"),
    ("ABORTED: All 32 retry attempts failed: CURL error Could not resolve "
     "hostname [curl_code='6']", True, "check the network"),
    ("Error executing an HTTP request: HTTP response code 403 with body '{}'"
     "\n\t when reading metadata of gs://bucket/x", True, "gcloud auth"),
    ("PERMISSION_DENIED: Anonymous caller does not have storage.objects.get "
     "access [http_response_code='403']", True, "gcloud auth"),
    ("NOT_FOUND: Metadata at gs://bucket/x/.zarray does not exist", False,
     "STEPDISTILL_TRACEBACK=1"),
])
def test_what_libraries_raise_is_one_line(capsys, text, unreachable, advice):
  @entry_points.command
  def main():
    try:
      raise ValueError(text)
    except ValueError as error:
      raise RuntimeError("while restoring") from error

  assert main() == 2
  line, = capsys.readouterr().err.splitlines()
  assert advice in line
  assert line.startswith("error: " + (
      "gs://bucket/x" if "gs://" in text else "a gs:// path"))
  assert remote_storage.is_unreachable(ValueError(text)) == unreachable


def test_errors_of_other_kinds_stay():
  @entry_points.command
  def main():
    raise ValueError("a shape of https://example.org/x is wrong")

  with pytest.raises(ValueError):
    main()


@pytest.mark.parametrize("command", [
    "stepdistill teacher import --format=rows --dataset=gsm8k --rows=HERE",
    "stepdistill teacher collect --dataset=d --teacher=t --rows=HERE/a.csv "
    "--columns=inputs=a --prompt=p --base_url=http://localhost:9 --model=m "
    "--output=HERE/c",
    "stepdistill teacher audit",
    "stepdistill data lengths --dataset=svamp --teacher=t",
    "stepdistill data cache --tasks=svamp_label_gold --output=HERE/c",
    "stepdistill-eval --teacher=t --benchmarks=svamp --json",
])
def test_records_must_be_local(capsys, tmp_path, monkeypatch, command):
  folder, advice = "gs://bucket/records", "copy it to this machine, or mount"
  command = command.replace("HERE", str(tmp_path))
  (tmp_path / "train.jsonl").write_text("{}")
  assert argument_parser_test.ends_at_once(
      f"{command} --records_dir={folder}") == 2
  line, = capsys.readouterr().err.splitlines()
  assert f"--records_dir: must be a local path, got {folder}; {advice}" in line
  monkeypatch.setenv("STEPDISTILL_RECORDS", folder)
  assert argument_parser_test.ends_at_once(command) == 2
  line, = capsys.readouterr().err.splitlines()
  assert line.startswith("error: STEPDISTILL_RECORDS must be a local path, "
                         f"got {folder}; {advice}")


def test_training_s_own_records_must_be_local():
  from stepdistill_jax.config import data_folder
  from stepdistill_jax.data import sources
  with data_folder.tfds_data_dir("gs://bucket/records"):
    with pytest.raises(errors.UserError, match=(
        "the records' folder must be a local path, got gs://bucket/records")):
      sources.RecordsSource("svamp", "t").split_sizes()
