"""Tests of `stepdistill predict`, on a student that turns texts around.

`api_test` has the command with a checkpoint.
"""

import errno
import io
import json
import os
import subprocess
import sys
import types

import pytest

from stepdistill_jax.cli import stepdistill
from stepdistill_jax.evaluation import api, predict, systems, texts
from stepdistill_jax.util import errors


class _Turned:
  """A system whose answer is the text, backwards."""

  name, explains = "turned", True

  def __init__(self):
    self.asked = []
    self.left = 10**9  # Texts until it is interrupted.

  def identity(self):
    return {"kind": "turned"}

  def questions(self, example_set, rationales=None):
    return types.SimpleNamespace(
        example_set=example_set, rationales=rationales, prefix="",
        label_length=64, encode=lambda text, prefix="": text.split())

  def ask(self, questions):
    rows = questions.example_set.examples
    self.left -= len(rows)
    if self.left < 0:
      raise KeyboardInterrupt
    self.asked += [row.inputs for row in rows]
    explain = questions.rationales != "no"
    return [systems.Answers(tuple(systems.Answer(
        row.id, row.inputs[::-1], score=0.5,
        rationale=row.inputs.upper() if explain else None) for row in rows))]


@pytest.fixture(name="system")
def _system(monkeypatch):
  system = _Turned()
  monkeypatch.setattr(
      api, "load", lambda path, *, max_input_tokens, **_: api.Student(
          system, max_input_tokens))
  monkeypatch.setattr(predict, "_CHUNK", 4)
  return system


def _call(*flags):
  return stepdistill.main(["predict", "student", *map(str, flags)])


def _rows(path):
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


LINES = [f"mary has {i} pears ä" for i in range(11)]


def _write(path, data):
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return path


def test_all_forms_give_the_same_answers(system, tmp_path, monkeypatch):
  text = "\n".join(LINES)
  files = {
      "a.txt": text, "a": "\n\n" + text + "\n\n",
      "b.jsonl": "".join(json.dumps({"id": f"q{i}", "input": line}) + "\n"
                         for i, line in enumerate(LINES)),
      "c.jsonl": "".join(json.dumps(line) + "\n" for line in LINES),
      "d.csv": "n,question\n" + "".join(
          f"{i},{line}\n" for i, line in enumerate(LINES)),
      "e.tsv": "whatever\n" + text,
      "f.txt": text.encode("utf-16"), "g.txt": b"\xef\xbb\xbf" + text.encode()}
  ids = {}
  for name, data in files.items():
    output = tmp_path / f"{name}.out"
    assert _call(_write(tmp_path / name, data), f"--output={output}") == 0
    rows = _rows(output)
    assert [(r["input"], r["answer"], r["score"]) for r in rows] == [
        (line, line[::-1], 0.5) for line in LINES]
    ids[name] = [row["id"] for row in rows][:2]
  assert ids["a.txt"] == ["1", "2"] and ids["a"] == ["3", "4"]
  assert ids["b.jsonl"] == ["q0", "q1"] and ids["d.csv"] == ["2", "3"]
  monkeypatch.setattr(
      sys, "stdin", types.SimpleNamespace(
          buffer=io.BytesIO(files["b.jsonl"].encode())))
  output = tmp_path / "stdin.out"
  assert _call("-", "--format=jsonl", "--explain", f"--output={output}") == 0
  assert [row["rationale"] for row in _rows(output)] == [
      line.upper() for line in LINES]


def test_a_resumed_call_writes_the_same_file(system, tmp_path, capsys):
  questions = _write(tmp_path / "q.txt", "\n".join(LINES))
  whole, output = tmp_path / "whole.jsonl", tmp_path / "output.jsonl"
  assert _call(questions, f"--output={whole}") == 0
  system.asked.clear()
  system.left = 8
  assert _call(questions, f"--output={output}") == 130
  assert len(_rows(output)) == 8
  # The last line is torn by a kill.
  os.truncate(output, output.stat().st_size - 5)
  system.left = 10**9
  system.asked.clear()
  assert _call(questions, f"--output={output}") == 0
  assert system.asked == LINES[7:]
  assert output.read_bytes() == whole.read_bytes()
  # Again: nothing is asked.
  system.asked.clear()
  assert _call(questions, f"--output={output}") == 0
  assert not system.asked and output.read_bytes() == whole.read_bytes()
  capsys.readouterr()
  # What belongs to other texts or another way of asking is left alone.
  other = _write(tmp_path / "other.txt", "\n".join(LINES[::-1]))
  shorter = _write(tmp_path / "shorter.txt", "\n".join(LINES[:5]))
  for flags, message in (
      ((other,), "an answer to 'mary has 0"), ((shorter,), "an answer to '6'"),
      ((questions, "--explain"), "asked with other flags")):
    assert _call(*flags, f"--output={output}") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "--overwrite" in said
    assert output.read_bytes() == whole.read_bytes()
  thesis = _write(tmp_path / "thesis.tex", "years of work")
  for text in ("years of work", "years of work\n"):
    _write(thesis, text)
    assert _call(questions, f"--output={thesis}") == 2
    assert thesis.read_text() == text
  assert _call(other, f"--output={output}", "--overwrite") == 0
  assert [row["input"] for row in _rows(output)] == LINES[::-1]


