"""launch/gpu/offline_*.py: packed, copied, damaged, unpacked, and trained with.

Wheels are small ones that the tests make; the last test packs what is installed
here and trains in an environment that has JAX alone, without network.
"""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile

from packaging import markers
import pytest

from stepdistill_jax.quickstart import benchmark_data, plan

GPU = pathlib.Path(__file__).resolve().parents[1] / "launch" / "gpu"
sys.path.insert(0, str(GPU))
import offline_pack
import offline_packages
import offline_unpack

PYTHON = "{}.{}".format(*sys.version_info)
NEXT = f"3.{sys.version_info.minor + 1}"  # Another machine's.


def _wheel(folder, name, version="1.0", requires=(), tag="py3-none-any",
           files=()):
  folder.mkdir(exist_ok=True)
  info = f"{name}-{version}.dist-info"
  metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
              *(f"Requires-Dist: {text}" for text in requires)]
  if any("extra ==" in text for text in requires):
    metadata.append("Provides-Extra: hf")
  with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
    for path, text in {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                         f"Tag: {tag}\n",
        f"{info}/RECORD": "", **dict(files)}.items():
      archive.writestr(path, text)
  return folder / f"{name}-{version}-{tag}.whl"


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A folder that is all that pip finds."""
  folder = tmp_path / "index"
  compiled = f"cp{NEXT.replace('.', '')}-cp{NEXT.replace('.', '')}"
  project = _wheel(folder, "stepdistill_jax", requires=[
      "jax>=0.10", "tensorflow>=2", "libclang",
      f'later; python_version >= "{NEXT}"', 'torch; extra == "hf"',
      'tokens; extra == "hf"'], files={
          "stepdistill_jax/tests/x.py": "", "stepdistill_jax/lib.a": "",
          "stepdistill_jax-1.0.data/purelib/moved.py": "",
          "stepdistill_jax-1.0.data/scripts/t5x": "",
          "stepdistill_jax-1.0.dist-info/entry_points.txt":
              "[console_scripts]\nt5x = stepdistill_jax:main\n"}.items())
  _wheel(folder, "jax", "0.11.0", ["arrays", "jaxlib"])
  _wheel(folder, "jax", "0.10.0", ["arrays", "jaxlib"])
  _wheel(folder, "tensorflow", "2.5", ["arrays", "both"])
  _wheel(folder, "tensorflow_cpu", "2.5", ["arrays", "both"],
         f"{compiled}-manylinux_2_27_x86_64")
  for name in ("jaxlib", "arrays", "libclang", "later", "torch", "tokens"):
    _wheel(folder, name)
  for version in ("1.0", "2.0"):
    _wheel(folder, "both", version,
           tag=f"{compiled}-manylinux2014_x86_64.manylinux_2_17_x86_64")
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
  constraints = tmp_path / "constraints.txt"
  constraints.write_text("jaxlib==7\nboth==1.0\njax==7\njax-cuda12-pjrt==7\n")
  return [f"--wheel={project}", f"--constraints={constraints}", "--build="]


def _pack(folder, *options):
  assert offline_pack.main([f"--output={folder}", *options]) == 0
  return json.loads((folder / "offline_manifest.json").read_text())


@pytest.fixture
def parts(tmp_path, monkeypatch):
  """Parts of a small project for this Python."""
  wheel = _wheel(tmp_path / "w", "stepdistill_jax", requires=[
      "numpy>=99", "nowhere-at-all", "libclang", 'nowhere; extra == "hf"'],
                 files={
      "random.bin": os.urandom(5000),
      "stepdistill_jax-1.0.dist-info/entry_points.txt":
          "[console_scripts]\nt5x = stepdistill_jax:main\n"}.items())
  monkeypatch.setattr(
      offline_packages, "take_environment", lambda *unused: {"jax"})
  _pack(tmp_path / "parts", "--from_environment", f"--wheel={wheel}",
        "--part_size=2K")
  return tmp_path / "parts"


@pytest.fixture
def site(tmp_path, monkeypatch):
  """Stands in for the environment's own folder of packages."""
  folder = tmp_path / "site"
  folder.mkdir()
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
  monkeypatch.setattr(sys, "path", [str(folder)])
  (folder / "numpy-2.0.dist-info").mkdir()
  (folder / "numpy-2.0.dist-info" / "METADATA").write_text(
      "Name: numpy\nVersion: 2.0\n")
  return folder


