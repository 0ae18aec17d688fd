"""Forks are processes as any others, but for their imports."""

import os
import signal
import subprocess

import pytest

from tests.support import forking

SPAWNS = """
import multiprocessing, os, sys
def tell(queue):
  queue.put((os.getpid(), "jax" in sys.modules))
if __name__ == "__main__":
  context = multiprocessing.get_context("spawn")
  queue = context.Queue()
  process = context.Process(target=tell, args=(queue,))
  process.start()
  pid, forked = queue.get()
  assert pid != os.getpid() and forked
  process.join()
  sys.exit(process.exitcode)
"""


def run(*arguments, **options):
  return subprocess.run([forking.python(), *arguments], capture_output=True,
                        text=True, check=False, **options)


def test_a_fork_has_arguments_streams_folder_and_code(tmp_path):
  done = run("-c", "import os, sys; print(sys.argv, sys.stdin.read(), "
             "os.getcwd(), os.environ['A'], 'jax' in sys.modules); "
             "sys.exit(7)", "x", input="in", cwd=tmp_path,
             env={**os.environ, "A": "b"})
  assert done.stdout == f"['-c', 'x'] in {tmp_path} b True\n"
  assert (done.returncode, done.stderr) == (7, "")
  assert run("-c", "raise SystemExit('why')").stderr == "why\n"
  done = run("-c", "1 / 0")
  assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
  done = run("-m", "stepdistill_jax.cli.t5x", "--version")
  assert done.stdout.startswith("t5x ")


def test_a_process_that_a_fork_spawns_is_a_fork(tmp_path):
  (tmp_path / "spawns.py").write_text(SPAWNS)
  done = run(tmp_path / "spawns.py")
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_a_fork(number):
  with subprocess.Popen(
      [forking.python(), "-c", "import os, time; print(os.getpid(), "
       "flush=True); time.sleep(100)"], stdout=subprocess.PIPE, text=True
  ) as process:
    assert int(process.stdout.readline()) != process.pid
    process.send_signal(number)
    assert process.stdout.read() == ""  # Ends when the fork does.
    assert process.wait() == -number


def test_what_was_read_at_the_imports_cannot_be_changed():
  done = run("-c", "", env={**os.environ, "JAX_ENABLE_X64": "1"})
  assert done.returncode == 1 and "JAX_ENABLE_X64" in done.stderr