def test_what_cannot_be_asked_keeps_its_place(system, tmp_path, capsys):
  data = b"\n".join([
      b"one", b"caf\xe9", b"x" * (5 * 2**20), b"nul\0", b"w " * 3000, b"last"])
  output = tmp_path / "out"
  assert _call(_write(tmp_path / "q.txt", data), f"--output={output}") == 0
  rows = _rows(output)
  assert [(row["id"], row["answer"], row.get("problem")) for row in rows] == [
      ("1", "eno", None), ("2", None, "invalid_utf8"), ("3", None, "too_long"),
      ("4", None, "nul_characters"), ("5", None, "too_long"),
      ("6", "tsal", None)]
  said = capsys.readouterr().err
  assert said == (
      "4 of 6 texts have no answer (1 invalid_utf8, 2 too_long, "
      "1 nul_characters): see `problem` in their rows\n")
  assert _call(tmp_path / "q.txt", f"--output={output}") == 0
  assert capsys.readouterr().err == said
  rows = "".join(json.dumps(row) + "\n" for row in (
      {"input": "one"}, {"input": ["a", {}]}, {"question": "q"}, {"input": " "},
      {"input": 7}, {"input": "\ud800"}, 3)) + "{\n"
  assert _call(_write(tmp_path / "q.jsonl", rows)) == 0
  assert [json.loads(line).get("problem") for line in
          capsys.readouterr().out.splitlines()] == [
              None, "not_text", "no_such_column", "empty", None,
              "invalid_utf8", "not_text", "not_json"]


@pytest.mark.parametrize("name, data, message", [
    ("q.txt", b"", "is empty"), ("q.txt", b"\n \n", "no text that can"),
    ("q.txt", b"caf\xe9\n", "(1 invalid_utf8)"),
    ("q.csv", "a,b\n1,2\n", "--column=NAME"), ("q.csv", "", "is empty"),
    ("q.csv", 'a\n"' + "x" * (5 * 2**20) + '"\n', "line 2 is not CSV"),
    ("q.json", "[1, ", "ends inside"), ("no/q.txt", None, "is not there"),
])
def test_files_that_are_refused(
    system, tmp_path, capsys, name, data, message):
  path = tmp_path / name
  if data is not None:
    _write(path, data)
  assert _call(path) == 2
  printed = capsys.readouterr()
  assert message in printed.err and printed.err.count("\n") == 1
  assert not system.asked


