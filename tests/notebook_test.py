"""launch/colab/stepdistill.ipynb runs from top to bottom, made smaller."""

import hashlib
import io
import json
import os
import pathlib
import urllib.request

import pytest

from tests.support import real_data as testing

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
def test_without_the_published_files_this_is_told(
    download, answer, words, tmp_path, monkeypatch, capsys):
  def urlopen(url, timeout):
    if isinstance(answer, Exception):
      raise answer
    return io.BytesIO(answer)

  monkeypatch.setattr(urllib.request, "urlopen", urlopen)
  assert not download(tmp_path)
  assert words in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_every_cell_runs(tmp_path, monkeypatch):
  nbclient = pytest.importorskip(
      "nbclient", reason="pip install nbclient ipykernel to run notebooks")
  pytest.importorskip("ipykernel")
  import nbformat
  for name, value in {
      "STEPDISTILL_NOTEBOOK_BUDGET": "test",
      "STEPDISTILL_NOTEBOOK_OUTPUT": str(tmp_path / "out"),
      "STEPDISTILL_DATA": str(tmp_path),  # No SVAMP there: that part skips.
      "PYTHONPATH": os.pathsep.join(
          [str(NOTEBOOK.parents[2]), os.environ.get("PYTHONPATH", "")]),
      "JAX_PLATFORMS": "cpu"}.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbclient.NotebookClient(
      notebook, timeout=600, kernel_name="python3",
      resources={"metadata": {"path": str(tmp_path)}}).execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code"
             for output in cell.outputs]
  kinds = [kind for output in outputs for kind in output.get("data", {})]
  assert kinds.count("image/png") == 2  # The learning curve and the losses.
  text = "".join(output.get("text", "") for output in outputs)
  assert "step_by_step" in text and "skipped" in text
  assert (tmp_path / "out" / "report.html").is_file()
