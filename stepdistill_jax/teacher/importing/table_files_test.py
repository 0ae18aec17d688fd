"""CSV and TSV as people have them: each row is one row, or is named."""

import csv
import io

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.teacher.importing import table_files
from stepdistill_jax.util import errors


def read(tmp_path, text, name="rows.tsv"):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return list(table_files.read_entries(path))


def rows(tmp_path, text, name="rows.tsv"):
  return [tuple(e.value.values()) if e.value else e.problem
          for e in read(tmp_path, text, name)]


@pytest.mark.parametrize("line, expected", [
    ('"Stop!" he said.\tneutral', ('"Stop!" he said.', "neutral")),
    ('He said "stop".\tneutral', ('He said "stop".', "neutral")),
    ('"Unclosed\tneutral', ('"Unclosed', "neutral")),
    ('closed"\tneutral', ('closed"', "neutral")),
    ('"\tneutral', ('"', "neutral")),
])
def test_a_mark_that_does_not_close_is_only_a_mark(tmp_path, line, expected):
  text = f"sentence\tlabel\nA man rides.\tno\n{line}\nA dog runs.\tyes\n"
  assert rows(tmp_path, text) == [
      ("A man rides.", "no"), expected, ("A dog runs.", "yes")]
  # At the end too, and with Windows' ends of lines.
  text = f"sentence\tlabel\nA man rides.\tno\n{line}".replace("\n", "\r\n")
  assert rows(tmp_path, text) == [("A man rides.", "no"), expected]


def test_two_rows_never_become_one(tmp_path):
  assert rows(tmp_path, (
      'a\tb\tc\nA man.\tno\t"Not told.\nA dog.\tyes\tIt sleeps."\n'
      "A cat.\tno\tSo.\n")) == [
          ("A man.", "no", '"Not told.'), ("A dog.", "yes", 'It sleeps."'),
          ("A cat.", "no", "So.")]


def test_a_line_with_other_columns_ends_nothing(tmp_path):
  assert rows(tmp_path, 'a\tb\n1\t2\n3\n4\t5\t6\n"7\n8\t9\n') == [
      ("1", "2"), "columns_differ", "columns_differ", "columns_differ",
      ("8", "9")]


cells = st.text(st.sampled_from('ab "\t\n,é'), max_size=6)


@hypothesis.given(st.lists(st.tuples(cells, cells, cells), min_size=1,
                           max_size=5), st.booleans())
@hypothesis.settings(deadline=None, max_examples=300)
def test_a_quoted_file_is_read_back_or_its_rows_are_named(
    tmp_path_factory, table, all_quoted):
  file = io.StringIO(newline="")
  csv.writer(file, delimiter="\t", lineterminator="\n",
             quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
             ).writerows([("x", "y", "z"), *table])
  found = rows(tmp_path_factory.getbasetemp(), file.getvalue())
  expected = [row for row in table]
  if not any("\n" in cell for row in table for cell in row):
    assert found == expected
  else:  # A value over several lines may look like rows.
    assert all(row == "columns_differ" or isinstance(row, tuple)
               for row in found)
    assert len(found) >= len([r for r in table if any(r)])


@pytest.mark.parametrize("cell", [
    'a "b" c', "a\tb", '"all"', '""', "two\nlines", 'first "x"\nsecond\tthird',
    "a\n\nb"])
def test_quoted_values_of_every_kind(tmp_path, cell):
  file = io.StringIO(newline="")
  csv.writer(file, delimiter="\t", lineterminator="\n").writerows(
      [("x", "y", "z"), ("1", cell, "2"), ("3", "4", cell)])
  assert rows(tmp_path, file.getvalue()) == [
      ("1", cell, "2"), ("3", "4", cell)]


@pytest.mark.parametrize("name, separator", [
    ("r.csv", ","), ("r.tsv", "\t"), ("r.csv", ";"), ("r.csv", "\t")])
