"""The commands of docs/own_data.md, as they stand there."""

import pathlib
import re
import shlex

import pytest

from stepdistill_jax import cli
from stepdistill_jax import testing as project_testing
from stepdistill_jax.teacher import records
from stepdistill_jax.teacher.collect import testing

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_PAGE = _ROOT / "docs" / "own_data.md"

pytest.importorskip("openai")


def commands(program):
  """The page's command lines, as lists of words."""
  text = _PAGE.read_text("utf-8").replace("\\\n", " ")
  return [shlex.split(line) for _, block in re.findall(
      r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
          for line in block.splitlines() if line.startswith(program)]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  if not _PAGE.is_file():
    pytest.skip("the page is part of a checkout, not of the package")
  monkeypatch.chdir(_ROOT)
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path / "records"))
  vocabulary = project_testing.write_tiny_vocabulary(tmp_path / "spiece.model")
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(vocabulary))


def test_collect_audit_and_the_tasks_of_the_gin_file(tmp_path, capsys):
  show, collect, audit = (words[1:] for words in commands("stepdistill "))
  assert cli.main(show) == 0
  assert "My new card arrived" in capsys.readouterr().out
  with testing.loopback() as server:
    collect = [
        f"--base_url={server.base_url}" if word.startswith("--base_url")
        else f"--output={tmp_path / 'cache'}" if word.startswith("--output")
        else word for word in collect]
    assert cli.main([*collect, "--dry-run"]) == 0
    assert "20 requests are missing" in capsys.readouterr().out
    assert cli.main(collect) == 0
    assert server.stats()["paid"] == 20
  out = capsys.readouterr().out
  assert "20 of 20 completions" in out and "18 train, 2 validation" in out
  assert cli.main(audit) == 0
  assert "desk/llama" in capsys.readouterr().out
  assert records.split_sizes(tmp_path / "records", "desk", "llama") == {
      "train": 18, "validation": 2}

  # What the gin file of the third command trains on.
  (train,) = commands("t5x ")
  (gin_file,) = [w.partition("=")[2] for w in train if "--gin_file" in w]
  text = pathlib.Path(gin_file).read_text("utf-8")
  from stepdistill_jax.data import task_registry
  from stepdistill_jax import tasks  # pylint: disable=unused-import

  task_registry.register_found_records()
  names = {name: re.search(rf"^{name} = '?(\w+)", text, re.MULTILINE)[1]
           for name in ("DATASET", "TEACHER", "TRAIN_RECORDS")}
  task = task_registry.require_task(
      f"{names['DATASET']}_step_gold_{names['TEACHER']}")
  examples = list(task.get_dataset(
      sequence_length=None, split="train", shuffle=False).as_numpy_iterator())
  assert len(examples) == int(names["TRAIN_RECORDS"])


def test_the_files_that_the_page_shows_are_there():
  text = _PAGE.read_text("utf-8")
  for link in re.findall(r"\]\(\s*([^)]+?)\s*\)", text):
    assert (_PAGE.parent / link).is_file(), link
  shown = re.search(r"```\n(message,desk,received.*?)```", text, re.DOTALL)[1]
  assert shown in (_PAGE.parent / "own_data/messages.csv").read_text("utf-8")
