"""The devices of a run: started before TensorFlow, never the CPU in silence.

JAX's CUDA plugin checks the CUDA libraries that the process has when JAX
starts its devices. TensorFlow brings stubs of them: where it was imported
first, the plugin finds those, gives up, and JAX goes on with the CPU. So every
command that computes calls `start` before `runtime.import_tensorflow`.
"""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import glob
import importlib.util
import logging
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

from stepdistill_jax.util import errors

# Where the system has its device nodes; tests have a folder of their own.
FOLDER = "/dev"
# A platform of JAX's -> what names its devices in FOLDER.
_NODES = {
    "cuda": ("nvidia[0-9]*",),
    "tpu": ("accel[0-9]*", "vfio/[0-9]*"),
    "rocm": ("kfd",),
}
# A node alone proves nothing: /dev/kfd comes with a driver, /dev/vfio/N is
# whatever may be handed on to a virtual machine. Where the system lists its PCI
# devices, one of them must be of this vendor and class.
PCI_FOLDER = "/sys/bus/pci/devices"
_PCI_DEVICES = {
    "tpu": re.compile("0x1ae0 0x(?!01|02)"),  # Google's disks, network cards.
    "rocm": re.compile("0x1002 0x(03|12)"),  # Displays, accelerators.
}
# The platform, its name in the lines that JAX logs, and what to install.
_PLUGINS = {
    "cuda": ("CUDA", "cuda|nvidia", "pip install 'stepdistill_jax[gpu]'"),
    "tpu": ("TPU", "tpu", "pip install 'stepdistill_jax[tpu]'"),
    "rocm": ("ROCm", "rocm|amd", "pip install jax-rocm7-plugin"),
}
# What JAX takes of a GPU's memory at its start, unless the user says otherwise.
GPU_MEMORY_FRACTION = ".92"
_LOGGER = "jax._src.xla_bridge"
# What JAX adds to an error: advice that does not fit here.
_ADVICE = re.compile(r" \((set JAX_PLATFORMS|you may need to uninstall)[^)]*\)")


def present() -> dict[str, list[str]]:
  """The accelerators of this machine: JAX's platform -> device nodes."""
  found = {
      platform: sorted(
          path for pattern in patterns
          for path in glob.glob(os.path.join(FOLDER, pattern)))
      for platform, patterns in _NODES.items()}
  return {platform: nodes for platform, nodes in found.items()
          if nodes and _is_on_pci(platform)}


def _is_on_pci(platform: str) -> bool:
  """Whether a device of a platform's is listed; True if that is unknown."""
  wanted, folder = _PCI_DEVICES.get(platform), pathlib.Path(PCI_FOLDER)
  if wanted is None or not folder.is_dir():
    return True
  for device in folder.iterdir():
    with contextlib.suppress(OSError):
      if wanted.match(" ".join((device / name).read_text().strip()
                               for name in ("vendor", "class"))):
        return True
  return False


def cuda_without_gpus() -> bool:
  """Whether JAX's CUDA plugin is installed, and the machine has no GPU.

  As on a cluster's login node. The plugin then logs a missing driver several
  times, whatever the environment says: as JAX is imported and as it starts.
  """
  return "cuda" not in present() and any(
      importlib.util.find_spec(f"jax_cuda{version}_plugin")
      for version in (12, 13))


@contextlib.contextmanager
def native_stderr_held_back() -> Iterator[None]:
  """Holds back what native code prints; shown only if an error follows."""
  try:
    descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]  # Caught.
  except (AttributeError, ValueError, OSError):
    yield  # No such thing, as in a notebook.
    return
  with tempfile.TemporaryFile() as held_back:
    saved = os.dup(descriptor)
    os.dup2(held_back.fileno(), descriptor)
    try:
      yield
    except BaseException:
      held_back.seek(0)
      os.write(saved, held_back.read())
      raise
    finally:
      os.dup2(saved, descriptor)
      os.close(saved)


def names(found: dict[str, list[str]]) -> str:
  """Device nodes for a line of text."""
  return ", ".join(node for nodes in found.values() for node in nodes)


