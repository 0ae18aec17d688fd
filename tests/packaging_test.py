"""A built wheel, in an environment without the checkout, does all its work.

The environment is a new one with the wheel alone; other packages are those of
the tests' environment, by a `.pth` file, as installing them takes minutes.
"""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.support import real_data as testing

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Folders at the top of the checkout that the wheel has inside the package.
_MOVED = ("gin/", "tasks/")
_TINY = [f"--gin.network.T5Config.{name}={value}" for name, value in {
    "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32,
    "num_encoder_layers": 1, "num_decoder_layers": 1}.items()]
# In the form of the papers' published files; each row has words of its own.
_FRUITS = [a + b + "ears" for a in "bdfhp" for b in "aeiouwyr"]
_ROWS = [{"input": f"Tom has {n} {fruit} and eats one.\nHow many?",
          "label": f"( {n}.0 - 1.0 )"} for n, fruit in enumerate(_FRUITS)]
_OUTPUTS = [f"Tom has {n} {fruit} and eats one, so {n - 1} {fruit}. The answer "
            f"is ({n} - 1).\n\nQ: A man" for n, fruit in enumerate(_FRUITS)]
_QUICKSTART = """
import dataclasses, pathlib
from stepdistill_jax.quickstart import command, plan
command.run_plan(pathlib.Path('quickstart'), dataclasses.replace(
    plan.BUDGETS['small'], budget='test', train_stories=16,
    validation_stories=8, test_stories=8, shares=(1.0,), seeds=(0,), steps=1,
    methods=('finetune', 'step_by_step')), workers=1)
"""


def _run(*command, **options):
  process = subprocess.run(
      [str(word) for word in command], capture_output=True, text=True,
      **options)
  assert process.returncode == 0, process.stdout + process.stderr
  return process.stdout


def _tracked(*folders):
  """What git tracks: a wheel must not depend on what else lies about."""
  return _run("git", "ls-files", "-z", *folders, cwd=ROOT).rstrip(
      "\0").split("\0")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wheel")
  for name in _tracked():
    target = folder / "source" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((ROOT / name).read_bytes())
  _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
       "--no-build-isolation", "--no-index", "--wheel-dir", folder,
       folder / "source")
  (built,) = folder.glob("*.whl")
  return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """Runs commands of the wheel's environment, all in one folder elsewhere."""
  folder = tmp_path_factory.mktemp("elsewhere")
  venv.create(folder / "venv", with_pip=False)
  binaries = folder / "venv" / "bin"
  paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
  site = pathlib.Path(sysconfig.get_path("purelib", vars=paths))
  # Folders of a .pth file have no .pth files of their own: an editable
  # install of the checkout stays behind.
  (site / "packages_of_the_tests.pth").write_text("\n".join(
      path for path in sys.path if path.endswith("-packages")))
  _run(sys.executable, "-m", "pip", "--python", binaries / "python",
       "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed",
       wheel)
  environment = {
      **{name: value for name, value in os.environ.items()
         if name != "PYTHONPATH" and not name.startswith("STEPDISTILL_")},
      "XDG_DATA_HOME": str(folder / "data"),
      "XDG_CACHE_HOME": str(folder / "cache")}

  def run(program, *arguments, **more):
    return _run(binaries / program, *arguments, cwd=folder,
                env={**environment, **more})

  run.folder, run.site = folder, site
  return run


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
  expected = {name if name.startswith("stepdistill_jax/") else
              f"stepdistill_jax/{name}": name
              for name in _tracked("stepdistill_jax", *_MOVED)}
  with zipfile.ZipFile(wheel) as archive:
    found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == set(expected)
    for name, source in expected.items():
      assert archive.read(name) == (ROOT / source).read_bytes(), name
    (license_file,) = [name for name in archive.namelist()
                       if name.endswith("/licenses/LICENSE")]
    assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.interop
def test_another_tasks_module_does_no_harm(installed):
  """Nor to the checkout: see tasks_finder_test."""
  other = installed.folder / "other" / "tasks.py"
  other.parent.mkdir()
  other.write_text("raise AssertionError('nobody asked for this one')\n")
  printed = installed(
      "python", "-c",
      "import stepdistill_jax, stepdistill_jax.tasks as tasks, seqio\n"
      "from stepdistill_jax.util import locations\n"
      "print(stepdistill_jax.__file__, tasks.__file__,\n"
      "      locations.resource_root())\n"
      "seqio.get_mixture_or_task('svamp_step_gold_palm540b')\n",
      PYTHONPATH=str(other.parent)).split()
  assert all(file.startswith(str(installed.site)) for file in printed), printed
  installed("t5x", "train", "--gin_file=gin/recipes/svamp_step_by_step.gin",
            "--gin.MODEL_DIR='unused'", "--dry_run",
            PYTHONPATH=str(other.parent))


@pytest.fixture(scope="module")
def student(installed):
  """A run of two steps on imported records."""
  published = installed.folder / "published"
  published.mkdir()
  for split in ("train", "test"):
    (published / f"svamp_{split}.json").write_text(
        "".join(json.dumps(row) + "\n" for row in _ROWS))
    (published / f"{split}_CoT_0.json").write_text(json.dumps(_OUTPUTS))
  testing.write_tiny_vocabulary(published / "tiny.model")
  printed = installed(
      "stepdistill", "teacher", "import", "--format=published",
      "--dataset=svamp", "--teacher=palm540b", "--rows=published",
      "--outputs=published", "--vocabulary=published/tiny.model", "--json")
  counts = json.loads(printed)
  assert pathlib.Path(counts["folder"]).is_relative_to(
      installed.folder / "data")
  installed(
      "t5x", "train", "--gin_file=gin/recipes/svamp_step_by_step.gin", *_TINY,
      "--gin.MODEL_DIR='run'", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2",
      "--gin.EVAL_STEPS=1", "--gin.BATCH_SIZE=4", "--gin.CHECKPOINT_PERIOD=2")
  run = installed.folder / "run"
  assert (run / "checkpoint_2").is_dir()
  return run


@pytest.mark.interop
def test_a_student_is_scored(installed, student):
  installed("stepdistill-eval", f"--checkpoint={student}",
            "--benchmarks=svamp", "--split=test", "--output=scores")
  page = (installed.folder / "scores" / "report.html").read_text("utf-8")
  css = ROOT / "stepdistill_jax/util/templates/page.css"
  assert css.read_text("utf-8").splitlines()[-1] in page


@pytest.mark.interop
def test_a_student_is_exported(installed, student):
  installed("stepdistill", "checkpoint", "export-hf", student,
            "--output=exported")
  config = json.loads((installed.folder / "exported/config.json").read_text())
  assert config["d_model"] == 16


@pytest.mark.interop
def test_the_quickstart_reports(installed):
  printed = installed("python", "-c", _QUICKSTART)
  assert "step_by_step − finetune" in printed
  for name in ("report.html", "report.json", "learning_curve.png"):
    assert (installed.folder / "quickstart" / name).stat().st_size > 1000
