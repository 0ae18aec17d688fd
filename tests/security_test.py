"""What reads data from elsewhere runs none of it, and keeps to its folders."""

import ast
import contextlib
import contextvars
import functools
import html.parser
import json
import pathlib
import pickle
import sys

import msgpack
import numpy as np
import pytest
import tensorstore as ts

from stepdistill_jax.records import record_writer, records
from stepdistill_jax.runs import legacy_checkpoints
from stepdistill_jax.teacher import completions
from stepdistill_jax.util import errors
from tests.support import real_data as testing

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = [path for folder in ("stepdistill_jax", "tasks", "launch")
           for path in sorted((ROOT / folder).rglob("*.py"))
           if not path.name.endswith("_test.py")]
# Modules that run what they read.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib",
                     "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
    ("os", "system"), ("os", "popen"), ("tempfile", "mktemp")}


def _dangers(tree: ast.AST):
  for node in ast.walk(tree):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      yield from (f"imports {name}" for name in names
                  if name.split(".")[0] in FORBIDDEN_MODULES)
    if not isinstance(node, ast.Call):
      continue
    function = node.func
    if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
      yield f"calls {function.id}"
    if isinstance(function, ast.Attribute) and isinstance(
        function.value, ast.Name):
      pair = (function.value.id, function.attr)
      if pair in FORBIDDEN_ATTRIBUTES:
        yield f"calls {'.'.join(pair)}"
      if pair == ("torch", "load") and not any(
          keyword.arg == "weights_only"
          and getattr(keyword.value, "value", None) is True
          for keyword in node.keywords):
        yield "calls torch.load without weights_only=True"
    for keyword in node.keywords:
      value = getattr(keyword.value, "value", None)
      if (keyword.arg, value) in (
          ("allow_pickle", True), ("shell", True), ("trust_remote_code", True)):
        yield f"passes {keyword.arg}=True"


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(path):
  found = list(_dangers(ast.parse(path.read_text("utf-8"))))
  assert not found


def test_the_search_finds_what_it_looks_for():
  text = ("import pickle\nfrom joblib import load\neval('1')\nyaml.load(x)\n"
          "np.load(x, allow_pickle=True)\ntorch.load(x)\n")
  assert len(list(_dangers(ast.parse(text)))) == 6
  assert not list(_dangers(ast.parse("model.eval()\nre.compile('x')\n"
                                     "ast.literal_eval('1')\n")))


class _Unpickled(Exception):
  """Something of a file was about to be looked up and called."""


_forbidding = contextvars.ContextVar("_forbidding", default=False)


@contextlib.contextmanager
def _no_pickle():
  """Raises where Python's unpickler looks for what a pickle names."""
  _audit()
  before = _forbidding.set(True)
  try:
    yield
  finally:
    _forbidding.reset(before)


@functools.cache
def _audit() -> None:  # An audit hook cannot be taken away again.
  def hook(event: str, unused_arguments) -> None:
    if event == "pickle.find_class" and _forbidding.get():
      raise _Unpickled(event)

  sys.addaudithook(hook)


