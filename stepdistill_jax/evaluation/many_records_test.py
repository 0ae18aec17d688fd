"""Calls whose records lie on the disk leave what those in memory leave."""

import dataclasses
import json
import types

import pytest

from stepdistill_jax.answers import embeddings
from stepdistill_jax.evaluation import command, examples, scored, systems
from stepdistill_jax.evaluation.report import outputs
from stepdistill_jax.records import datasets, record_writer, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.util import disk_lists

ROWS = 40
SOURCES = {
    "cqa": lambda i: {
        "question": f"Where is {i}?", "choices": ["sea é", f"{i} hills"],
        "answer": "sea é" if i % 2 else f"{i} hills"},
    "anli1": lambda i: {"premise": f"Story {i}{' very' * (i % 9)}",
                        "hypothesis": f"It is {i}.", "label": i % 3},
    "svamp": lambda i: {"input": f"Ann has {i}.\nHow many?",
                        "label": f"( {i}.0 + 1.0 )"},
}


def _write(folder, dataset):
  """Records of two teachers, a raw cache, and predictions."""
  source = [SOURCES[dataset](i) for i in range(ROWS)]
  rows = []
  for i, row in enumerate(map(datasets.get(dataset).read_row, source)):
    rows.append(records.Record(
        id=f"{dataset}/test/{i}", inputs=row.inputs,
        label=row.label if i % 11 != 5 else "",
        teacher_label=row.label if i % 3 else "",
        rationale=f"It is {row.label}. So {i}."))
  record_writer.write_records(folder, dataset, "one", {"test": rows})
  record_writer.write_records(
      folder, dataset, "two", {"test": rows[5:] + rows[:2]})
  with completions.cache_writer(folder / "cache", teacher="three",
                               dataset=dataset, split="test") as writer:
    for i in (*range(30), *range(4)):
      said = f"Think. The answer is {rows[i].label or 'it'}." if i % 7 else None
      writer.append(completions.Completion(
          str(i), source[i], said, error=None if said else "timeout"))
  with (folder / "said.jsonl").open("w") as file:
    for i in (*range(3, ROWS), 9):
      print(json.dumps({
          "id": rows[i].id, "text": rows[i].label if i % 4 else "",
          "score": i / 99, "rationale": "\ud83d so"}), file=file)


def _call(folder, output, dataset):
  assert command.main([
      f"--benchmarks={dataset}", f"--records_dir={folder}", "--teacher=one",
      "--teacher=two", f"--teacher={folder / 'cache'}", "--limit=33",
      f"--predictions={folder / 'said.jsonl'}", f"--output={output}"]) == 0
  results = json.loads((output / "results.json").read_text())
  created = results.pop("created")
  del results["command"]
  return [results, (output / "examples.jsonl").read_bytes(), *(
      (output / name).read_text().replace(created, "")
      for name in ("report.html", "report.md"))]


@pytest.mark.parametrize("dataset", SOURCES)
def test_a_call(tmp_path, monkeypatch, dataset):
  _write(tmp_path, dataset)
  monkeypatch.setattr(outputs, "MOST_EXAMPLES", 50)
  expected = _call(tmp_path, tmp_path / "memory", dataset)
  assert {s["name"] for s in expected[0]["systems"]} == {
      "teacher one", "teacher two", "teacher three", "said"}
  assert all(0 < s["correct"] < s["n"] for s in expected[0]["systems"])
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)
  assert _call(tmp_path, tmp_path / "disk", dataset) == expected


def test_examples_on_the_disk(tmp_path, monkeypatch):
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)
  _write(tmp_path, "svamp")
  found = examples.load("svamp", "test", records_dir=tmp_path, limit=30)
  rows = [row for row in records.read_records(
      tmp_path, "svamp", found.teacher, "test") if row.label]
  assert list(found.examples) == rows[:30] and len(rows) > 30
  assert found.examples[found.numbers[rows[7].id]] == rows[7]
  monkeypatch.undo()
  assert found.fingerprint() == examples.load(
      "svamp", "test", records_dir=tmp_path, limit=30).fingerprint()


def _scored_summaries():
  rows = [examples.Example(
      str(i), f"Text {i}.", f"Bonn is large, says {i}.",
      references=json.dumps(["A large town."] * (i % 3)) if i % 3 else "")
          for i in range(10)]
  example_set = dataclasses.replace(
      examples.make_example_set("mine", "test", "t", rows),
      dataset=dataclasses.replace(
          datasets.get("svamp"), name="mine", label_kind=datasets.SUMMARY))
  given = systems.Answers([
      systems.Answer(row.id, f"Bonn is {row.id} large." if row.id < "8"
                     else None) for row in rows])
  system = types.SimpleNamespace(name="s", kind="predictions", source="file")
  return scored.score(system, example_set, given, embeddings="folder")


def test_metrics_of_summaries(monkeypatch):
  monkeypatch.setattr(
      embeddings, "similarities", lambda folder, texts, references: [
          len(text) / 99 if i % 4 else None for i, text in enumerate(texts)])
  expected = _scored_summaries()
  found = expected.summary["text_metrics"]
  assert found["references"].startswith("up to 3")
  for name in ("rougeL", "words", "embedding"):
    values = [row["metrics"][name] for row in expected.rows
              if name in row["metrics"]]
    assert found["values"][name]["n"] == len(values) == (
        7 if name == "embedding" else 10)
    assert found["values"][name]["mean"] == sum(values) / len(values)
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)
  monkeypatch.setattr(scored, "_TOGETHER", 4)
  again = _scored_summaries()
  assert again.summary == expected.summary
  assert list(again.rows) == list(expected.rows)
  assert again.values == expected.values


@pytest.mark.parametrize("most", [1, 7, 20, 61, 90])
def test_the_chosen_examples(most):
  """As sorting all of them would choose."""
  rows = [{"benchmark": "b", "system": s, "mode": m, "id": i,
           "correct": (i * i) % 7 < 4 or s == "right"}
          for s in ("right", "x", "y") for m in "mn" for i in range(15)]
  groups = {}
  for row in sorted(rows, key=lambda row: row["correct"]):
    groups.setdefault((row["system"], row["mode"]), []).append(row)
  share = max(1, most // 6)
  assert outputs._choose(rows, most) == (rows if most >= len(rows) else [
      row for group in groups.values() for row in group[:share]])


