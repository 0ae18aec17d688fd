"""launch/colab/stepdistill.ipynb runs from top to bottom in its small setting."""

import json
import os
import pathlib

import pytest

NOTEBOOK = (pathlib.Path(__file__).resolve().parents[1]
            / "launch" / "colab" / "stepdistill.ipynb")


def test_no_output_is_committed():
  notebook = json.loads(NOTEBOOK.read_text("utf-8"))
  for cell in notebook["cells"]:
    assert not cell.get("outputs") and not cell.get("execution_count")


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
