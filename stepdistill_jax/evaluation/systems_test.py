"""Tests of prediction files, cached teachers and the answer store."""

import json

import pytest

from stepdistill_jax.data import sources
from stepdistill_jax.evaluation import evaluate, examples, store, systems
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors


def _set(n=4, **kwargs):
  rows = [examples.Example(f"svamp/test/{i}", f"question {i}", f"{i}",
                           teacher_label=str(i % 2)) for i in range(n)]
  return examples.make_example_set("svamp", "test", "t", rows, **kwargs)


def _file(tmp_path, *rows):
  path = tmp_path / "system.jsonl"
  path.write_text("".join(
      (row if isinstance(row, str) else json.dumps(row)) + "\n"
      for row in rows), encoding="utf-8")
  return path


def _row(i, text="1", **more):
  return {"id": f"svamp/test/{i}", "text": text, **more}


def test_missing_extra_and_repeated_ids_are_counted(tmp_path):
  path = _file(tmp_path, _row(2), _row(0, "0", score=0.5), _row(2),
               {"id": "elsewhere", "text": ""}, "")
  system = systems.PredictionsFile(path)
  (given,) = system.answer(_set())
  assert system.name == "system"
  assert [a.text for a in given.answers] == ["0", None, "1", None]
  assert given.answers[0].score == 0.5
  joined = "\n".join(given.warnings)
  assert "2 of 4 examples have no prediction" in joined
  assert "1 predictions have ids outside" in joined
  assert "1 predictions stand in the file more than once" in joined


def test_what_predict_writes_are_predictions(tmp_path):
  path = _file(
      tmp_path, {"id": "svamp/test/1", "input": "q", "answer": "1", "score": .5,
                 "rationale": "why", "student": "s"},
      {"id": "svamp/test/2", "input": "", "answer": None, "problem": "empty",
       "student": "s"})
  (given,) = systems.PredictionsFile(path).answer(_set())
  assert [(a.text, a.rationale) for a in given.answers] == [
      (None, None), ("1", "why"), (None, None), (None, None)]
  assert "3 of 4 examples have no prediction" in given.warnings[0]


def test_rows_after_the_limit_are_not_extra(tmp_path):
  path = _file(tmp_path, *[_row(i) for i in range(4)])
  (given,) = systems.PredictionsFile(path).answer(_set(limit=2))
  assert not given.warnings


def test_one_file_may_answer_some_of_several_benchmarks(tmp_path):
  path = _file(tmp_path, _row(0), {"id": "cqa/test/0", "text": "b"},
               {"id": "elsewhere", "text": "c"})
  rows = [examples.Example("cqa/test/0", "q", "b")]
  cqa = examples.make_example_set("cqa", "test", "t", rows)
  esnli = examples.make_example_set(
      "esnli", "test", "t", [examples.Example("esnli/test/0", "q", "neutral")])
  system = systems.PredictionsFile(path)
  system.prepare([cqa, esnli])
  assert system.skips(cqa) is None
  assert "has no prediction for any of the 1" in system.skips(esnli)
  (given,) = system.answer(cqa)
  assert len(given.warnings) == 1 and "2 predictions" in given.warnings[0]
  system.prepare([cqa, esnli, _set()])
  (given,) = system.answer(cqa)
  assert "1 predictions have ids outside" in given.warnings[0]
  system.prepare([esnli])  # Nothing fits: an error, not a warning.
  assert system.skips(esnli) is None
  with pytest.raises(errors.UserError, match="none of its 3 ids"):
    system.answer(esnli)


@pytest.mark.parametrize("row, message", [
    ("{", "line 1: not JSON"), ("[1]", "expected an object"),
    ('"x"', "got str"), ('{"id": 3, "text": "a"}', "`id` must be a string"),
    ('{"id": "a"}', "`text` must be a string, got NoneType"),
    ('{"id": "a", "text": "b", "score": 2}', "from 0 to 1"),
    ('{"id": "a", "text": "b", "score": NaN}', "from 0 to 1"),
    ('{"id": "a", "text": "b", "rationale": 1}', "`rationale`"),
    ("[" * 100_000, "not JSON"), ("", "no prediction")])
def test_bad_lines(tmp_path, row, message):
  with pytest.raises(errors.UserError, match=message):
    systems.PredictionsFile(_file(tmp_path, row))