def _unpack(parts, *options):
  return offline_unpack.main(
      [str(parts), f"--target={parts.parent / 'target'}", *options])


def test_what_the_other_machine_lacks_is_downloaded(tmp_path, index, capsys):
  manifest = _pack(tmp_path / "parts", *index, f"--python={NEXT}",
                   "--without=jax==0.11.0,torch", "--extra=hf",
                   "--part_size=1K")
  assert manifest["packages"] == {
      "both": "1.0", "later": "1.0", "stepdistill-jax": "1.0",
      "tensorflow": "2.5", "tokens": "1.0"}
  assert manifest["not_packed"] == ["arrays", "jax", "jaxlib", "torch"]
  assert (manifest["python"], manifest["glibc"]) == (NEXT, "2.27")
  assert all(part["bytes"] <= 1024 for part in manifest["parts"])
  assert f"python{NEXT} parts/offline_unpack.py" in capsys.readouterr().out
  with tarfile.open(fileobj=io.BytesIO(b"".join(
      (tmp_path / "parts" / part["name"]).read_bytes()
      for part in manifest["parts"]))) as archive:
    names = archive.getnames()
  assert "moved.py" in names and "tensorflow_cpu.py" in names
  assert "tensorflow-2.5.dist-info/METADATA" in names
  assert not any("tests" in name or name.endswith((".a", "/t5x"))
                 for name in names)


def test_what_pip_cannot_find_is_named(tmp_path, index, capsys):
  assert offline_pack.main([
      *index, f"--output={tmp_path}/parts", f"--python={NEXT}",
      "--without=jax==0.10.7"]) == 2
  assert "jax==0.10.7" in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "constraints.txt", "index"]


@pytest.mark.parametrize("options, message", [
    (["--wheel=/nowhere/x.whl"], "there is no file /nowhere/x.whl"),
    (["--constraints=/nowhere/c"], "there is no file /nowhere/c"),
    (["--output=."], "has something else in it")])
def test_mistakes_in_paths(tmp_path, monkeypatch, capsys, options, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine").touch()
  assert offline_pack.main(["--output=parts", *options]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", [
    "--part_size=58X", "--part_size=0", "--python=3", "--preset=10",
    "--glibc=2", "--without=jax==,torch", "--from_environment --python=3.9"])
def test_mistakes_in_values(option):
  with pytest.raises(SystemExit, match="2"):
    offline_pack.main(["--output=parts", *option.split()])


def test_what_an_environment_cannot_give_is_named(tmp_path, capsys):
  wheel = _wheel(tmp_path, "stepdistill_jax", requires=["jax", "nowhere>=2"])
  assert offline_pack.main([
      "--from_environment", f"--output={tmp_path}/parts", "--without=jax",
      f"--wheel={wheel}"]) == 2
  assert "lacks nowhere>=2" in capsys.readouterr().err
  assert offline_pack.main([
      f"--output={tmp_path}/parts", f"--wheel={wheel}", "--extra=more"]) == 2
  assert "--extra=more: the project has" in capsys.readouterr().err


def test_the_same_files_give_the_same_bytes(tmp_path, parts):
  (wheel,) = (tmp_path / "w").iterdir()
  again = _pack(tmp_path / "again", "--from_environment", f"--wheel={wheel}",
                "--part_size=2K")
  assert again == json.loads((parts / "offline_manifest.json").read_text())


def test_an_interrupted_pack_leaves_nothing(tmp_path, monkeypatch, parts):
  before = (parts / "offline_manifest.json").read_bytes()

  def interrupted(*unused_args):
    raise KeyboardInterrupt

  monkeypatch.setattr(offline_pack, "write_archive", interrupted)
  (wheel,) = (tmp_path / "w").iterdir()
  for folder in (parts, tmp_path / "new"):
    with pytest.raises(KeyboardInterrupt):
      offline_pack.main(["--from_environment", f"--output={folder}",
                         f"--wheel={wheel}"])
  assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "w"]
  assert (parts / "offline_manifest.json").read_bytes() == before


