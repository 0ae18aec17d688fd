"""What all tests run in: a compilation cache of their own, quiet libraries."""

import gc
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile

# For this process, before jax reads it, and for all that tests start.
# Tests compile the same tiny models again and again, in many processes; the
# folder stays between sessions, as a user's does.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(
    pathlib.Path(tempfile.gettempdir()) / "stepdistill_jax_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most of a test's time is the compiler's. Without LLVM's optimizations it is
# half of that; the arithmetic is the same, and no test measures its speed.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# The emitter of loops that XLA had before compiles a step in a third of the
# time; it computes the same.
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    *os.environ.get("XLA_FLAGS", "").split()]))
# Tests mean the CPU, whatever the machine has, unless told otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What a developer's shell names is for the tests alone to find; a test that
# needs it says so, or it would fail where nothing is configured.
os.environ.setdefault(
    "STEPDISTILL_TEST_DATA", os.environ.pop("STEPDISTILL_DATA", ""))
os.environ.pop("STEPDISTILL_VOCAB", None)
os.environ.pop("STEPDISTILL_RECORDS", None)

import pytest

from stepdistill_jax.util import runtime

runtime.configure()
# Some tests use torch, after others have loaded TensorFlow in their process.
runtime.load_triton()

# A checkpoint's files are synced one by one, which takes seconds on a disk and
# no time in memory.
_MEMORY = "/dev/shm"
if os.path.isdir(_MEMORY) and shutil.disk_usage(_MEMORY).free > 6 * 2**30:
  os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

# A shell's background job ignores Ctrl-C, and so would the runs that tests
# start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _gin_unlocked_for_module():
  """A run locks gin's configuration; what follows it may import more."""
  import gin
  with gin.unlock_config():
    yield


@pytest.fixture(autouse=True)
def _gin_unlocked(_gin_unlocked_for_module):
  """The same for each test: a fixture of its module may have run something."""
  import gin
  with gin.unlock_config():
    yield


@pytest.fixture(scope="module")
def forked_python():
  """`sys.executable`, also of what that starts, is without seconds of imports.

  See `forking`; its processes are real ones.
  """
  from multiprocessing import spawn

  from tests.support import forking
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "executable", forking.python())
    patch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))
    yield


# Why a test may be skipped in CI; all else that is missing there is a failure.
_ALLOWED_SKIPS = re.compile(
    "Google's T5X|no accelerator|no file system can be mounted")


def pytest_ignore_collect(collection_path, config):
  """Leaves out whole files of the other step: they import what is missing.

  A file's mark is read before the file is imported. `pytest` without
  `-m interop` or `-m 'not interop'` takes all.
  """
  step = config.option.markexpr
  if collection_path.suffix != ".py" or "interop" not in step:
    return None
  text = collection_path.read_text("utf-8")
  if step == "interop":
    return "pytest.mark.interop" not in text or None
  return "\npytestmark = pytest.mark.interop\n" in text or None


# Rooms whose tests compile nothing, or next to it.
_FAST = re.compile(
    r"stepdistill_jax/(answers|config|records|runs|util|teacher/(audit|"
    r"importing|prompts))/")


# The files that take longest, of either step: one that began last would have
# the other worker wait. (`make` has pytest-xdist keep this order.)
_LONG = (
    "tests/faults_test.py", "tests/several_processes_test.py",
    "quickstart/quickstart_test.py", "models/decoder_run_test.py",
    "tests/exactness_test.py", "study/study_test.py",
    "embedded_t5x/train_test.py", "tests/pair_rows_run_test.py",
    "tests/packaging_test.py", "tests/notebook_test.py",
    "tests/offline_test.py", "tests/examples_test.py",
    "tests/object_store_test.py", "ask/command_test.py",
    "tests/process_order_test.py", "models/step_model_test.py")


def _place(item) -> int:
  path = item.path.as_posix()
  return next((i for i, end in enumerate(_LONG) if path.endswith(end)),
              len(_LONG))


def pytest_collection_finish():
  """What imports, and each file's tests in caches, have left stays.

  No search for garbage looks at it again, for half a second each time.
  """
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _garbage_of_a_module():
  yield
  pytest_collection_finish()


def pytest_collection_modifyitems(items):
  items.sort(key=_place)
  for item in items:
    if _FAST.search(item.path.as_posix()):
      item.add_marker("fast")


def _refused_skips(config) -> list[str]:
  """Skips of this session that CI does not accept, as `file: reason`."""
  reporter = config.pluginmanager.get_plugin("terminalreporter")
  if os.environ.get("CI") != "true" or reporter is None:
    return []
  reasons = [report.longrepr for report in reporter.stats.get("skipped", ())]
  return sorted({f"{path}:{line}: {why}" for path, line, why in reasons
                 if not _ALLOWED_SKIPS.search(why)})


def pytest_sessionfinish(session):
  if _refused_skips(session.config):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
  refused = _refused_skips(config)
  if refused:
    terminalreporter.section("not to be skipped in CI", sep="=", red=True)
    terminalreporter.line("\n".join(refused))
