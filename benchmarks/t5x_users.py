"""Code written for Google's T5X on the embedded engine: imports and tests.

    python benchmarks/t5x_users.py --checkouts=FOLDER         # Imports.
    python benchmarks/t5x_users.py --t5x=FOLDER/t5x           # T5X's tests.

Both run on both engines where Google's T5X is importable, else on ours alone.
FOLDER has a checkout of each repository below, by its name; those that are not
there are left out and named. T5X's unit tests are copied and run; those that
Google's own code passes (or, without it, all) are the ones that count. Tests
that patch or call private names (`_x`) of T5X are listed apart. T5X's tests
import chex, airio, fiddle and portpicker; the package t5 is stubbed.

T5X is at commit cc342d419ec3e3e9c4bf1df33c82330cafdc1e16, magenta-realtime at
1a2815e (the last with the modules below), the others at their main branches of
November 2026. Third-party packages that a module imports and that are not
installed are stubbed, on both engines alike, and so are names that one has no
more.

The last line is the headline; the exit status is 1 if a module does not import
on ours that does on Google's.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stepdistill_jax.util import t5x_finder

# Repository on GitHub -> (folder that is on the path, modules).
MODULES = {
    "google/airio": ("", "airio.examples.train_wmt"),
    "google/flaxformer": ("", """
        flaxformer.t5x.checkpointing_util
        flaxformer.t5x.configs.longt5.gin_configs_test
        flaxformer.t5x.configs.calm.gin_configs_test
        flaxformer.t5x.configs.t5.gin_configs_test
        flaxformer.t5x.configs.h_transformer.gin_configs_decoder_only_test
        flaxformer.t5x.configs.h_transformer.gin_configs_encoder_decoder_test
        flaxformer.t5x.configs.moe.gin_configs_test
        flaxformer.architectures.perceiver_ar.t5_models
        flaxformer.architectures.perceiver_ar.t5_models_test"""),
    "EleutherAI/improved-t5": ("", """
        models.scalable_t5.layers_test models.scalable_t5.network_test
        convert_weights.convert_t5x_checkpoint_to_flax"""),
    "google-research/jestimator": ("", """
        jestimator.checkpoint_utils jestimator.estimator jestimator.states"""),
    "magenta/magenta-realtime": ("", """
        magenta_rt.depthformer.decode magenta_rt.depthformer.model
        magenta_rt.depthformer.modules_test"""),
    "NbAiLab/nb-t5x": ("", """
        convert_t5x_checkpoint_to_flax convert_t5x_checkpoint_to_flax_mt5"""),
    "google-research/optformer": ("", """
        optformer.t5x.decoding optformer.t5x.embedders
        optformer.t5x.finetuning optformer.t5x.inference
        optformer.t5x.testing"""),
    "google-research/pix2struct": ("", """
        pix2struct.demo pix2struct.example_inference
        pix2struct.inference_utils pix2struct.models pix2struct.models_test
        pix2struct.transfer_utils"""),
    "google-research/prompt-tuning": ("", """
        prompt_tuning.prompts prompt_tuning.scripts.diff_checkpoints
        prompt_tuning.scripts.extract_variable
        prompt_tuning.scripts.recreate_checkpoint
        prompt_tuning.scripts.subsample_vocab prompt_tuning.train.models
        prompt_tuning.train.models_test prompt_tuning.train.optim
        prompt_tuning.train.partitioning prompt_tuning.train.train_test
        prompt_tuning.train.utils
        prompt_tuning.extended.perceptron.train.models
        prompt_tuning.extended.train.multitask_partitioning
        prompt_tuning.extended.train.wayward prompt_tuning.recycling.recycle
        prompt_tuning.recycling.utils"""),
    "google/uncertainty-baselines": ("baselines/t5", """
        decoding deterministic_test mcdropout_eval_test utils models.be_models
        models.gp_models models.heteroscedastic_models models.models
        models.models_test data.metrics"""),
}
# Imports a module after stubbing what is not there, and names that packages
# which are there had once; prints why it failed.
_IMPORT = """
import importlib, importlib.util, json, re, sys, types
import stepdistill_jax
ours = ("t5x", "stepdistill_jax")
class Stub(type):
  def __getattr__(cls, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return stub(name)
  def __getitem__(cls, unused_key):
    return cls
def stub(name):
  return Stub(name, (), {"__init__": lambda self, *args, **options: None})
def stubbed(name):
  seen = set()
  while True:
    try:
      importlib.import_module(name)
      return None
    except ImportError as error:
      why = f"{type(error).__name__}: {error}"
      missing = error.name or ""
      if missing.split(".")[0] in ours or missing == name or str(error) in seen:
        return why
      seen.add(str(error))
      gone = re.match(r"cannot import name '(\\w+)'", str(error))
      if gone:
        setattr(sys.modules[missing], gone[1], stub(gone[1]))
        continue
      module = types.ModuleType(missing)
      module.__path__ = []
      module.__getattr__ = Stub.__getattr__.__get__(module)
      sys.modules[missing] = module
    except BaseException as error:
      return f"{type(error).__name__}: {error}"
print("RESULT" + json.dumps({m: stubbed(m) for m in sys.argv[1:]}))
"""
# Before T5X's tests: what JAX has no more and no test looks into, and modules
# of the tests' own that are imported as T5X's.
_CONFTEST = """
import importlib.util, pathlib, sys, types
import jax.experimental.pjit
import stepdistill_jax
class Helpers:
  def find_spec(name, *unused):
    file = pathlib.Path(__file__).parent / (name.split(".")[-1] + ".py")
    if name.startswith("t5x.") and name.endswith("_test_util"):
      return importlib.util.spec_from_file_location(name, file)
sys.meta_path.insert(0, Helpers)
jax.experimental.pjit.pjit = jax.jit
for name in ("t5", "t5.data", "t5.data.preprocessors", "t5.data.tasks"):
  module = types.ModuleType(name)
  module.__path__ = []
  module.__getattr__ = lambda n: type(n, (), {})
  sys.modules.setdefault(name, module)
"""
# Of T5X's tests: private names of its modules, patched or called.
_PRIVATE = re.compile(
    r"""(?:\b(?:\w+_lib|checkpoints|utils|models|decoding|trainer|losses|"""
    r"""partitioning|interactive_model|export_lib|infer|layers|"""
    r"""checkpoint_importer|binary_search)\._[a-z]\w*|"""
    r"""["']_[a-z]\w*["']|\w+\._[a-z]\w*\()""")


def _environment(engine: str, *folders: str) -> dict[str, str]:
  paths = [*folders, str(ROOT), os.environ.get("PYTHONPATH", "")]
  return {**os.environ, "STEPDISTILL_ENGINE": engine, "JAX_PLATFORMS": "cpu",
          "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def imports(engine: str, checkouts: pathlib.Path) -> dict[str, str | None]:
  """`repository: module` -> why it does not import, or None."""
  results: dict[str, str | None] = {}
  for repository, (inner, modules) in MODULES.items():
    folder = checkouts / repository.split("/")[1] / inner
    if not folder.is_dir():
      continue
    # A process a repository: they name modules alike (`utils`, `models`).
    found = _imported(engine, folder, *modules.split())
    for module, why in found.items():
      if why:  # Again alone: scripts define the same flags.
        why = _imported(engine, folder, module)[module]
      results[f"{repository}: {module}"] = why
  return results


def _imported(
    engine: str, folder: pathlib.Path, *modules: str) -> dict[str, str | None]:
  done = subprocess.run(
      [sys.executable, "-c", _IMPORT, *modules], check=False,
      env=_environment(engine, str(folder)), cwd=tempfile.gettempdir(),
      capture_output=True, text=True)
  found = re.search(r"^RESULT(.*)$", done.stdout, re.M)
  if found:
    return json.loads(found[1])
  return dict.fromkeys(modules, done.stderr[-300:])


def run_tests(
    engine: str, checkout: pathlib.Path, timeout: float, only: str = ""
) -> dict[str, str]:
  """Test of T5X's -> `passed`, `failed: why` or `skipped`.

  Args:
    only: files of tests, such as `models,trainer`; empty for all.
  """
  with tempfile.TemporaryDirectory() as folder:
    for file in (*(checkout / "t5x").rglob("*_test.py"),
                 *(checkout / "t5x").glob("*_test_util.py")):
      name = file.relative_to(checkout / "t5x")
      if name.parts[0] == "contrib" or only and (
          name.stem.removesuffix("_test") not in only.split(",")):
        continue
      # Outside of the package, or its folder would be imported as `t5x`.
      target = pathlib.Path(folder, *name.parts)
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(file, target)
    pathlib.Path(folder, "conftest.py").write_text(_CONFTEST)
    report = pathlib.Path(folder, "report.xml")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib",
         "--continue-on-collection-errors", "-p", "no:cacheprovider",
         f"--rootdir={folder}", f"--junitxml={report}", folder],
        env=_environment(engine), cwd=folder, check=False, timeout=timeout,
        capture_output=True)
    return read_report(report)


def read_report(report: pathlib.Path) -> dict[str, str]:
  """Reads pytest's JUnit file."""
  results = {}
  for case in ET.parse(report).iter("testcase"):
    outcome = "passed"
    for child in case:
      if child.tag in ("failure", "error"):
        outcome = "failed: " + child.get("message", "").split("\n")[0][:160]
      elif child.tag == "skipped":
        outcome = "skipped"
    results[f"{case.get('classname')}.{case.get('name')}"] = outcome
  return results


def uses_private_names(test: str, checkout: pathlib.Path) -> bool:
  """Whether a test's own text patches or calls private names of T5X."""
  *modules, _, name = test.split(".")
  while modules and not (checkout / "t5x" / pathlib.Path(
      *modules)).with_suffix(".py").is_file():
    modules.pop()
  if not modules:
    return False
  text = (checkout / "t5x" / pathlib.Path(*modules)).with_suffix(
      ".py").read_text()
  bare = re.sub(r"\d+( .*)?$|\[.*$|_\w+$", "", name)
  found = re.search(
      rf"^  def {re.escape(name.split('[')[0])}\b.*?(?=^  (?:def|@)|^class|\Z)",
      text, re.M | re.S) or re.search(
          rf"^  def {re.escape(bare)}\w*\b.*?(?=^  (?:def|@)|^class|\Z)", text,
          re.M | re.S)
  return bool(found and _PRIVATE.search(found[0]))


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--checkouts", type=pathlib.Path, metavar="FOLDER",
                      help="of the repositories, by their names")
  parser.add_argument("--t5x", type=pathlib.Path, metavar="FOLDER",
                      help="a checkout of T5X, for its unit tests")
  parser.add_argument("--only", default="", metavar="FILE,...",
                      help="of T5X's tests: models,trainer for models_test.py "
                      "and trainer_test.py")
  parser.add_argument("--timeout", type=float, default=7200, metavar="S",
                      help="of a run of T5X's tests, in seconds")
  args = parser.parse_args()
  engines = ["embedded"]
  if t5x_finder.google_t5x_installed():
    engines.append("google")
  else:
    print("Google's T5X is not importable: its column is left out")
  headline, bad = [], 0
  if args.checkouts:
    there = {e: imports(e, args.checkouts) for e in engines}
    for repository in MODULES:
      if not any(n.startswith(f"{repository}:") for n in there["embedded"]):
        print(f"left out, no checkout: {repository}")
    counted = [n for n in there["embedded"]
               if there.get("google", {}).get(n) is None]
    for name in sorted(set(there["embedded"]) - set(counted)):
      print(f"not counted, as Google's does not import it: {name}: "
            f"{there['google'][name]}")
    failed = [n for n in counted if there["embedded"][n] is not None]
    for name in failed:
      print(f"does not import: {name}: {there['embedded'][name]}")
    bad = len(failed)
    headline.append(f"{len(counted) - bad} of {len(counted)} modules import")
  if args.t5x:
    ran = {e: run_tests(e, args.t5x, args.timeout, args.only) for e in engines}
    expected = [t for t, outcome in ran[engines[-1]].items()
                if outcome == "passed" or len(engines) == 1]
    totals: dict[bool, collections.Counter] = {
        True: collections.Counter(), False: collections.Counter()}
    for test in expected:
      outcome = ran["embedded"].get(test, "failed: not collected")
      private = uses_private_names(test, args.t5x)
      totals[private][outcome.split(":")[0]] += 1
      if outcome != "passed":
        print(f"{'private' if private else 'public'}: {test}: {outcome}")
    headline += [
        f"{counts['passed']} of {counts.total()} of T5X's tests pass that "
        f"{'use' if private else 'do not use'} private names"
        for private, counts in sorted(totals.items())]
  print("; ".join(headline) or "give --checkouts or --t5x")
  return bool(bad)


if __name__ == "__main__":
  sys.exit(main())