def test_unpacked_once_and_replaced_by_another(tmp_path, parts, site, capsys):
  target = tmp_path / "target"
  assert _unpack(parts) == 0
  printed = capsys.readouterr()
  assert f"needs numpy>=99; {site} has 2.0" in printed.err
  assert "nowhere-at-all, which is missing" in printed.err
  assert "libclang" not in printed.err and "nowhere," not in printed.err
  assert (site / "stepdistill_offline.pth").read_text() == f"{target}\n"
  command = (target / "bin" / "t5x").read_text()
  assert sys.executable in command and "import main" in command
  (target / "note").touch()
  assert _unpack(parts) == 0
  assert "already" in capsys.readouterr().out and (target / "note").exists()

  (wheel,) = (tmp_path / "w").iterdir()
  _pack(parts, "--from_environment", f"--wheel={wheel}", "--extra=hf")
  assert _unpack(parts) == 0
  assert "nowhere, which is missing" in capsys.readouterr().err
  assert not (target / "note").exists()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "parts", "site", "target", "w"]


def test_an_older_install_of_the_project_is_named(parts, site, capsys):
  info = site / "stepdistill_jax-0.1.dist-info"
  info.mkdir()
  (info / "METADATA").write_text("Name: stepdistill_jax\nVersion: 0.1\n")
  assert _unpack(parts) == 0
  assert f"the project that is installed in {site}" in capsys.readouterr().err


def test_an_environment_that_cannot_be_written(parts, site, capsys):
  (site / "stepdistill_offline.pth").mkdir()
  assert _unpack(parts) == 0
  assert f'export PYTHONPATH="{parts.parent}/target"' in capsys.readouterr().out


def test_a_project_that_does_not_start_is_an_error(
    parts, site, capfd, monkeypatch):
  monkeypatch.setattr(offline_unpack, "_CHECK", "import nowhere")
  assert _unpack(parts, "--check") == 2
  assert "cannot be imported" in capfd.readouterr().err


def _edit(**changes):
  def edit(parts):
    path = parts / "offline_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
  return edit


def _cut(parts):
  path = parts / "packages.001"
  path.write_bytes(path.read_bytes()[:-1])


def _change(parts):
  path = parts / "packages.001"
  path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage, message", [
    (lambda parts: (parts / "packages.001").unlink(),
     "packages.001 is missing"),
    (_cut, "packages.001 has 2,047 bytes instead of 2,048"),
    (_change, "packages.001 was changed"),
    (lambda parts: (parts / "offline_manifest.json").unlink(),
     "offline_manifest.json is missing"),
    (lambda parts: (parts / "offline_manifest.json").write_text("{"),
     "is damaged"),
    (_edit(format=2), "has format 2"),
    (_edit(python="3.7"), f"packed for Python 3.7, this is {PYTHON}"),
    (_edit(platform="linux-riscv"), "packed for linux-riscv"),
    (_edit(glibc="99.1"), "glibc 99.1 or newer is needed"),
    (_edit(unpacked_bytes=10**18), "bytes free, 1,000,000,000,000,000,000"),
    (_edit(parts=[]), "cannot be unpacked"),
    (lambda parts: (parts.parent / "target").write_text("mine"),
     "has something else in it")])
def test_nothing_is_unpacked_of_what_cannot_work(
    parts, site, capsys, damage, message):
  damage(parts)
  before = sorted(parts.parent.rglob("*"))
  assert _unpack(parts) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert sorted(parts.parent.rglob("*")) == before


@pytest.mark.parametrize("name, link", [
    ("../outside", None), ("link", "/etc"), ("link", "../../outside")])
