"""Accelerators by their device nodes, and what is said of those left alone."""

import collections
import os
import subprocess
import sys

import jax
import pytest

from stepdistill_jax.study import places
from stepdistill_jax.util import devices, errors, runtime


@pytest.fixture(name="nodes")
def _nodes(tmp_path, monkeypatch):
  """Makes device nodes in a folder of the test's own, without a PCI bus."""
  monkeypatch.setattr(devices, "FOLDER", str(tmp_path))
  monkeypatch.setattr(devices, "PCI_FOLDER", str(tmp_path / "no_bus"))

  def make(*names):
    for name in names:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).touch()
    return tmp_path

  return make


@pytest.fixture(name="no_choice")
def _no_choice():
  """As without JAX_PLATFORMS, which tests set."""
  before = jax.config.jax_platforms
  jax.config.update("jax_platforms", None)
  yield
  jax.config.update("jax_platforms", before)


def test_nodes_of_devices_are_found_and_others_are_not(nodes):
  folder = nodes(
      "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "vfio/vfio", "vfio/3",
      "accel/accel0", "accel2", "null")
  assert devices.present() == {
      "cuda": [f"{folder}/nvidia0", f"{folder}/nvidia1"],
      "tpu": [f"{folder}/accel2", f"{folder}/vfio/3"]}


@pytest.mark.parametrize("bus, found", [
    # Intel's bridge and Google's network card and disk: no accelerator.
    (["0x8086 0x060000", "0x1ae0 0x020000", "0x1ae0 0x010802"], []),
    (["0x1002 0x060400"], []),  # AMD's bridge.
    (["0x8086 0x060000", "0x1ae0 0x088000"], ["tpu"]),
    (["0x1002 0x120000"], ["rocm"]),
    (["0x1002 0x030000", "0x1ae0 0x120000"], ["rocm", "tpu"]),
    (None, ["rocm", "tpu"]),  # A system that does not list its devices.
])
def test_a_node_needs_its_vendor_s_device(
    nodes, monkeypatch, tmp_path, bus, found):
  nodes("kfd", "vfio/7")
  if bus is not None:
    monkeypatch.setattr(devices, "PCI_FOLDER", str(tmp_path / "pci"))
    (tmp_path / "pci/gone").mkdir(parents=True)  # A device without files.
    for number, device in enumerate(bus):
      folder = tmp_path / "pci" / f"0000:00:{number:02}.0"
      folder.mkdir()
      for name, text in zip(("vendor", "class"), device.split()):
        (folder / name).write_text(text + "\n")
  assert sorted(devices.present()) == found


@pytest.mark.parametrize("given, expected", [
    ("", "{0}=true"), ("--x --{0}=false", "--x --{0}=false"),
    ("--x", "--x {0}=true")])
def test_xla_flags_are_set_where_there_are_gpus(
    nodes, monkeypatch, given, expected):
  name = "--xla_gpu_enable_latency_hiding_scheduler"
  given, expected = (
      x.replace("--{0}", name).replace("{0}", name) for x in (given, expected))
  found = {"XLA_FLAGS": given, "CUDA_DEVICE_MAX_CONNECTIONS": "8"}
  monkeypatch.setattr(os, "environ", found)
  nodes("null")
  runtime.configure()
  assert found["XLA_FLAGS"] == given
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in found
  nodes("nvidia0")
  runtime.configure()
  assert found["XLA_FLAGS"] == expected
  assert found["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
  assert found["XLA_PYTHON_CLIENT_MEM_FRACTION"] == ".92"


def test_without_accelerators_the_cpu_is_taken(nodes, no_choice):
  nodes("null")
  assert devices.start() == jax.devices("cpu")
  assert jax.config.jax_platforms is None


@pytest.mark.parametrize("names, words", [
    (["accel0"], ["/accel0) that JAX cannot use: ", "TPU",
                  "pip install 'stepdistill_jax[tpu]', or set"]),
    (["nvidia0", "vfio/0"], [
        "/nvidia0, ", "/vfio/0) that", "no CUDA or TPU plugin",
        "stepdistill_jax[gpu]' or pip install 'stepdistill_jax[tpu]'"])])
def test_an_accelerator_that_is_not_used_is_refused_every_time(
    nodes, no_choice, names, words):
  nodes(*names)
  for _ in range(2):
    with pytest.raises(errors.UserError) as refused:
      devices.start()
    for word in words:
      assert word in str(refused.value)
    assert jax.config.jax_platforms is None


def test_what_is_left_alone_is_said(nodes):
  count = len(jax.devices())
  assert devices.description() == f"{count} x cpu"
  folder = nodes("nvidia0")
  assert devices.description() == (
      f"{count} x cpu; JAX_PLATFORMS=cpu leaves this machine's "
      f"{folder}/nvidia0 alone")


Device = collections.namedtuple("Device", "platform device_kind process_index")


@pytest.mark.parametrize("platform, kind, numbers, expected", [
    ("gpu", "NVIDIA H100 80GB HBM3", [2],
     "2 x NVIDIA H100 80GB HBM3 (gpu)"),
    ("tpu", "TPU v5 lite", [4, 4],
     "8 x TPU v5 lite, 4 in each of 2 processes"),
    ("cpu", "cpu", [1, 2], "3 x cpu, by process: 1, 2")])
def test_descriptions(
    nodes, monkeypatch, platform, kind, numbers, expected):
  nodes("null")
  monkeypatch.setattr(devices, "start", lambda: [
      Device(platform, kind, index)
      for index, number in enumerate(numbers) for _ in range(number)])
  assert devices.description() == expected


def test_quickstart_s_students_train_on_the_cpu_and_it_says_so(
    nodes, monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS")
  where = lambda number=None: str(places.of_small_students(number))
  assert where(2) == "the CPU, 2 at a time"
  folder = nodes("nvidia0")
  assert where(1) == (
      f"the CPU, one at a time, without {folder}/nvidia0 (which "
      "JAX_PLATFORMS=cuda would take)")
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  assert where(1) == "JAX_PLATFORMS=cuda, one at a time"
  assert places.of_small_students().number == 1


def test_a_cuda_plugin_without_gpus_says_nothing(nodes, tmp_path):
  """It logs as JAX is imported; here both are stand-ins."""
  (tmp_path / "jax.py").write_text("import os\nos.write(2, b'no driver')\n")
  (tmp_path / "jax_cuda12_plugin.py").touch()
  code = ("import sys; from stepdistill_jax.util import devices, runtime; "
          f"devices.FOLDER = {str(nodes())!r}; runtime.configure(); "
          "assert 'jax' in sys.modules")
  path = os.pathsep.join([str(tmp_path), *sys.path])
  found = subprocess.run(
      [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
      capture_output=True, text=True, check=True)
  assert found.stderr == ""
