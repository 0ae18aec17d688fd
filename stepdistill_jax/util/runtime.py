"""The process: quiet logs, memory, a compilation cache, where TensorFlow is.

`configure()` must run before tensorflow and jax are imported, since both read
the environment only then; later calls do what still can be done. A variable
that the user has set is left as it is.
"""

from collections.abc import Iterator
import contextlib
import ctypes
import gc
import importlib.util
import logging as python_logging
import os
import signal
import sys
import threading
import time
from typing import Any
import warnings

from stepdistill_jax.util import devices, errors, lazy_keras, locations

# As near to the process's start as this package can see.
START_TIME = time.time()

_QUIET_ENVIRONMENT = {
    # TensorFlow and XLA print C++ information, warnings and errors that are
    # none (oneDNN, cuDNN factories, CPU features of cached programs).
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "GRPC_VERBOSITY": "ERROR",
    # Kept out of workers' way: tokenizers would warn after a fork.
    "TOKENIZERS_PARALLELISM": "false",
    # TFDS would ask Google Cloud Storage for data sets.
    "TFDS_DISABLE_GCS": "1",
}
# Everything is worth keeping: a tiny model's step takes seconds to compile.
_CACHE_ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

# What is set where the machine has GPUs.
_GPU_ENVIRONMENT = {
    # JAX takes 75% of a GPU by default. TensorFlow, which only reads data, is
    # kept off GPUs here, so that nearly all can be JAX's.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": devices.GPU_MEMORY_FRACTION,
    # One connection queue: NCCL's kernels start in the order of the program,
    # which is what lets the scheduler below overlap them.
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
}
_GPU_FLAGS = (
    # Collectives overlap computation, at the cost of memory for what is in
    # flight: with sharded parameters each layer's all-gather hides behind the
    # layer before it.
    "--xla_gpu_enable_latency_hiding_scheduler=true",
)

# glibc's mallopt(3): M_NAME -> (its number, value in bytes). A user decides
# instead with the environment's MALLOC_NAME_.
_MALLOC_OPTIONS = {"TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 2**26),
                   "MMAP_THRESHOLD": (-3, 2**25)}

# Imports and traces allocate objects by the million and leave few in cycles:
# looking for those as often as Python does takes a tenth of a start.
_PYTHONS_THRESHOLDS, _THRESHOLD = (700, 2_000), 10_000


def _keep_freed_memory() -> None:
  """Keeps the memory of freed arrays in the process.

  XLA's CPU programs allocate and free the same buffers at every step. By
  default glibc gives large ones back to the kernel, which clears each page
  again: a fifth of the time of a small student's step.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Absent but on glibc.
  for name, (number, value) in _MALLOC_OPTIONS.items():
    if mallopt is not None and f"MALLOC_{name}_" not in os.environ:
      mallopt(number, value)


def _without_absent_chips() -> dict[str, str]:
  """Keeps JAX from looking for TPUs and GPUs where only their compiler is.

  `stepdistill plan` needs libtpu on machines without TPUs, and JAX's plugin for
  CUDA on those without GPUs; there JAX would ask a cloud's metadata, or a
  driver, and complain in several lines, at every start.
  """
  if devices.present() or not (
      importlib.util.find_spec("libtpu") or devices.cuda_without_gpus()):
    return {}
  return {"JAX_PLATFORMS": "cpu"}


def _of_gpus() -> dict[str, str]:
  """The environment of a machine with GPUs; the user's own flags stay."""
  if "cuda" not in devices.present():
    return {}
  given = os.environ.get("XLA_FLAGS", "").split()
  names = {flag.split("=")[0] for flag in given}
  os.environ["XLA_FLAGS"] = " ".join(
      [*given, *(f for f in _GPU_FLAGS if f.split("=")[0] not in names)])
  return _GPU_ENVIRONMENT


