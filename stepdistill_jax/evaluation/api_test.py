"""Tests of the Python API, on a random student of 20 kB."""

import doctest
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import stepdistill_jax as sd
from stepdistill_jax.cli import stepdistill
from stepdistill_jax.evaluation import api, checkpoints, examples, model_config
from stepdistill_jax.util import errors
from tests.support import forking, students as testing

SETTINGS = dict(batch_size=8, rationale_length=16)


@pytest.fixture(name="records_dir", scope="module", autouse=True)
def _records_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  testing.write_records(folder, 11)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_RECORDS", str(folder))
    patch.setenv("STEPDISTILL_VOCAB", str(folder / testing.VOCABULARY))
    yield folder


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory, records_dir):
  return testing.write_run(tmp_path_factory.mktemp("base") / "runs" / "svamp",
                           records_dir=records_dir)


@pytest.fixture(name="student", scope="module")
def _student(run):
  return sd.load(run, **SETTINGS)


def test_answers_are_those_of_the_evaluation(
    run, student, records_dir, tmp_path):
  example_set = examples.load("svamp", "test", records_dir=records_dir)
  (expected,) = checkpoints.Checkpoint(
      run, model_config.ModelConfig(**SETTINGS), records_dir=records_dir
  ).answer(example_set)
  texts = [example.inputs for example in example_set.examples]
  assert student.predict(texts) == [a.text for a in expected.answers]
  assert student.explain(texts) == [a.rationale for a in expected.answers]
  # In another order, which is kept.
  assert student.predict(texts[::-1]) == [
      a.text for a in expected.answers[::-1]]
  given = student.answers(texts, explain=True)
  assert given.cut == expected.cut
  rows = tmp_path / "questions.jsonl"
  rows.write_text("".join(json.dumps({"id": e.id, "input": e.inputs}) + "\n"
                          for e in example_set.examples))
  assert stepdistill.main(
      ["predict", str(run), str(rows), f"--output={tmp_path / 'answers.jsonl'}",
       "--batch_size=8"]) == 0
  found = map(json.loads, (tmp_path / "answers.jsonl").open())
  assert [(row["id"], row["answer"], row["score"]) for row in found] == [
      (a.id, a.text, pytest.approx(a.score, rel=1e-4))
      for a in expected.answers]
  results = sd.evaluate(student, "svamp", limit=11)
  assert [row["prediction"] for row in results["examples"][:11]] == [
      a.text for a in expected.answers]


def test_scores_are_those_of_the_evaluated_rationales(student, records_dir):
  example_set = examples.load("svamp", "test", records_dir=records_dir)
  (given,) = student._system.ask(student._system.questions(example_set, "yes"))
  taught = [(e, a) for e, a in zip(example_set.examples, given.answers)
            if e.rationale]
  explainer = sd.load(student._system.source, prefix="explain: ", **SETTINGS)
  explainer._system._student = student._system.student  # Compiled already.
  found = explainer.score([e.inputs for e, _ in taught],
                          [e.rationale for e, _ in taught])
  # Float32 sums in other batches.
  np.testing.assert_allclose(
      found, [a.rationale_log_prob for _, a in taught], rtol=1e-5)


def test_records(records_dir):
  found = sd.load_records("svamp", split="test")
  assert [record.id for record in found] == [
      f"svamp/test/{i}" for i in range(11)]
  assert sd.load_records("svamp", "palm540b", "test", limit=2) == found[:2]
  with pytest.raises(errors.UserError, match="did you mean: palm540b"):
    sd.load_records("svamp", "plam540b")


def test_the_doctest(run, monkeypatch):
  monkeypatch.chdir(run.parent.parent)
  assert doctest.testmod(api) == (0, 5)


def test_bad_texts(student):
  assert student.predict([]) == []
  for text, problem in ((3, "not_text"), (" ", "empty"), ("a\0", "nul_"),
                        ("\ud800", "invalid_utf8"), ("a b " * 1100, "too_long"),
                        ("a" * 10**7, "too_long")):
    with pytest.raises(errors.UserError, match=rf"texts\[1\].*{problem}"):
      student.predict(["a", text])
  with pytest.raises(errors.UserError, match="is one str"):
    student.predict("How many?")
  with pytest.raises(errors.UserError, match="1 texts and 2 answers"):
    student.score(["a"], ["b", "c"])
  for given in ("How many?", 7):
    with pytest.raises(errors.UserError, match="answers is one "):
      student.score(["a"], given)
  with pytest.raises(errors.UserError, match="max_input_tokens must be"):
    sd.load("anything", max_input_tokens=0)
  with pytest.raises(errors.UserError, match="limit must be"):
    sd.load_records("svamp", limit=-1)


def test_texts_of_any_kind(student):
  texts = ["a", "b a"]
  for of_kind in (np.array, tuple, iter, dict.fromkeys):
    assert student.predict(of_kind(texts)) == student.predict(texts)
    assert student.score(texts, of_kind(texts)) == (
        student.score(of_kind(texts), texts))


def test_students_that_are_not_there(run, tmp_path):
  with pytest.raises(errors.UserError, match="no such folder"):
    sd.load(tmp_path / "nothing")
  with pytest.raises(errors.UserError, match="did you mean: batch_size"):
    sd.load(run, batchsize=3)


def test_a_missing_vocabulary_is_named(run, tmp_path):
  """In a process that has not seen it."""
  (tmp_path / "q.txt").write_text("How many?\n")
  found = subprocess.run(
      [forking.python(), "-m", "stepdistill_jax.cli.stepdistill", "predict",
       str(run), str(tmp_path / "q.txt"), f"--output={tmp_path / 'out'}"],
      capture_output=True, text=True, env={
          **os.environ, "STEPDISTILL_VOCAB": str(tmp_path / "no.model")})
  assert found.returncode == 2, found.stderr
  assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
  assert str(tmp_path / "no.model") in found.stderr
  assert not (tmp_path / "out").exists()


def test_a_student_without_rationales(records_dir, tmp_path):
  student = sd.load(testing.write_run(
      tmp_path / "run", kind="label", records_dir=records_dir))
  with pytest.raises(errors.UserError, match="not trained to give rationales"):
    student.explain(["How many?"])


def test_importing_the_package_stays_light():
  code = ("import sys, stepdistill_jax as sd; "
          "assert sd.load and 'evaluate' in dir(sd); "
          "import t5x; assert t5x.__name__.endswith('t5x'); "
          "print([m for m in ('tensorflow', 'jax', 'torch', 'gin') "
          "if m in sys.modules])")
  found = subprocess.run([sys.executable, "-c", code], capture_output=True,
                         text=True, check=True)
  assert found.stdout.strip() == "[]"
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    _ = sd.lod
