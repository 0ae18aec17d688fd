"""Python programs in processes of their own, without the seconds of imports.

A server imports JAX, TensorFlow and the engine once, before any of them starts
a thread, and forks. A fork becomes `python ARGUMENTS`: with the environment,
the folder and the open files of who asked, a process id of its own, and its
end. What it starts by `sys.executable` or multiprocessing are forks, too.

Not for tests of what a process imports, or of a package that is installed.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
_MOST_FILES = 64
# The process of a command: as if it were the fork. Without Python's packages
# it is there in some hundredths of a second.
_CLIENT = """\
#!{python} -SE
import sys
sys.path.insert(0, {folder!r})
import forking
forking.be_a_fork({address!r}, sys.argv[1:])
"""


@functools.cache
def python() -> str:
  """Starts the server, once; returns a program that stands in for `python`.

  Its process passes signals on to the fork and ends as it does; if it is
  killed, so is the fork.
  """
  import tempfile
  folder = tempfile.mkdtemp(prefix="forks")
  address, program = (os.path.join(folder, name) for name in ("s", "python"))
  with open(program, "w", encoding="utf-8") as file:
    file.write(_CLIENT.format(
        python=sys.executable, address=address,
        folder=os.path.dirname(os.path.abspath(__file__))))
  os.chmod(program, 0o755)
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(address)
    listener.listen(16)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking", program,
         str(listener.fileno())], stdin=subprocess.PIPE, cwd=_ROOT,
        stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": _ROOT})

  def end():
    server.stdin.close()  # Closed as well if this process is killed.
    server.wait()
    import shutil
    shutil.rmtree(folder)

  atexit.register(end)
  return program


class Fork:
  """A process that was started.

  Attributes:
    pid: its process id.
  """

  def __init__(self, address: str, arguments: list[str],
               environment: Mapping[str, str], files: Mapping[int, int]):
    """Starts `python ARGUMENTS`.

    Args:
      address: of the server.
      arguments: of the program.
      environment: all of it.
      files: of the fork, by its numbers; the values are this process's.
    """
    self._connection = socket.socket(socket.AF_UNIX)
    self._connection.connect(address)
    data = json.dumps({
        "arguments": arguments, "environment": dict(environment),
        "folder": os.getcwd(), "files": list(files)}).encode()
    socket.send_fds(self._connection, [len(data).to_bytes(8, "big")],
                    list(files.values()))
    self._connection.sendall(data)
    self._answers = self._connection.makefile()
    self.pid = int(self._answers.readline())
    self._code: int | None = None

  def wait(self) -> int:
    """Its exit code; -N where signal N ended it."""
    if self._code is None:
      self._code = int(self._answers.readline())
      self._answers.close()
      self._connection.close()
    return self._code


def start(arguments: list[str], environment: Mapping[str, str],
          log: os.PathLike[str]) -> Fork:
  """Starts `python ARGUMENTS`, which prints into `log`."""
  address = os.path.join(os.path.dirname(python()), "s")
  with open(log, "wb") as stream, open(os.devnull, "rb") as nothing:
    return Fork(address, arguments, environment, {
        0: nothing.fileno(), 1: stream.fileno(), 2: stream.fileno()})


def be_a_fork(address: str, arguments: list[str]) -> NoReturn:
  """Ends as a fork does that has this process's environment and open files."""
  files = {}
  for name in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):  # Of the listing itself.
      if os.get_inheritable(int(name)):
        files[int(name)] = int(name)
  fork = Fork(address, arguments, os.environ, files)
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(fork.pid, number))
  for file in files:
    if file > 2:
      os.close(file)  # A pipe ends with the fork.
  code = fork.wait()
  if code < 0:
    if -code != signal.SIGKILL:
      signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
  os._exit(code)


def _import_all() -> None:
  """What most programs import; it must start no thread of ours."""
  from stepdistill_jax.util import runtime
  runtime.configure()
  runtime.load_triton()
  import tensorflow  # noqa: F401

  from stepdistill_jax.util import t5x_finder
  t5x_finder.install("embedded")
  import jax.interpreters.mlir  # noqa: F401
  with contextlib.suppress(ImportError):  # JAX imports it late, for a second.
    from jaxlib.mlir.dialects import mhlo  # noqa: F401
  from clu import metric_writers  # noqa: F401
  import matplotlib.figure  # noqa: F401
  with contextlib.suppress(ImportError):
    import openai  # noqa: F401
  import pandas  # noqa: F401
  import scipy.stats  # noqa: F401
  import seqio  # noqa: F401

  from stepdistill_jax import models  # noqa: F401  (Tasks depend on records.)
  from stepdistill_jax.embedded_t5x import (
    main,  # noqa: F401
    train,  # noqa: F401
  )