def test_unnamed_and_repeated_columns_are_there_for_nobody(
    tmp_path, name, separator):
  text = ",question,note,note, \n0,Is 1 even?,a,b,c\n1,Is 2 even?,a,b,c\n"
  found = read(tmp_path, text.replace(",", separator), name)
  assert [e.value for e in found] == [
      {"question": "Is 1 even?"}, {"question": "Is 2 even?"}]
  with pytest.raises(errors.UserError, match=(
      "--columns=label=note: .*line 2: 2 columns have that name; rename")):
    table_files.rename(found[0], {"inputs": "question", "label": "note"})
  with pytest.raises(errors.UserError, match="did you mean: question"):
    table_files.rename(found[0], {"inputs": "qestion"})


def test_encodings(tmp_path):
  text = "question,answer\nÇa va?,oui\n"
  for encoding in ("utf-8", "utf-8-sig", "utf-16"):
    assert rows(tmp_path, text.encode(encoding), "r.csv") == [
        ("Ça va?", "oui")]
  (entry,) = read(tmp_path, text.encode("cp1252"), "r.csv")
  assert (entry.problem, entry.column) == ("invalid_utf8", "question")
  assert entry.where.endswith("r.csv line 2, column 'question'")
  with pytest.raises(errors.UserError, match=(
      "line 1 is not UTF-8; save .*iconv")):
    read(tmp_path, "à,b\n1,2\n".encode("cp1252"), "r.csv")


def test_csv_that_is_none_is_refused_in_one_line(tmp_path):
  with pytest.raises(errors.UserError, match=(
      "rows.csv line 3 is not CSV: .*; double the quotation marks")):
    read(tmp_path, 'a,b\n1,2\n"Stop!" he said.,no\n', "rows.csv")
  with pytest.raises(errors.UserError, match="must have the columns' names"):
    read(tmp_path, "\n1,2\n", "rows.csv")


def test_two_csv_rows_never_become_one(tmp_path):
  merged = 'a,b\n1,2\n"Hello he said,yes\n5 pipes of 3",no\n3,4\n'
  with pytest.raises(errors.UserError, match=(
      "rows.csv lines 3 to 4: one quotation mark .* a whole row by itself")):
    read(tmp_path, merged, "rows.csv")
  quoting = merged + '"of two, in fact",5\n'  # The writer quotes what has one.
  assert rows(tmp_path, quoting, "rows.csv")[1] == (
      "Hello he said,yes\n5 pipes of 3", "no")


@hypothesis.given(
    st.lists(st.tuples(*[st.text(st.sampled_from('ab "é'), max_size=5)] * 3),
             min_size=1, max_size=6))
@hypothesis.settings(deadline=None, max_examples=150)
def test_a_csv_file_without_quoting_keeps_its_rows(tmp_path_factory, table):
  text = "x,y,z\n" + "".join(",".join(row) + "\n" for row in table)
  try:
    found = read(tmp_path_factory.getbasetemp(), text, "plain.csv")
  except errors.UserError:
    return
  assert len(found) == len(table)


@hypothesis.given(
    st.lists(st.tuples(*[st.text(st.sampled_from('ab "\n,é'), max_size=6)] * 3),
             min_size=1, max_size=5), st.booleans())
@hypothesis.settings(deadline=None, max_examples=150)
def test_a_quoted_csv_file_is_read_back_or_refused(
    tmp_path_factory, table, all_quoted):
  file = io.StringIO(newline="")
  csv.writer(file, lineterminator="\n",
             quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
             ).writerows([("x", "y", "z"), *table])
  try:
    found = rows(tmp_path_factory.getbasetemp(), file.getvalue(), "q.csv")
  except errors.UserError as error:
    assert "by itself" in str(error) and not all_quoted
  else:
    assert found == table


@pytest.mark.parametrize("value, name, text", [
    (True, "label", "true"), (False, "inputs", "false"), (3, "label", "3"),
    (2.5, "label", "2.5"), ("x", "label", "x"), (["x"], "label", "x"),
    ([True], "label", "true"), (["a", 1], "rationale", "a\n1"),
    (["a", "b"], "inputs", "a\nb"),
    # Left as they are, for whoever asks to refuse or to use.
    (["a", "b"], "label", ["a", "b"]), ([], "inputs", []),
    (None, "label", None),
    ([{"a": 1}], "inputs", [{"a": 1}]), ({"a": 1}, "label", {"a": 1}),
    (["a", "b"], "choices", ["a", "b"]), (float("inf"), "label", float("inf")),
])
def test_values_as_texts(value, name, text):
  assert table_files.as_text(value, name) == text