def configure() -> None:
  """Quiets libraries, keeps freed memory, turns JAX's compilation cache on.

  Keras, which nothing here uses, is imported when something does, and Python
  looks for garbage in cycles less often.

  With programs, what XLA found by timing a GPU's kernels is kept there too,
  for later runs and for other processes of the host; JAX does that by itself.

  The cache is in `locations.cache_home()/"jax"`; `JAX_COMPILATION_CACHE_DIR`
  puts it elsewhere, `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
  """
  cache = {"JAX_COMPILATION_CACHE_DIR": str(locations.cache_home() / "jax"),
           **_CACHE_ENVIRONMENT}
  new = {k: v for k, v in {
      **_QUIET_ENVIRONMENT, **cache, **_without_absent_chips(),
      **_of_gpus()}.items()
         if k not in os.environ}
  os.environ.update(new)
  if "jax" in sys.modules:
    import jax
    for name, value in new.items():
      if name.startswith("JAX_") and name != "JAX_PLATFORMS":
        jax.config.update(
            name.lower(), value if name.endswith("DIR") else float(value)
            if "SECS" in name else int(value))
  if devices.cuda_without_gpus():
    with devices.native_stderr_held_back():
      import jax  # noqa: F401
  lazy_keras.install()
  if gc.get_threshold()[0] in _PYTHONS_THRESHOLDS:
    gc.set_threshold(_THRESHOLD)
  _keep_freed_memory()
  _quiet_python()


def _quiet_python() -> None:
  from absl import logging
  # Without this absl prints a complaint about itself before the first line.
  logging.use_absl_handler()
  logging.set_verbosity(logging.ERROR)
  for name in ("jax", "tensorflow", "orbax", "etils", "h5py"):
    python_logging.getLogger(name).setLevel(python_logging.ERROR)
  # Libraries' notes to their own developers.
  for category in (DeprecationWarning, PendingDeprecationWarning,
                   FutureWarning):
    warnings.filterwarnings("ignore", category=category)


@contextlib.contextmanager
def preempted_on_sigterm() -> Iterator[None]:
  """Until training takes SIGTERM itself, it ends the process with code 75.

  So that who started it starts it again, as after a save: nothing is lost
  while a process imports its libraries.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(
      signal.SIGTERM, lambda *_: os._exit(errors.PREEMPTED_EXIT_CODE))
  try:
    yield
  finally:
    # None: set by other code than Python's; it cannot be put back.
    signal.signal(
        signal.SIGTERM, signal.SIG_DFL if before is None else before)


def import_tensorflow() -> Any:
  """Imports TensorFlow quietly, and off the accelerators.

  After `devices.start` where the process computes: see there.
  It only reads data here and must not take JAX's memory. While it is
  imported it logs missing GPU drivers, whatever the environment says.
  """
  with devices.native_stderr_held_back():
    import tensorflow as tf
  for kind in ("GPU", "TPU"):
    # Already in use, by the caller's choice.
    with contextlib.suppress(RuntimeError, ValueError):
      tf.config.set_visible_devices([], kind)
  return tf


def load_triton() -> None:
  """Loads triton, which torch's CUDA build brings, if it is installed.

  Loaded after TensorFlow it ends the process, by LLVM options that both
  register; the other order works. What uses torch calls this first, and loads
  TensorFlow later or never.

  Raises:
    errors.UserError: TensorFlow is there already.
  """
  if "triton" in sys.modules or importlib.util.find_spec("triton") is None:
    return
  if "tensorflow" in sys.modules:
    raise errors.UserError(
        "TensorFlow is loaded in this process, and torch's triton would crash "
        "it: import triton before TensorFlow (`tasks`, `seqio` and `t5x` load "
        "it), or run this in a process of its own")
  import triton  # noqa: F401


def import_transformers() -> Any:
  """Imports transformers and torch, in an order that is safe.

  Raises:
    errors.UserError: see `load_triton`; or they are not installed.
  """
  load_triton()
  with errors.reported(
      ModuleNotFoundError, "--hf needs transformers and torch; install them "
      "with `pip install 'stepdistill_jax[hf]'`"):
    import torch  # noqa: F401
    import transformers
  return transformers
