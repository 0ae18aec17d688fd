"""Property tests: damaged files are refused or counted, never a traceback.

A small published data set is damaged in one to three places, in over a
thousand ways, and imported. Either there is one line that names a file, and
nothing is left behind, or every row is a record or counted under a reason.
"""

import codecs
import gzip
import json
import os
import pathlib
import shutil
import tempfile

import hypothesis
from hypothesis import strategies as st
import pytest

from stepdistill_jax.answers import (
  labels as labels_lib,
  parsing,
  rules as rules_lib,
)
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher.importing import formats as importing
from stepdistill_jax.util import errors

ROWS = [json.dumps({"input": f"Tom has {n} pears and eats one.\nHow many?",
                    "label": f"( {n}.0 - 1.0 )"}).encode() for n in range(7)]
OUTPUTS = [json.dumps(
    f"Tom has {n} pears and eats one, so {n - 1} pears. The answer is "
    f"({n} - 1).\n\nQ: A man has").encode() for n in range(7)]
DEEP = b"[" * 20_000 + b"]" * 20_000
# Values that are no row, or no completion.
BAD_VALUES = (
    b"null", b"NaN", b"-Infinity", b"[]", b"{}", b"17", b"true", b'"text"',
    b"{", b"}", b'{"input": null, "label": "1"}', b'{"input": 5}',
    b'{"input": {"a": [1]}, "label": "(1)"}', b'{"input": "a", "label": NaN}',
    b'{"input": "a", "label": ["(1)"]}', b'{"input": "  ", "label": ""}',
    b'{"label": "(1)"}', b'{"input": "\\ud800", "label": "(1)"}',
    b'{"input": "a\xff", "label": "(1)"}', b'"\\ud800"', b'"\xff\xfe"',
    b'""', b'" "', b"1" * 5000, DEEP, b'"' + b"x" * (5 * 2**20) + b'"',
    b'{"input": "' + b"x" * (5 * 2**20) + b'", "label": ""}',
    b'{"input": "a", "label": "(' + b"(" * 3000 + b'1"}',
    b'"The answer is (9 ** 9 ** 9). The answer is (1/0)"', b'"Q:"',
    ROWS[0], OUTPUTS[0])
WHOLE_FILES = (
    b"", b" \n", b"[]", b"{}", b"null", b"\xff\xfe[\x00]\x00", b"\x1f\x8b",
    b"\x1f\x8b\x08\x00garbage", b"PK\x03\x04", b"[1, 2", b"\xef\xbb\xbf[]",
    b"\x00" * 100)
FILES = ("svamp_train.json", "train_CoT_0.json", "train_CoT_1.json")

damages = st.one_of(
    st.tuples(st.just("value"), st.sampled_from(FILES), st.integers(0, 6),
              st.sampled_from(BAD_VALUES)),
    st.tuples(st.just("cut"), st.sampled_from(FILES), st.integers(0, 2000)),
    st.tuples(st.just("flip"), st.sampled_from(FILES), st.integers(0, 2000),
              st.integers(0, 7)),
    st.tuples(st.just("insert"), st.sampled_from(FILES), st.integers(0, 2000),
              st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("whole"), st.sampled_from(FILES),
              st.sampled_from(WHOLE_FILES)),
    st.tuples(st.sampled_from(
        ("gzip", "cut_gzip", "flip_gzip", "missing", "twice", "folder",
         "link_out", "utf16", "crlf", "bom", "double_gzip")),
              st.sampled_from(FILES), st.integers(0, 2000)),
    st.tuples(st.just("swap"), st.just(FILES[1]), st.just(0)))


def source(folder: pathlib.Path) -> None:
  (folder / FILES[0]).write_bytes(b"\n".join(ROWS) + b"\n")
  (folder / FILES[1]).write_bytes(b"[" + b", ".join(OUTPUTS[:4]) + b"]")
  (folder / FILES[2]).write_bytes(b"[" + b", ".join(OUTPUTS[4:]) + b"]")


def damage(folder: pathlib.Path, kind: str, name: str, *how) -> None:
  path = folder / name
  if not path.is_file():
    return  # Another damage took it away.
  data = path.read_bytes()
  at = how[0] % (len(data) + 1) if how and isinstance(how[0], int) else 0
  if kind == "value":
    values = list(ROWS if name == FILES[0] else
                  OUTPUTS[:4] if name == FILES[1] else OUTPUTS[4:])
    values[how[0] % len(values)] = how[1]
    data = (b"\n".join(values) if name == FILES[0]
            else b"[" + b",".join(values) + b"]")
  elif kind == "cut":
    data = data[:at]
  elif kind == "flip" and data:
    at %= len(data)
    data = data[:at] + bytes([data[at] ^ (1 << how[1])]) + data[at + 1:]
  elif kind == "insert":
    data = data[:at] + how[1] + data[at:]
  elif kind == "whole":
    data = how[0]
  elif kind in ("gzip", "double_gzip"):
    data = gzip.compress(data)
    data = gzip.compress(data) if kind == "double_gzip" else data
  elif kind == "cut_gzip":
    packed = gzip.compress(data)
    data = packed[:at % len(packed)]
  elif kind == "flip_gzip":
    packed = bytearray(gzip.compress(data))
    packed[at % len(packed)] ^= 0x10
    data = bytes(packed)
  elif kind == "twice":
    (folder / f"{name}.gz").write_bytes(gzip.compress(data))
  elif kind == "utf16":
    data = data.decode("utf-8", "replace").encode("utf-16")
  elif kind == "crlf":
    data = data.replace(b"\n", b"\r\n")
  elif kind == "bom":
    data = b"\xef\xbb\xbf" + data
  elif kind == "swap":
    if (folder / FILES[2]).is_dir():
      return
    os.rename(path, folder / "other")
    if (folder / FILES[2]).is_file():
      os.rename(folder / FILES[2], path)
    os.rename(folder / "other", folder / FILES[2])
    return
  path.unlink()
  if kind == "missing":
    return
  if kind == "folder":
    path.mkdir()
  elif kind == "link_out":
    outside = folder.parent / f"outside_{name}"
    outside.write_bytes(data)
    path.symlink_to(outside)
  else:
    path.write_bytes(data)