def test_other_bad_files(tmp_path):
  with pytest.raises(errors.UserError, match="was not found"):
    systems.PredictionsFile(tmp_path / "no.jsonl")
  with pytest.raises(errors.UserError, match="is a folder; it is JSON Lines"):
    systems.PredictionsFile(tmp_path)
  (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
  with pytest.raises(errors.UserError, match="not UTF-8"):
    systems.PredictionsFile(tmp_path / "latin.jsonl")
  with pytest.raises(errors.UserError, match="different texts on lines 1 and"):
    systems.PredictionsFile(_file(tmp_path, _row(1, "a"), _row(1, "b")))
  for field, values in (("score", (0.5, 0.6)), ("rationale", ("r", "s"))):
    rows = [{**_row(1, "a"), field: value} for value in values]
    with pytest.raises(errors.UserError, match=f"different {field}s on lines"):
      systems.PredictionsFile(_file(tmp_path, *rows))
  path = _file(tmp_path, {"id": "x", "text": "y"})
  with pytest.raises(errors.UserError, match="none of its 1 ids"):
    systems.PredictionsFile(path).answer(_set())


def test_teacher_of_other_records_counts_what_it_lacks(tmp_path):
  own = [records.Record(id=f"svamp/test/{i}", inputs="q", label="1",
                        teacher_label="3") for i in (1, 2)]
  record_writer.write_records(tmp_path, "svamp", "other", {"test": own})
  (given,) = systems.TeacherRecords("other", tmp_path).answer(_set())
  assert [a.text for a in given.answers] == [None, "3", "3", None]
  assert "2 of 4 examples have no record" in given.warnings[0]
  (given,) = systems.TeacherRecords("t", tmp_path).answer(_set())
  assert [a.text for a in given.answers] == ["0", "1", "0", "1"]


def test_example_sets():
  rows = [examples.Example("a", "q", "1"), examples.Example("b", "r", "")]
  found = examples.make_example_set("svamp", "test", "t", rows)
  assert (len(found.examples), found.without_label) == (1, 1)
  assert found.left_out_ids == {"b"}
  shuffled = examples.make_example_set("svamp", "test", "t", rows[::-1])
  assert found.fingerprint() == shuffled.fingerprint()
  with pytest.raises(errors.UserError, match="none with a gold label"):
    examples.make_example_set("svamp", "test", "t", rows[1:])
  with pytest.raises(errors.UserError, match="occurs twice"):
    examples.make_example_set("svamp", "test", "t", rows[:1] * 2)
  assert examples.overlap(rows, [examples.Example("z", " Q ", "")]) == 1


def test_no_local_data(tmp_path, monkeypatch):
  with pytest.raises(errors.UserError, match="no local data.*there: none"):
    examples.load("cqa", "test", records_dir=tmp_path)
  record_writer.write_records(tmp_path, "svamp", "palm", {"test": [
      records.Record(id="a", inputs="q", label="1")]})
  with pytest.raises(errors.UserError, match="did you mean: palm"):
    examples.load("svamp", "test", records_dir=tmp_path, teacher="plam")
  with pytest.raises(errors.UserError, match="split"):
    examples.load("svamp", "train", records_dir=tmp_path)
  assert examples.load("svamp", "test", records_dir=tmp_path).teacher == "palm"
  # Records without the split, of a teacher that is earlier by name.
  record_writer.write_records(tmp_path, "svamp", "own", {"train": [
      records.Record(id="b", inputs="r", label="2")]})
  record_writer.write_records(tmp_path, "svamp", "me", {"train": [
      records.Record(id="b", inputs="r", label="2")]})
  assert examples.load("svamp", "test", records_dir=tmp_path).teacher == "palm"
  assert examples.load("svamp", "train", records_dir=tmp_path).teacher == "me"
  with pytest.raises(errors.UserError, match="no split 'test'"):
    examples.load("svamp", "test", records_dir=tmp_path, teacher="me")
  # The order is that of training.
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  record_writer.write_records(tmp_path, "svamp", "palm540b", {"train": [
      records.Record(id="c", inputs="s", label="3")]})
  assert examples.load("svamp", "train", records_dir=tmp_path).teacher == (
      sources.RecordsSource("svamp", None).resolve()[1]) == "palm540b"


def test_a_source_says_where_teachers_have_other_rows(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  for teacher, inputs in (("a", "q"), ("b", "r")):
    record_writer.write_records(tmp_path, "svamp", teacher, {"test": [
        records.Record(id=inputs, inputs=inputs, label="1")]})
  line = ("svamp, split test: as no teacher is named, the rows are the 1 of "
          "a's records; b has 1 other ones")
  for teacher in (None, None, "a"):
    sources.RecordsSource("svamp", teacher).get_dataset("test", shuffle=False)
  assert capsys.readouterr().err == f"note: {line}\n"
  for named, warned in ((None, [line]), ("a", [])):
    _, warnings = evaluate.load_example_sets(
        evaluate.EvalConfig(benchmarks="svamp", records_teacher=named),
        tmp_path)
    assert warnings == warned


def _stored(text):
  return {"text": text, "score": 0.5, "tokens": 2, "input_tokens": 9}


def test_store_keeps_whole_lines_and_forgets_other_questions(tmp_path):
  rows = _set().examples
  log = store.AnswerStore(tmp_path).open("run, svamp", {"step": 1})
  log.append([_stored("a"), _stored("b")], rows[:2])
  damaged = json.loads(log.path.read_text().splitlines()[0])
  del damaged["tokens"]
  with log.path.open("ab") as file:
    # Other programs' lines, rotten bytes, and a kill in mid-write.
    file.write(b'{"id": "svamp/test/2"}\n[]\n\xff\n' + b"[" * 100_000)
    file.write(b'\n' + json.dumps(damaged).encode() + b"\n")
    file.write(b'{"id": "svamp/test/2", "te')
  again = store.AnswerStore(tmp_path).open("run, svamp", {"step": 1})
  assert again.get(rows[0])["text"] == "a"
  assert again.get(rows[2]) is None
  again.append([_stored("c")], rows[2:3])
  third = store.AnswerStore(tmp_path).open("run, svamp", {"step": 1})
  assert [third.get(r)["text"] for r in rows[:3]] == ["a", "b", "c"]
  other = examples.Example(rows[0].id, "another question", "0")
  assert third.get(other) is None
  assert not store.AnswerStore(tmp_path).open("run, svamp", {"step": 2}).found


def test_names_are_made_unique():
  both = [systems.TeacherRecords("a"), systems.TeacherRecords("a")]
  systems.unique_names(both)
  assert [s.name for s in both] == ["teacher a", "teacher a (2)"]