class _Lines(logging.Handler):
  """Keeps what is logged, exceptions included, a line each."""

  def __init__(self) -> None:
    super().__init__(logging.INFO)
    self.lines: list[str] = []
    self.failures: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    error = record.exc_info[1] if record.exc_info else None
    text = record.getMessage() + (f": {error}" if error else "")
    self.lines.append(" ".join(text.split()))
    if record.levelno >= logging.ERROR:
      self.failures.append(self.lines[-1])


@contextlib.contextmanager
def _log_of_jax() -> Iterator[_Lines]:
  """Takes the place of JAX's log of how its devices are started."""
  logger, handler = logging.getLogger(_LOGGER), _Lines()
  before = logger.level, logger.propagate
  logger.setLevel(logging.INFO)
  logger.propagate = False
  logger.addHandler(handler)
  try:
    yield handler
  finally:
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def _reason(
    platforms: Iterable[str], lines: list[str], error: Exception | None) -> str:
  """Why JAX does not use these platforms, in its own words if it has any."""
  wanted = re.compile(
      "|".join(_PLUGINS[p][1] for p in platforms), re.IGNORECASE)
  logged = [line for line in lines if wanted.search(line)]
  said = "" if error is None else _ADVICE.sub("", " ".join(str(error).split()))
  # JAX lists those that it knows where there is no plugin at all.
  if said and "list of known backends" not in said:
    logged.append(said)
  if not logged:
    names = " or ".join(_PLUGINS[p][0] for p in platforms)
    return f"no {names} plugin of JAX is installed"
  return "; ".join(dict.fromkeys(logged))[:600].rstrip(".")


def _refusal(found: dict[str, list[str]], lines: list[str],
             error: Exception | None) -> errors.UserError:
  order = ""
  if "tensorflow" in sys.modules:
    order = ("TensorFlow was imported before JAX's devices were started, which "
             "can hide a GPU: call jax.devices() first; else ")
  return errors.UserError(
      f"this machine has an accelerator ({names(found)}) that JAX cannot use: "
      f"{_reason(found, lines, error)}; {order}"
      f"{' or '.join(_PLUGINS[p][2] for p in found)}, or set JAX_PLATFORMS=cpu "
      "to run on the CPU")


def start() -> list[Any]:
  """Starts JAX's devices, if they are not yet, and returns all of the run.

  Before TensorFlow is imported, and after `processes.join`.

  Raises:
    errors.UserError: JAX cannot use what this machine has, or what
      $JAX_PLATFORMS asks for.
  """
  import jax
  chosen = jax.config.jax_platforms  # type: ignore[attr-defined]  # Set late.
  found = {} if chosen else present()
  quiet = (native_stderr_held_back() if cuda_without_gpus()
           else contextlib.nullcontext())
  with _log_of_jax() as log, quiet:
    try:
      if len(found) == 1:
        # Named, it fails at once if it must: as one of several processes,
        # JAX would wait for the others' devices before it says anything.
        jax.config.update("jax_platforms", f"{next(iter(found))},cpu")
      all_devices = jax.devices()
    except RuntimeError as error:
      jax.config.update("jax_platforms", chosen)
      if found:
        raise _refusal(found, log.lines, error) from error
      raise errors.UserError(
          f"JAX_PLATFORMS={chosen}: "
          f"{_ADVICE.sub('', ' '.join(str(error).split()))}; set "
          "JAX_PLATFORMS=cpu to run on the CPU") from error
  if found and all_devices[0].platform == "cpu":
    jax.config.update("jax_platforms", chosen)
    raise _refusal(found, log.lines, None)
  for line in log.failures:
    print(f"warning: {line}", file=sys.stderr)
  return all_devices


def description() -> str:
  """The run's devices in words; starts them if they are not yet."""
  all_devices = start()
  first = all_devices[0]
  text = f"{len(all_devices)} x {first.device_kind}"
  if first.platform not in first.device_kind.lower():
    text += f" ({first.platform})"
  numbers = collections.Counter(d.process_index for d in all_devices)
  if len(numbers) > 1:
    each = [str(numbers[index]) for index in sorted(numbers)]
    text += (f", {each[0]} in each of {len(each)} processes"
             if len(set(each)) == 1 else
             f", by process: {', '.join(each)}")
  if first.platform == "cpu" and present():
    text += (f"; JAX_PLATFORMS=cpu leaves this machine's {names(present())} "
             "alone")
  return text
