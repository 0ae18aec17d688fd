"""JSON as people have it: every form gives the same values."""

import codecs
import gzip
import json

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import errors

ROWS = [{"question": f"Is {n} even?\n", "facts": {"n": [n, {"half": n / 2}]},
         "é": "}{[\"\\"} for n in range(5)]
FORMS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines_and_blanks": "\n\n".join(map(json.dumps, ROWS)) + "\n\n",
    "array": json.dumps(ROWS),
    "indented_array": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "indented_objects": "\n".join(json.dumps(r, indent=4) for r in ROWS),
    "indented_objects_with_commas": ",\n".join(
        json.dumps(r, indent=1) for r in ROWS),
    "object_of_rows": json.dumps(dict(zip("abcde", ROWS))),
    "indented_object_of_rows": json.dumps(dict(enumerate(ROWS)), indent=1),
}


def values(path):
  found = list(text_files.read_entries(path))
  assert not any(entry.problem for entry in found)
  assert [entry.number for entry in found if entry.unit == "element"] in (
      [], list(range(1, len(found) + 1)))
  return [entry.value for entry in found]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16",
                                      "utf-32", "gzip"])
def test_every_form_and_encoding_gives_the_rows(tmp_path, form, encoding):
  data = (gzip.compress(FORMS[form].encode()) if encoding == "gzip"
          else FORMS[form].encode(encoding))
  (tmp_path / "a.json").write_bytes(data)
  assert values(tmp_path / "a.json") == ROWS


def test_utf16_of_either_order(tmp_path):
  for name, mark in (("utf-16-le", codecs.BOM_UTF16_LE),
                     ("utf-16-be", codecs.BOM_UTF16_BE)):
    (tmp_path / "a.json").write_bytes(mark + FORMS["lines"].encode(name))
    assert values(tmp_path / "a.json") == ROWS
  (tmp_path / "a.json").write_bytes(codecs.BOM_UTF16_LE + b"{\x00a")
  with pytest.raises(errors.UserError, match="a.json begins as utf-16"):
    values(tmp_path / "a.json")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(
        st.characters(codec="utf-8"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6)


@hypothesis.given(st.lists(st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
    json_values, min_size=1, max_size=3), min_size=1, max_size=4),
                  st.sampled_from([None, 0, 3]),
                  st.sampled_from([5, 64, 2**20]))
@hypothesis.settings(deadline=None, max_examples=60)
def test_objects_one_after_another_in_any_chunks(
    tmp_path_factory, rows, indent, chunk):
  # One object alone may be rows by name; of several none is.
  rows = [*rows, {"last": 1}]
  path = tmp_path_factory.getbasetemp() / "objects.json"
  path.write_text("\n".join(json.dumps(r, indent=indent) for r in rows),
                  "utf-8")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_files, "_CHUNK_BYTES", chunk)
    assert values(path) == rows


def test_one_object(tmp_path):
  path = tmp_path / "a.json"
  for indent in (None, 2):
    path.write_text(json.dumps(ROWS[0], indent=indent))
    assert values(path) == [ROWS[0]]
  # One of several tables is one row; who asks for its columns says so.
  path.write_text(json.dumps({"version": "1", "data": ROWS}))
  assert [list(value) for value in values(path)] == [["version", "data"]]
  by_column = {name: {str(n): row[name] for n, row in enumerate(ROWS)}
               for name in ROWS[0]}
  path.write_text(json.dumps(by_column))
  with pytest.raises(errors.UserError, match=(
      "a.json has one object for each of the columns question, facts, é; .*"
      "orient='records'")):
    values(path)


def test_a_large_object_of_rows_is_read_in_little_memory(
    tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_ENTRY_BYTES", 1000)
  monkeypatch.setattr(text_files, "_CHUNK_BYTES", 100)
  path = tmp_path / "a.json"
  rows = {f'na"me {n}': dict(row, n=n) for n, row in enumerate(ROWS * 20)}
  for indent in (None, 1):
    path.write_text(json.dumps(rows, indent=indent))
    assert values(path) == list(rows.values())


@pytest.mark.parametrize("text, message", [
    (FORMS["indented_objects"][:-20], "element 5 is cut or not JSON"),
    ('{\n "a": 1\n}\n{\n "a": 2,\n}', "element 2 is cut or not JSON"),
    ('{\n "a": 1,\n', "element 1 is cut or not JSON"),
    ("[]", "empty array"), ("[1 2]", "no comma after element 1"),
])
def test_what_is_cut_is_refused(tmp_path, text, message):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(errors.UserError, match=f"a.json.*{message}"):
    list(text_files.read_entries(tmp_path / "a.json"))


def test_a_bad_line_ends_nothing(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"a": 1}\n{"a": \xff"\n{"a":\n{"a": NaN}\n{"a": 2}\n')
  found = list(text_files.read_entries(path))
  assert [e.problem for e in found] == [
      "", "invalid_utf8", "not_json", "", ""]
  assert found[-1].value == {"a": 2} and found[-1].number == 5
