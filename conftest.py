"""What all tests run in: a compilation cache of their own, quiet libraries."""

import os
import pathlib
import signal
import tempfile

# Before jax is imported, which reads it once. Tests compile the same tiny
# models again and again; the folder stays between sessions, as a user's does.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(
    pathlib.Path(tempfile.gettempdir()) / "stepdistill_jax_test_cache"))
# Tests mean the CPU, whatever the machine has, unless told otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest  # pylint: disable=g-import-not-at-top

from stepdistill_jax import runtime  # pylint: disable=g-import-not-at-top

runtime.configure()
# Some tests use torch, after others have loaded TensorFlow in their process.
runtime.load_triton()

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
