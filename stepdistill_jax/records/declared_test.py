"""A data set and a benchmark of a known kind need one TOML file alone."""

import pytest

from stepdistill_jax.answers import benchmarks
from stepdistill_jax.records import datasets, declared
from stepdistill_jax.util import errors, locations

MINE = """
title = "Mine"
teachers = ["llama3"]
[rows]
kind = "class"
labels = ["yes", "no"]
inputs = ["passage", "question"]
label = "answer"
files.train = ["mine.jsonl"]
[benchmark]
score_rule = "exact label"
decode_length = 8
"""


@pytest.fixture(name="declare")
def _declare(tmp_path, monkeypatch):
  def declare(text):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.toml").write_text(text)
    declared.tables.cache_clear()

  monkeypatch.setattr(locations, "resource_root", lambda: tmp_path)
  yield declare
  declared.tables.cache_clear()


def test_a_declared_data_set_is_read_and_scored(declare):
  declare(MINE)
  dataset = datasets._declared("mine", declared.section("rows")["mine"])
  row = dataset.read_row({"passage": "A b.", "question": "c?", "answer": "no"})
  assert (row.inputs, row.label) == ("A b.\nc?", "no")
  assert dataset.row_files == {"train": ("mine.jsonl",)}
  assert declared.value("mine", "teachers", ()) == ["llama3"]
  (name, table), = declared.section("benchmark").items()
  benchmark = benchmarks._declared(
      name, {**table, "kind": "class", "labels": ["yes", "no"]})
  assert (benchmark.title, benchmark.decode_length) == ("Mine", 8)
  assert benchmark.judge("no", "no").correct
  assert not benchmark.judge("yes", "no").correct


@pytest.mark.parametrize("text, message", [
    ("titel = 'x'", "unknown key 'titel'; did you mean: title.*mine.toml, top"),
    ("[rows]\nkinds = 'x'", "unknown key 'kinds'.*mine.toml, rows"),
    ("rows = 3", "rows must be a table"), ("title", "cannot be read")])
def test_mistakes_are_one_line(declare, text, message):
  declare(text)
  with pytest.raises(errors.UserError, match=message):
    declared.tables()


@pytest.mark.parametrize("rows, message", [
    ({"kind": "clas"}, "kind in tasks/mine.toml 'clas'; did you mean: class"),
    ({"reader": "svmap"}, "reader in tasks/mine.toml 'svmap'.*svamp")])
def test_unknown_kinds_and_readers_have_near_names(rows, message):
  with pytest.raises(errors.UserError, match=message):
    datasets._declared("mine", rows)
