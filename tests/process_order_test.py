"""What a process loads in which order, and on which devices it computes.

JAX's devices start before TensorFlow is imported, and torch's triton is loaded
before TensorFlow or never. Real commands run up to the import of TensorFlow,
where they end; torch, transformers and triton are stand-ins.
"""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEVICES_UP, DEVICES_DOWN, TOO_LATE = 71, 72, 73

# Read by Python at its start.
SITECUSTOMIZE = f"""
import importlib.machinery, os, sys

class EndAtTensorFlow:
  def find_spec(self, name, path=None, target=None):
    if name != "tensorflow":
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    spec.loader.exec_module = self.end  # To look for a spec is no import.
    return spec

  def end(self, module):
    bridge = sys.modules.get("jax._src.xla_bridge")
    up = bridge is not None and bridge.backends_are_initialized()
    print("modules:", *sorted(sys.modules.keys() & {{"torch", "triton"}}))
    sys.stdout.flush()
    os._exit({DEVICES_UP} if up else {DEVICES_DOWN})

if "END_AT_TENSORFLOW" in os.environ:
  sys.meta_path.insert(0, EndAtTensorFlow())
if "DEVICE_FOLDER" in os.environ:
  from stepdistill_jax.util import devices
  devices.FOLDER = os.environ["DEVICE_FOLDER"]
  devices.PCI_FOLDER = devices.FOLDER + "/no_bus"
"""
STAND_IN = f"""
import os, sys, types
if "tensorflow" in sys.modules:
  os._exit({TOO_LATE})
def __getattr__(name):
  if name.startswith("__"):
    raise AttributeError(name)
  def called(*args, **kwargs):
    raise OSError("the stand-in was reached")
  return types.SimpleNamespace(
      from_pretrained=called, set_verbosity_error=lambda: None)
def load(*args, **kwargs):
  raise OSError("the stand-in was reached")
"""
BROKEN_PLUGIN = """
def initialize():
  raise RuntimeError("Outdated cuBLAS installation found.\\nVersion 14")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Modules for commands, device nodes, a Hugging Face folder."""
  folder = tmp_path_factory.mktemp("order")
  for name, text in {
      "site/sitecustomize.py": SITECUSTOMIZE,
      "hf_site/torch.py": STAND_IN, "hf_site/transformers.py": STAND_IN,
      "hf_site/triton.py": STAND_IN,
      "plugin_site/jax_plugins/xla_cuda13/__init__.py": BROKEN_PLUGIN,
      "gpu/nvidia0": "", "amd/kfd": "",
      "student/config.json": '{"model_type": "t5"}',
      "student/spiece.model": "", "student/pytorch_model.bin": "PK",
      "run/config.gin": ""}.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  return folder


def start(folder, code, *arguments, sites=(), **environment):
  """Starts `code`, or the module of that name, as a user's process."""
  kept = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
  path = [str(folder / s) for s in ("site", *sites)] + [str(ROOT)]
  how = ["-m", code] if code.replace(".", "").replace("_", "").isalnum() else [
      "-c", code]
  return subprocess.Popen(
      [sys.executable, *how, *map(str, arguments)], cwd=folder, text=True,
      env={**kept, "PYTHONPATH": os.pathsep.join(path), **environment},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*args, **kwargs):
  """(exit code, standard output, standard error)."""
  process = start(*args, **kwargs)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


TRAIN = ("stepdistill_jax.cli.t5x", "train",
         "--gin_file=tests/support/testing.gin", "--gin.MODEL_DIR='new'",
         "--gin.TRAIN_STEPS=1")
NOTEBOOK = "import stepdistill_jax; from t5x import interactive_model"
WORKER = """
import multiprocessing, sys
from stepdistill_jax.study import workers
if __name__ == "__main__":
  context = multiprocessing.get_context("spawn")
  worker = context.Process(target=workers._prepare, args=("cpu", None))
  worker.start()
  worker.join()
  sys.exit(worker.exitcode)
"""
EVALUATE = "stepdistill_jax.cli.stepdistill_eval"


@pytest.mark.parametrize("command", [
    *((TRAIN[0], mode, *TRAIN[2:])
      for mode in ("train", "eval", "infer", "precompile", "export")),
    (EVALUATE, "--checkpoint=run", "--output=scores"), (NOTEBOOK,)])