def test_mistakes_of_files_are_reported_before_a_student_is_loaded(
    tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(api, "load", None)
  path = _write(tmp_path / "q.txt", "one")
  closed = _write(tmp_path / "closed.jsonl", "")
  monkeypatch.setattr(os, "access", lambda place, mode: place != closed)
  for flags, message in (
      ((_write(tmp_path / "blank.txt", "\n \n"),), "no text that can be asked"),
      ((path, f"--output={tmp_path}", "--overwrite"), "is not a file"),
      ((path, f"--output={closed}"), "cannot be written (permission denied)")):
    assert _call(*flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_column_that_is_not_there(system, tmp_path, capsys):
  path = _write(tmp_path / "q.csv", "question,answer\n1,2\n")
  assert _call(path, "--column=qestion") == 2
  assert "did you mean: question" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--column=question", "--column=other"])
def test_columns_of_one_name(system, tmp_path, capsys, flag):
  path = _write(tmp_path / "q.csv", "question,question,other\na,b,c\n")
  code = _call(path, flag)
  assert code == (2 if "question" in flag else 0)
  assert code == 0 or "2 columns have that name" in capsys.readouterr().err
  path = _write(tmp_path / "two.csv", "question,question\na,b\n")
  assert _call(path) == 2
  assert "2 columns have that name" in capsys.readouterr().err


def test_flags_that_would_do_nothing(system, tmp_path, capsys):
  path = _write(tmp_path / "q.txt", "a,b\n1,2\n")
  for flag, message in [("--format=csv", "is of standard input"),
                        ("--column=a", "read as text, a line each")]:
    assert _call(path, flag) == 2
    assert message in capsys.readouterr().err


def test_the_texts_are_not_written_over(system, tmp_path, capsys):
  path = _write(tmp_path / "q.jsonl", json.dumps({"input": "a"}) + "\n")
  before = path.read_bytes()
  for other in (path, tmp_path / "no" / "o.jsonl"):
    assert _call(path, f"--output={other}", "--overwrite") == 2
  assert "is the file of the texts" in capsys.readouterr().err
  assert path.read_bytes() == before and not system.asked


def test_rows_of_standard_input_are_named_as_such(
    system, capsys, monkeypatch):
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n")))
  assert _call("-", "--format=csv", "--column=c") == 2
  assert "error: standard input line 2: " in capsys.readouterr().err


def test_what_is_not_text_is_taken_up(system, tmp_path, capsys):
  path = _write(tmp_path / "q.jsonl", "\n".join(
      '{"input": ' + value + '}' for value in (
          "NaN", "Infinity", "[NaN]", '{"a": NaN}', "1e999", "null",
          '"\\ud800"', "[[1]]", "12345678901234567890123", '"last"')))
  output = tmp_path / "o.jsonl"
  assert _call(path, f"--output={output}") == 0
  whole = output.read_bytes()
  output.write_bytes(whole[:-5])
  assert _call(path, f"--output={output}") == 0, capsys.readouterr().err
  assert output.read_bytes() == whole

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")
  for line in whole.splitlines():
    json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("name, before, after", [
    ("long.txt", b"", b"\nlast\n"), ("long.tsv", b"input\n", b"\nlast\n"),
    ("long.csv", b"input\n", b"\nlast\n"),
    ("long.jsonl", b'{"input": "', b'"}\n{"input": "last"}\n')])
def test_one_long_line_takes_little_memory(tmp_path, name, before, after):
  path = tmp_path / name
  with path.open("wb") as file:
    file.write(before)
    for _ in range(100):
      file.write(b"x" * 2**20)
    file.write(after)
  import tracemalloc
  tracemalloc.start()
  if name.endswith(".csv"):  # Where a quotation mark may close, nobody knows.
    with pytest.raises(errors.UserError, match="line 2 .* longer than 8,388"):
      list(texts.read(path))
  else:
    found = list(texts.read(path))
    assert [(text.value, text.problem) for text in found] == [
        (None, "too_long"), ("last", "")]
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 64 * 2**20


def test_a_full_disk_loses_nothing(system, tmp_path, capsys, monkeypatch):
  path, output = _write(tmp_path / "q.txt", "\n".join(LINES)), tmp_path / "out"

  def full(*unused_args):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(predict.os, "fsync", full)
    assert _call(path, f"--output={output}") == 2
  assert "answers so far are kept" in capsys.readouterr().err
  assert _call(path, f"--output={output}") == 0
  assert [row["input"] for row in _rows(output)] == LINES
  # A device would give bytes without end.
  assert _call(path, "--output=/dev/zero") == 2
  assert "is not a file" in capsys.readouterr().err


def test_a_table_has_no_codes_of_a_terminal(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  predict._print_table([
      {"id": "1", "input": "a\x1b[31m", "answer": "[red]b", "problem": None}])
  said = capsys.readouterr().out
  assert "\x1b" not in said and "[red]b" in said and "problem" not in said


def test_a_student_without_rationales_is_refused(system, tmp_path, capsys):
  system.explains = False
  path = _write(tmp_path / "q.txt", "one")
  assert _call(path, "--explain", f"--output={tmp_path / 'out'}") == 2
  assert "not trained to give rationales" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_help_loads_no_framework():
  code = ("import sys; from stepdistill_jax.cli import stepdistill; "
          "stepdistill.build_parser().format_help(); "
          "print([m for m in ('tensorflow', 'jax', 'torch') "
          "if m in sys.modules])")
  found = subprocess.run([sys.executable, "-c", code], capture_output=True,
                         text=True, check=True)
  assert found.stdout.strip() == "[]"


def test_one_answer_of_a_student_that_writes_its_rationale_first():
  system = _Turned()
  system.ask = lambda questions: [systems.Answers(
      (systems.Answer("0", "so it is. The answer is 4"),
       systems.Answer("1", "so it is")), answer_after_rationale=True)]
  student = api.Student(system)
  assert student.predict(["a", "b"]) == ["4", None]
  assert student.explain(["a", "b"]) == [
      "so it is. The answer is 4", "so it is"]
  with pytest.raises(errors.UserError):
    student.predict([""])
