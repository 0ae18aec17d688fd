"""A study's folder: what a change concerns, and who works there."""

import json
import types

import pytest

from stepdistill_jax.runs import run_lock
from stepdistill_jax.study import folder as folder_lib
from stepdistill_jax.util import errors

STUDY = types.SimpleNamespace(name="mine", title="Mine", text="# mine\n")
CELL, OTHER = "svamp-finetune-tiny-100pct", "svamp-finetune-tiny-100pct-alpha_b"


def cells(**changes):
  return {name: {"bindings": ["A = 1"], "limit": None, "sweep": {},
                 "gin": "1", **changes} for name in (CELL, OTHER)}


@pytest.fixture(name="folder")
def _folder(tmp_path):
  folder = tmp_path / "a study"
  with folder_lib.claimed(folder, STUDY, cells(), accept=False) as aside:
    assert aside == []
  for name in (f"{CELL}-seed0", f"{CELL}-learning_rate1e-05-seed0",
               f"{OTHER}-seed0"):
    for kind in ("runs", "scores"):
      (folder / kind / name).mkdir(parents=True)
  (folder / f"scores/{CELL}-learning_rate1e-05-seed0-validation").mkdir()
  (folder / "report.html").write_text("as it was")
  return folder


def contents(folder):
  return {str(path.relative_to(folder)) for kind in ("runs", "scores")
          for path in (folder / kind).iterdir()}


def claim(folder, now, accept=True):
  with folder_lib.claimed(folder, STUDY, now, accept) as aside:
    return aside


def test_names_that_begin_alike_are_distinguished(folder):
  now = cells()
  now[CELL] = {**now[CELL], "bindings": ["A = 2"]}
  with pytest.raises(errors.UserError) as caught:
    claim(folder, now, accept=False)
  line = str(caught.value)
  assert f"{CELL}: bindings was A = 1, now A = 2" in line
  assert "puts these runs aside" in line and OTHER not in line
  assert len(contents(folder)) == 7
  assert len(claim(folder, now)) == 6
  assert contents(folder) == {f"runs/{OTHER}-seed0", f"scores/{OTHER}-seed0"}
  # A report of what is not there any more would be read as of what is.
  assert not (folder / "report.html").exists()
  assert (folder / "replaced/report.html").read_text() == "as it was"


def test_a_limit_is_of_scores_and_a_sweep_of_neither(folder):
  runs = {name for name in contents(folder) if name.startswith("runs")}
  wider = cells(sweep={"alpha": [0.3]})
  with pytest.raises(errors.UserError, match="takes the changes; or choose"):
    claim(folder, wider, accept=False)
  before = contents(folder)
  assert claim(folder, wider) == [] and contents(folder) == before
  with pytest.raises(errors.UserError, match="puts these scores aside"):
    claim(folder, cells(sweep={"alpha": [0.3]}, limit=5), accept=False)
  claim(folder, cells(sweep={"alpha": [0.3]}, limit=5))
  assert contents(folder) == runs


def test_nothing_is_moved_where_another_process_works(folder):
  before, said = contents(folder), (folder / "study.json").read_text()
  with run_lock.held(str(folder)):
    with pytest.raises(errors.UserError, match="take another --output=DIR"):
      claim(folder, cells(bindings=[]))
  assert contents(folder) == before
  assert (folder / "study.json").read_text() == said
  claim(folder, cells(bindings=[]))
  assert json.loads((folder / "study.json").read_text())["cells"] == cells(
      bindings=[])