def test_members_stay_in_the_folder(parts, site, tmp_path, capsys, name, link):
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode="w") as archive:
    info = tarfile.TarInfo(name)
    if link:
      info.type, info.linkname = tarfile.SYMTYPE, link
    archive.addfile(info)
  (parts / "packages.000").write_bytes(packed.getvalue())
  _edit(parts=[{
      "name": "packages.000", "bytes": len(packed.getvalue()),
      "sha256": hashlib.sha256(packed.getvalue()).hexdigest()}])(parts)
  assert _unpack(parts) == 2
  assert "cannot be unpacked" in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "parts", "site", "w"]


def _run(*command, **options):
  done = subprocess.run([str(word) for word in command], capture_output=True,
                        text=True, **options)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_the_command_runs_in_an_empty_environment(tmp_path):
  wheel = _wheel(tmp_path, "stepdistill_jax", requires=["six", "packaging"],
                 files={
      "stepdistill_jax.py": "import six\ndef main(): print(six.__file__)\n",
      "stepdistill_jax-1.0.dist-info/entry_points.txt":
          "[console_scripts]\nt5x = stepdistill_jax:main\n"}.items())
  manifest = _pack(tmp_path / "parts", "--from_environment",
                   f"--wheel={wheel}")
  assert list(manifest["packages"]) == ["packaging", "six", "stepdistill-jax"]
  venv.create(tmp_path / "empty", with_pip=False)
  folder = tmp_path / "a folder"
  printed = subprocess.run(
      [tmp_path / "empty/bin/python", tmp_path / "parts/offline_unpack.py",
       f"--target={folder}"], capture_output=True, text=True, env={})
  assert (printed.returncode, printed.stderr) == (0, "")
  assert _run(folder / "bin" / "t5x", env={}) == f"{folder}/six.py\n"


@pytest.fixture(name="on_disk")
def _on_disk():
  """A folder for gigabytes: pytest's own may be in memory."""
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder)


@pytest.mark.interop
def test_a_student_trains_where_only_jax_was(on_disk):
  small = dataclasses.replace(
      plan.BUDGETS["small"], train_stories=16, validation_stories=4,
      test_stories=1)
  records = benchmark_data.prepare(on_disk / "benchmark", small).records_dir
  # Not compressed and with tests' own TensorFlow: it takes minutes otherwise.
  _run(sys.executable, GPU / "offline_pack.py", "--from_environment",
       "--preset=none", "--part_size=500M", f"--output={on_disk}/parts")
  empty = on_disk / "empty"
  venv.create(empty, with_pip=False)
  (site,) = empty.glob("lib/*/site-packages")
  installed = {
      offline_unpack.canonical(found.name): found
      for found in importlib.metadata.distributions()}
  jax, _ = offline_packages.closure(
      [offline_packages.Requirement("jax")],
      {name: found.requires or () for name, found in installed.items()},
      markers.default_environment())
  for name in jax:
    for top in {file.parts[0] for file in installed[name].files} - {".."}:
      (site / top).symlink_to(installed[name].locate_file(top))
  environment = {
      "PATH": os.environ["PATH"], "HOME": str(on_disk / "home"),
      "JAX_PLATFORMS": "cpu", **{
          name: value for name, value in os.environ.items()
          if name.startswith("JAX_")}}
  alone = ("unshare", "--map-root-user", "--net")
  if not shutil.which("unshare") or subprocess.run(
      [*alone, "true"], capture_output=True).returncode:
    alone = ()
    environment |= {f"{kind}_proxy": "http://127.0.0.1:9"
                    for kind in ("http", "https")}
  run = lambda *command: _run(*alone, *command, cwd=on_disk, env=environment)
  printed = run(empty / "bin/python", "parts/offline_unpack.py",
                "--target=packages", "--check")
  assert f"jax {installed['jax'].version} {site}" in printed
  for name in ("stepdistill_jax", "tensorflow"):
    assert str(on_disk / "packages" / name) in printed
  run(on_disk / "packages/bin/t5x", "train",
      "--gin_file=gin/recipes/tracking_step_by_step.gin",
      f"--records_dir={records}", "--gin.MODEL_DIR='run'",
      "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.EVAL_STEPS=1",
      "--gin.BATCH_SIZE=4", "--gin.CHECKPOINT_PERIOD=2")
  assert (on_disk / "run" / "checkpoint_2").is_dir()