class _Planted:
  """Leaves a file behind where it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (self._path,))


def test_the_watch_over_pickles_sees_one(tmp_path):
  data = pickle.dumps(_Planted(tmp_path / "ran"))
  with _no_pickle(), pytest.raises(_Unpickled):
    pickle.loads(data)
  assert not (tmp_path / "ran").exists()


def _legacy(folder: pathlib.Path, tree) -> pathlib.Path:
  folder.mkdir(parents=True, exist_ok=True)
  data = tree if isinstance(tree, bytes) else msgpack.packb(tree)
  (folder / "checkpoint").write_bytes(data)
  return folder


def _nested(depth: int):
  tree = 1
  for _ in range(depth):
    tree = {"a": tree}
  return {"target": tree}


def _array(shape, dtype: str, data: bytes) -> msgpack.ExtType:
  return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize("tree, words", [
    (_nested(100), "a tree deeper than 64"),
    (b"\x91" * 5000 + b"\x01", "damaged or cut off"),
    # A length of 4 GiB, and nothing behind it.
    (b"\x81\xa6target\xc6\xff\xff\xff\xff", "damaged or cut off"),
    (b"\xdf\xff\xff\xff\xff", "damaged or cut off"),
    ({"target": {"x": _array((2**40,), "float32", b"1234")}},
     "with 4 bytes"),
    ({"target": {"x": _array((-1,), "float32", b"")}}, "of shape"),
    ({"target": {"x": _array((1,), "object", b"12345678")}},
     "unknown dtype 'object'"),
    ({"target": {"x": msgpack.ExtType(42, b"x")}}, "extension type 42"),
    (pickle.dumps({"target": 1}), "damaged or cut off|not an index"),
])
def test_the_msgpack_reader_has_limits(tmp_path, tree, words):
  with _no_pickle(), pytest.raises(errors.UserError, match=words) as caught:
    legacy_checkpoints.read_index(_legacy(tmp_path / "checkpoint_1", tree))
  assert "\n" not in str(caught.value)


def test_the_msgpack_reader_reads_no_huge_index(tmp_path):
  folder = _legacy(tmp_path / "checkpoint_1", b"")
  with (folder / "checkpoint").open("wb") as stream:
    stream.truncate(legacy_checkpoints.MAX_INDEX_BYTES + 1)  # No disk is used.
  with pytest.raises(errors.UserError, match="more than the 2,147,483,648"):
    legacy_checkpoints.read_index(folder)


def test_arrays_of_a_checkpoint_are_in_its_folder(tmp_path):
  outside = tmp_path / "elsewhere" / "x"
  spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(outside)},
          "metadata": {"shape": [1], "dtype": "<f4"}}
  ts.open({**spec, "metadata": {"shape": [1], "dtype": "<f4", "chunks": [1]},
           "create": True}).result()[...] = np.ones(1, np.float32)
  folder = _legacy(tmp_path / "checkpoint_1", {"target": {"x": spec}})
  index = legacy_checkpoints.read_index(folder)
  with pytest.raises(errors.UserError, match="lacks the array x"):
    legacy_checkpoints.open_array(folder, index["target/x"])
  for path in ("..", "/", "a/.."):
    spec["kvstore"]["path"] = path
    with pytest.raises(errors.UserError, match="an array in"):
      legacy_checkpoints.read_index(
          _legacy(tmp_path / "checkpoint_2", {"target": {"x": spec}}))


def test_files_of_a_cache_are_in_its_folder(tmp_path):
  (tmp_path / "shard-00000.jsonl").write_text("{}\n")
  cache_dir = tmp_path / "cache"
  with completions.cache_writer(
      cache_dir, dataset="svamp", split="train", teacher="t",
      prompt_id="p") as writer:
    del writer
  manifest = json.loads((cache_dir / completions.MANIFEST).read_text())
  for name in ("../shard-00000.jsonl", str(tmp_path / "shard-00000.jsonl")):
    manifest["shards"] = [{"name": name, "count": 1}]
    (cache_dir / completions.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(errors.UserError, match="names a shard"):
      list(completions.read_completions(cache_dir))


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "a.b", "", "X"])
def test_names_of_records_are_no_paths(tmp_path, name):
  for dataset, teacher in ((name, "palm"), ("svamp", name)):
    with pytest.raises(errors.UserError, match="is not a name"):
      record_writer.write_records(tmp_path / "records", dataset, teacher, {})
  assert not (tmp_path / "records").exists()


_HOSTILE = ("</script><script>document.title = 'ran'</script>"
            "<img src=x onerror=\"document.title = 'ran'\">")


@pytest.fixture(name="reports")
def _reports(tmp_path) -> list[pathlib.Path]:
  """Reports whose questions, rationales and predictions are hostile."""
  from stepdistill_jax.cli import stepdistill as cli
  from stepdistill_jax.evaluation import command as main
  rows = [records.Record(
      id=f"svamp/test/{i}", inputs=f"{_HOSTILE} {i}", label=f"( {i}.0 + 1.0 )",
      teacher_label=f"({i} + 1)", rationale=_HOSTILE) for i in range(4)]
  record_writer.write_records(tmp_path, "svamp", "palm", {"test": rows})
  predictions = tmp_path / "mine.jsonl"
  predictions.write_text("".join(json.dumps({
      "id": f"svamp/test/{i}", "text": _HOSTILE}) + "\n" for i in range(4)))
  with _no_pickle():
    assert main.main([
        "--teacher=palm", f"--predictions=$<script>={predictions}",
        "--benchmarks=svamp", f"--records_dir={tmp_path}",
        f"--output={tmp_path / 'scores'}"]) == 0
    assert cli.main([
        "teacher", "audit", str(tmp_path), "--dataset=svamp",
        "--teacher=palm", f"--html={tmp_path / 'audit.html'}"]) == 0
  return [tmp_path / "scores" / "report.html", tmp_path / "audit.html"]


class _Elements(html.parser.HTMLParser):
  """Collects what would run: handlers, and the text of scripts."""

  def __init__(self, page: str):
    super().__init__()
    self.handlers, self.tags, self.scripts = [], [], ""
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.handlers += [name for name, _ in attrs if name.startswith("on")]

  def handle_data(self, data):
    if self.tags and self.tags[-1] == "script":
      self.scripts += data


def test_no_script_of_a_model_is_in_a_report(reports):
  for report in reports:
    page = report.read_text()
    assert "onerror" in page  # As text.
    elements = _Elements(page)
    assert not elements.handlers and "</" not in elements.scripts


@pytest.mark.interop
def test_no_script_of_a_model_runs_in_a_report(reports):
  for report in reports:
    page, messages = testing.open_in_browser(report)
    assert "</html>" in page and "<title>ran</title>" not in page
    assert not messages
