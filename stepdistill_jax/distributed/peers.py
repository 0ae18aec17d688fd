"""Sees at once when another process of the run has died.

JAX notices by missing heartbeats, and ends the process with a stack trace; a
collective that waits for the dead one may not notice at all. Here every
process keeps a connection to process 0 that carries nothing: the system
closes it when a process dies, whatever it died of. Process 0 then ends, and
so do all others. (A machine that loses its power closes nothing: that is
left to the heartbeats.)
"""

from collections.abc import Callable, Iterator
import contextlib
import selectors
import socket
import threading

_BYE = b"b"  # Said at an orderly end.
# Said by a process that fails of itself; a digit is its exit code.
_CODES = b"123456789"
# A mistake is mostly made by all: each may find it itself within this time.
_OWN_SECONDS = 5.0
_HELLO_BYTES = 8  # The process's index, in text.
_CONNECT_SECONDS = 60.0


class _Watch(threading.Thread):
  """Waits for connections to end; calls back once if one ends without bye."""

  def __init__(self, connections: dict[socket.socket, int],
               on_lost: Callable[[int, int | None], None]):
    super().__init__(daemon=True, name="peers")
    self._connections = connections
    self._on_lost = on_lost
    self._selector = selectors.DefaultSelector()
    self._wake, self._woken = socket.socketpair()
    self._selector.register(self._woken, selectors.EVENT_READ)
    for connection in connections:
      self._selector.register(connection, selectors.EVENT_READ)

  def run(self) -> None:
    while len(self._selector.get_map()) > 1:
      for key, _ in self._selector.select():
        if key.fileobj is self._woken:
          return
        try:
          said = key.fileobj.recv(1)
        except OSError:
          said = b""
        self._selector.unregister(key.fileobj)
        if said == _BYE:
          continue
        code = int(said) if said and said in _CODES else None
        if code is not None:
          self._say(said)
          self._selector.close()
          self._woken.settimeout(_OWN_SECONDS)
          with contextlib.suppress(TimeoutError):
            self._woken.recv(1)
            return
        self._on_lost(self._connections[key.fileobj], code)
        return

  def _say(self, what: bytes) -> None:
    for connection in self._connections:
      with contextlib.suppress(OSError):
        connection.sendall(what)

  def end(self, code: int | None, first: bool) -> None:
    """Stops, after a word of how; without one if the code is None.

    The first process has JAX's coordination service, without which the others
    would be aborted with a stack trace: they may end before it.
    """
    if code is not None:
      self._say(str(code).encode() if code else _BYE)
    self._wake.send(b"w")
    self.join()
    for connection in self._connections if code and first else ():
      connection.settimeout(2 * _OWN_SECONDS)
      with contextlib.suppress(OSError):
        while connection.recv(1):
          pass
    for connection in (*self._connections, self._wake, self._woken):
      connection.close()


@contextlib.contextmanager
def watched(
    index: int, count: int, host: str, publish: Callable[[str], None],
    look_up: Callable[[], str], on_lost: Callable[[int, int | None], None],
    code_of: Callable[[BaseException], int | None] = lambda error: None,
) -> Iterator[None]:
  """Calls `on_lost(index, exit code)` if a process ends without leaving.

  It is called from a thread, at most once, with index 0 by all processes but
  0. The exit code is None of a process that died without a word.

  Args:
    index: of this process.
    count: of processes.
    host: where process 0 is.
    publish: takes the port of process 0.
    look_up: gives the others that port.
    on_lost: see above.
    code_of: an error that ends the block to this process's exit code: what
      others are given; 0 for an orderly end, None to leave without a word.
  """
  connections = {}
  if index == 0:
    # Both families where the system has both, as JAX's coordinator.
    with socket.create_server(("", 0)) as server:
      publish(str(server.getsockname()[1]))
      server.settimeout(_CONNECT_SECONDS)
      while len(connections) < count - 1:
        connection, _ = server.accept()
        connection.settimeout(_CONNECT_SECONDS)
        hello = connection.recv(_HELLO_BYTES, socket.MSG_WAITALL)
        if hello.strip().isdigit():  # Else a port scanner's.
          connection.settimeout(None)
          connections[connection] = int(hello)
  else:
    connection = socket.create_connection(
        (host, int(look_up())), timeout=_CONNECT_SECONDS)
    connection.settimeout(None)
    connection.sendall(str(index).rjust(_HELLO_BYTES).encode())
    connections[connection] = 0
  for connection in connections:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  watch = _Watch(connections, on_lost)
  watch.start()
  code = 0
  try:
    yield
  except BaseException as error:
    code = code_of(error)
    raise
  finally:
    watch.end(code, first=index == 0)
