"""What reads data from elsewhere runs none of it, and keeps to its folders."""

import ast
import json
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = [path for folder in ("stepdistill_jax", "tasks")
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


def _browser() -> str | None:
  for name in ("chromium", "chromium-browser", "google-chrome",
               "google-chrome-stable", "chrome"):
    if found := shutil.which(name):
      return found
  return None


_HOSTILE = ("</script><script>document.title = 'ran'</script>"
            "<img src=x onerror=\"document.title = 'ran'\">")


@pytest.fixture(name="report")
def _report(tmp_path) -> pathlib.Path:
  """A report whose questions, rationales and predictions are hostile."""
  from stepdistill_jax.evaluation import main
  from stepdistill_jax.teacher import records
  rows = [records.Record(
      id=f"svamp/test/{i}", inputs=f"{_HOSTILE} {i}", label=f"( {i}.0 + 1.0 )",
      teacher_label=f"({i} + 1)", rationale=_HOSTILE) for i in range(4)]
  records.write_records(tmp_path, "svamp", "palm", {"test": rows})
  predictions = tmp_path / "mine.jsonl"
  predictions.write_text("".join(json.dumps({
      "id": f"svamp/test/{i}", "text": _HOSTILE}) + "\n" for i in range(4)))
  code = main.main([
      "--teacher=palm", f"--predictions=$<script>={predictions}",
      "--benchmarks=svamp", f"--records_dir={tmp_path}",
      f"--output={tmp_path / 'scores'}"])
  assert code == 0
  return tmp_path / "scores" / "report.html"


def test_no_script_of_a_model_runs_in_a_report(report):
  assert "onerror" in report.read_text()  # As text.
  browser = _browser()
  if browser is None:
    pytest.skip("no Chromium or Chrome on this machine's PATH")
  page = subprocess.run(
      [browser, "--headless", "--no-sandbox", "--disable-gpu",
       "--virtual-time-budget=3000", "--dump-dom", report.as_uri()],
      capture_output=True, text=True, timeout=120, check=True).stdout
  assert "</html>" in page and "<title>ran</title>" not in page