def _serve(program: str, listener: socket.socket) -> None:
  """Forks on request, until who started this has ended."""
  _import_all()
  gc.freeze()  # A fork's search for garbage would copy all of it.
  environment = dict(os.environ)
  selector = selectors.DefaultSelector()
  selector.register(0, selectors.EVENT_READ)
  selector.register(listener, selectors.EVENT_READ)
  forks: dict[int, tuple[int, socket.socket]] = {}  # By pidfd.
  while True:
    for key, _ in selector.select():
      if selector.get_map().get(key.fd) != key:
        continue  # Of a fork that this round has seen the end of.
      if key.fd == 0:
        for pid, _ in forks.values():
          os.kill(pid, signal.SIGKILL)
        return
      if key.fileobj is listener:
        connection, _ = listener.accept()
        size, files, _, _ = socket.recv_fds(connection, 8, _MOST_FILES)
        with connection.makefile("rb") as stream:
          request = json.loads(stream.read(int.from_bytes(size, "big")))
        pid = os.fork()
        if pid == 0:
          selector.close()
          for fd in (listener.detach(), connection.detach(), *forks, *(
              other.detach() for _, other in forks.values())):
            os.close(fd)
          _become(request, files, environment, program)
        for file in files:
          os.close(file)
        connection.sendall(b"%d\n" % pid)
        pidfd = os.pidfd_open(pid)
        forks[pidfd] = pid, connection
        selector.register(pidfd, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ, pid)
      elif key.data is not None:  # Who asked was killed.
        selector.unregister(key.fileobj)
        os.kill(key.data, signal.SIGKILL)
      elif key.fd in forks:
        pid, connection = forks.pop(key.fd)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
          connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        selector.unregister(key.fd)
        with contextlib.suppress(KeyError):
          selector.unregister(connection)
        os.close(key.fd)
        connection.close()


def _become(request, files, environment, program) -> NoReturn:
  """The forked process: `python ARGUMENTS`, up to its end."""
  code: object = 1
  try:
    moved = [_moved(file) for file in files]
    for number, file in zip(request["files"], moved, strict=True):
      os.dup2(file, number)
      os.close(file)
    # JAX and TensorFlow read these when they are imported, and no more.
    new = request["environment"]
    changed = [name for name in {*new, *environment}
               if name.startswith(("JAX_", "TF_"))
               and new.get(name) != environment.get(name)]
    assert not changed, f"these cannot be changed in a fork: {changed}"
    os.environ.clear()
    os.environ.update(new)
    os.chdir(request["folder"])
    _run(request["arguments"], program)
    code = 0
  except SystemExit as ended:
    code = ended.code
    if isinstance(code, str):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    import traceback
    traceback.print_exc()
  threading._shutdown()
  atexit._run_exitfuncs()  # Connected processes leave together.
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code or 0)


def _moved(file: int) -> int:
  """The same file by a number that no other one is to have."""
  import fcntl
  moved = fcntl.fcntl(file, fcntl.F_DUPFD, 500)
  os.close(file)
  return moved


def _run(arguments: list[str], program: str) -> None:
  """Does what `python ARGUMENTS` does, of a file, `-m` or `-c`."""
  import multiprocessing.spawn
  import runpy
  import types

  from stepdistill_jax.util import runtime
  runtime.START_TIME = time.time()
  sys.executable = program
  multiprocessing.spawn.set_executable(program)
  while arguments[0] in ("-u", "-B", "-q") or arguments[0][:2] in ("-X", "-W"):
    arguments = arguments[1:]
  kind, *rest = arguments
  first = os.path.dirname(os.path.abspath(kind))
  if kind in ("-c", "-m"):
    first = os.getcwd()
    kind, *rest = rest
  paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
  sys.path[:] = [first, *filter(None, paths), *sys.path[1:]]
  sys.argv = [kind, *rest]
  if arguments[0] == "-m":
    runpy.run_module(kind, run_name="__main__", alter_sys=True)
  elif arguments[0] == "-c":
    sys.argv[0] = "-c"
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(kind, main.__dict__)
  else:
    runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
  _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