def test_devices_start_before_tensorflow(folder, command):
  code, out, err = run(folder, *command, END_AT_TENSORFLOW="1")
  assert code == DEVICES_UP, err
  assert out == "modules:\n"


def test_a_dry_run_of_t5x_s_files_registers_what_it_imports(folder):
  """They import no data of ours; the parsed configuration is locked."""
  code, out, err = run(
      folder, *TRAIN[:2], "--dry_run", "--gin.MODEL_DIR='new'",
      "--gin_file=t5x/examples/t5/t5_1_1/examples/base_wmt_from_scratch.gin",
      JAX_PLATFORMS="cpu")
  assert code == 0, err
  assert "wmt_t2t_ende_v003" in out and not (folder / "new").exists()


def test_devices_of_a_quickstart_s_worker_start_before_tensorflow(folder):
  script = folder / "worker.py"
  script.write_text(WORKER)
  # A spawned process needs a file to import its parent's main module from.
  code, _, err = run(
      folder, "worker", sites=(".",), END_AT_TENSORFLOW="1",
      DEVICE_FOLDER=str(folder / "gpu"))
  assert code == DEVICES_UP, err


@pytest.mark.parametrize("command", [
    (EVALUATE, "--hf=student", "--output=scores"),
    (EVALUATE, "--hf=student", "--teacher=palm", "--export_inputs=inputs"),
    ("stepdistill_jax.cli.stepdistill", "checkpoint", "import-hf", "student",
     "--output=imported")])
def test_hugging_face_students_run_without_tensorflow(folder, command):
  code, _, err = run(folder, *command, sites=("hf_site",))
  assert code == 2, err
  assert "the stand-in was reached" in err or "no benchmark has" in err


@pytest.mark.parametrize("command", [
    (EVALUATE, "--hf=student", "--checkpoint=run", "--output=scores"),
    ("benchmarks.decode", "--data=.", "--vocabulary=spiece.model")])
def test_triton_is_loaded_before_tensorflow(folder, command):
  code, out, err = run(
      folder, *command, sites=("hf_site",), END_AT_TENSORFLOW="1")
  assert code == DEVICES_UP, err
  assert out.splitlines()[-1] == "modules: torch triton"


def test_triton_after_tensorflow_is_refused(folder):
  code, _, err = run(
      folder, "import sys; sys.modules['tensorflow'] = sys\n"
      "from stepdistill_jax.util import entry_points, runtime\n"
      "sys.exit(entry_points.command(runtime.import_transformers)())",
      sites=("hf_site",))
  assert code == 2, err
  assert err.count("\n") == 1 and "import triton before TensorFlow" in err


@pytest.mark.parametrize("nodes, sites, words", [
    ("gpu", ("plugin_site",), [
        "gpu/nvidia0)", "xla_cuda13.initialize(): Outdated cuBLAS "
        "installation found. Version 14", "stepdistill_jax[gpu]"]),
    ("gpu", (), ["no CUDA plugin of JAX is installed"]),
    ("amd", (), ["amd/kfd)", "no ROCm plugin of JAX is installed"])])
def test_an_accelerator_that_jax_cannot_use_ends_a_run(
    folder, nodes, sites, words):
  code, _, err = run(
      folder, *TRAIN, sites=sites, DEVICE_FOLDER=str(folder / nodes))
  assert code == 2 and err.count("\n") == 1, err
  for word in (*words, "set JAX_PLATFORMS=cpu to run on the CPU"):
    assert word in err


def test_a_platform_that_is_asked_for_and_missing_ends_a_run(folder):
  code, _, err = run(folder, *TRAIN, JAX_PLATFORMS="rocm")
  assert code == 2 and err.count("\n") == 1, err
  assert "error: JAX_PLATFORMS=rocm: Unable to initialize backend" in err


def test_of_two_machines_the_one_without_its_accelerator_ends_both(folder):
  """Before a collective: the other waits for its devices."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  both = [start(
      folder, *TRAIN, f"--coordinator_address=127.0.0.1:{port}",
      "--process_count=2", f"--process_index={index}",
      DEVICE_FOLDER=str(folder / nodes))
          for index, nodes in enumerate(("student", "amd"))]
  printed = [process.communicate(timeout=120)[1] for process in both]
  assert [process.returncode for process in both] == [2, 2], printed
  assert "process 0 of 2: process 1 ended by an error" in printed[0]
  assert "process 1 of 2: error: this machine has an accelerator" in printed[1]
  assert "Traceback" not in "".join(printed)