@hypothesis.settings(
    max_examples=1000, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.lists(damages, min_size=1, max_size=3))
def test_damaged_files_are_refused_or_counted(chosen):
  top = pathlib.Path(tempfile.mkdtemp())
  try:
    folder, output = top / "data", top / "records"
    folder.mkdir()
    source(folder)
    for one in chosen:
      damage(folder, *one)
    check_import(folder, output)
  finally:
    shutil.rmtree(top)


def check_import(folder: pathlib.Path, output: pathlib.Path) -> None:
  try:
    result = importing.import_published(
        dataset="svamp", rows=folder, outputs=folder, teacher="t",
        output=output)
  except errors.UserError as error:
    message = str(error)
    assert "\n" not in message and len(message) < 2000
    assert any(name in message for name in (*FILES, str(folder), "svamp"))
    # Nothing is left that a later run would take for records.
    assert records.list_records(output) == []
    assert not [p for p in output.rglob("*") if p.is_file()]
    return
  counts = result.info["sources"]["train"]
  dropped = sum(entry["count"] for entry in counts["dropped"].values())
  written = sum(counts["written"].values())
  # A line ends at a line feed; a lone carriage return is part of it.
  lines = [line for line in read(folder / FILES[0]).split(b"\n")
           if line.strip(b"\xef\xbb\xbf \t\r\n\x0b\x0c")]
  assert written + dropped >= max(counts["rows"], counts["completions"])
  assert counts["rows"] == len(lines)
  for entry in counts["dropped"].values():
    assert all(str(folder) in example for example in entry["examples"])
  found = [record for split in result.info["sources"]["train"]["written"]
           for record in records.read_records(output, "svamp", "t", split)]
  assert len(found) == written == len({record.id for record in found})
  assert sum(entry["count"] for entry in
             counts["rules"]["strict"]["statuses"].values()) >= written


def read(path: pathlib.Path) -> bytes:
  path = path if path.is_file() else pathlib.Path(f"{path}.gz")
  data = path.read_bytes()
  data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
  # With its mark a file in UTF-16 is read as what it is.
  return (data.decode("utf-16", "replace").encode()
          if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else data)


_WORDS = (
    "The answer is", "So the answer is", "Answer:", "Q:", "Premise:",
    "premise:", "(a)", "(b)", "(z)", "(", ")", "entailment", "neutral", "1",
    "1,000", "1e99", "=", "####", ".", "\n", "\x00", "\u2028", "x", "**",
    "half", "١", "İ", "/0", "-", "+", "and", "🍐")
texts = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from(_WORDS), max_size=14).map(
        " ".join), st.lists(st.sampled_from(_WORDS), max_size=14).map("".join))


@hypothesis.settings(max_examples=1000, deadline=None, derandomize=True,
                     database=None)
@hypothesis.given(texts)
def test_parsers_give_a_usable_label_or_a_reason(text):
  row = datasets.Row(datasets.cqa_inputs("Where?", ("a", "river bank", "x")),
                     "a", choices=("a", "river bank", "x"))
  for dataset in (*datasets.DATASETS.values(), datasets.own_dataset("mine")):
    for rules in rules_lib.RULES:
      for writer in (rules_lib.ANY, rules_lib.PUBLISHED, rules_lib.FREE_TEXT):
        parsed = rules_lib.get_parser(dataset, rules, writer)(text, row)
        assert isinstance(parsed.label, str)
        assert isinstance(parsed.rationale, str) and parsed.status
        strict = rules == "strict" or writer == rules_lib.FREE_TEXT
        if parsed.status == "ok":
          assert parsed.label.strip()
          assert parsed.rationale.strip() or (
              dataset.label_kind in (
                  datasets.SUMMARY, datasets.CONVERSATION))
          if strict:
            assert labels_lib.label_status(dataset, parsed.label, row) == "ok"
        elif strict and parsed.status != parsing.EMPTY_RATIONALE:
          assert not parsed.label


@pytest.mark.parametrize("name", FILES)
def test_a_line_of_fifty_megabytes(tmp_path, name):
  source(tmp_path)
  data = (tmp_path / name).read_bytes()
  long = b"y" * (50 * 2**20)
  (tmp_path / name).write_bytes(data.replace(b"pears", long, 1))
  result = importing.import_published(
      dataset="svamp", rows=tmp_path, outputs=tmp_path, teacher="t",
      output=tmp_path / "records")
  counts = result.info["sources"]["train"]
  reasons = {**counts["dropped"], **counts["rules"]["strict"]["statuses"]}
  assert reasons["too_long"]["count"] == 1
