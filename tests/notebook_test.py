"""launch/colab/stepdistill.ipynb runs from top to bottom, made smaller."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import urllib.request

import pytest

from tests.support import hf_fixtures, hub as hub_support, real_data as testing

pytestmark = pytest.mark.usefixtures("forked_python")
NOTEBOOK = (pathlib.Path(__file__).resolve().parents[1]
            / "launch" / "colab" / "stepdistill.ipynb")


def test_no_output_is_committed():
  notebook = json.loads(NOTEBOOK.read_text("utf-8"))
  for cell in notebook["cells"]:
    assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.fixture
def download():
  """The notebook's function that fetches the published files."""
  cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
  (source,) = ["".join(cell["source"]) for cell in cells
               if "def download" in "".join(cell["source"])]
  names = {}
  exec(source, names)  # Our own cell.
  return names["download"]


def test_the_published_files_are_fetched_once_and_checked(
    download, tmp_path, monkeypatch):
  data, asked = testing.real_data_dir(), []

  def answer(url, timeout):
    asked.append(url)
    name = url.split("/datasets/")[-1].replace(
        url.rsplit("/", 1)[0] + "/spiece", "vocab/spiece")
    return io.BytesIO((data / name).read_bytes())

  monkeypatch.setattr(urllib.request, "urlopen", answer)
  assert download(tmp_path) and len(asked) == 6
  assert download(tmp_path) and len(asked) == 6
  for file in tmp_path.rglob("*.*"):
    expected = (data / file.relative_to(tmp_path)).read_bytes()
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(
        expected).digest()


@pytest.mark.parametrize("answer, words", [
    (OSError("no route to host"), "no route to host"),
    (b"<html>", "is not the file that was published")])
def test_without_the_published_files_this_is_reported(
    download, answer, words, tmp_path, monkeypatch, capsys):
  def urlopen(url, timeout):
    if isinstance(answer, Exception):
      raise answer
    return io.BytesIO(answer)

  monkeypatch.setattr(urllib.request, "urlopen", urlopen)
  assert not download(tmp_path)
  assert words in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.fixture(name="execute")
def _execute(tmp_path, monkeypatch):
  import nbclient
  import nbformat

  def execute(without=(), **environment):
    """Runs the cells that have none of these words; returns their outputs."""
    for name, value in {
        "STEPDISTILL_NOTEBOOK_BUDGET": "test",
        "STEPDISTILL_NOTEBOOK_OUTPUT": str(tmp_path / "out"),
        "PYTHONPATH": os.pathsep.join(
            [str(NOTEBOOK.parents[2]), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu", **environment}.items():
      monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not any(
        word in cell.source for word in without)]
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code"
            for output in cell.outputs]

  return execute


@pytest.mark.interop
def test_every_cell_runs(execute, tmp_path):
  outputs = execute(STEPDISTILL_DATA=str(tmp_path))  # Without SVAMP: skipped.
  kinds = [kind for output in outputs for kind in output.get("data", {})]
  assert kinds.count("image/png") == 2  # The learning curve and the losses.
  text = "".join(output.get("text", "") for output in outputs)
  assert "step_by_step" in text and "skipped" in text
  assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.interop
@pytest.mark.parametrize("reached", [True, False])
def test_a_row_of_the_paper_from_a_pretrained_student(
    execute, tmp_path, monkeypatch, reached):
  data, family = testing.real_data_dir(), "t5_v1_1"
  monkeypatch.setitem(hf_fixtures.FAMILIES, family, dataclasses.replace(
      hf_fixtures.FAMILIES[family], vocab_size=32128))
  hf_fixtures.write_folder(tmp_path / "files", family)
  shutil.copy(data / "vocab/spiece.model", tmp_path / "files")
  with hub_support.serve({"google/t5-tiny": {"main": tmp_path / "files"}}
                         ) as hub:
    outputs = execute(
        ["run_plan", "losses.png", "learning_curve.png", "examples.jsonl"],
        STEPDISTILL_DATA=str(data),
        STEPDISTILL_NOTEBOOK_STUDENT="google/t5-tiny",
        XDG_DATA_HOME=str(tmp_path / "home"), HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE=str(int(not reached)),
        HF_ENDPOINT=hub.url)
  text = "".join(output.get("text", "") + output.get("data", {}).get(
      "text/plain", "") for output in outputs)
  assert ("google/t5-tiny cannot be fetched" in text) == (not reached)
  # Without network the student begins from random parameters.
  assert ("trained to step 2" in text) == (not reached)
  report = tmp_path / "out/table1/report.json"
  assert report.is_file() == reached
  if reached:
    (line,) = [line for line in json.loads(report.read_text())["beside"]
               if line["seeds"]]
    assert line["name"] == "svamp-step_by_step-base-100pct-palm540b"
    assert line["expected"] == pytest.approx(0.655)
