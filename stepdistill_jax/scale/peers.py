"""Sees at once when another process of the run has died.

JAX notices by missing heartbeats, and ends the process with a stack trace; a
collective that waits for the dead one may not notice at all. Here every
process keeps a connection to process 0 that carries nothing: the system
closes it when a process dies, whatever it died of. Process 0 then ends, and
so do all others. (A machine that loses its power closes nothing: that is
left to the heartbeats.)
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Callable, Iterator

_BYE = b"b"  # Said at an orderly end.
_HELLO_BYTES = 8  # The process's index, in text.
_CONNECT_SECONDS = 60.0


class _Watch(threading.Thread):
  """Waits for connections to end; calls back once if one ends without bye."""

  def __init__(self, connections: dict[socket.socket, int],
               on_lost: Callable[[int], None]):
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
        if said != _BYE:
          self._on_lost(self._connections[key.fileobj])
          return

  def end(self) -> None:
    """Says bye and stops."""
    for connection in self._connections:
      with contextlib.suppress(OSError):
        connection.sendall(_BYE)
    self._wake.send(b"w")
    self.join()
    for connection in (*self._connections, self._wake, self._woken):
      connection.close()


@contextlib.contextmanager
def watched(
    index: int, count: int, host: str, publish: Callable[[str], None],
    look_up: Callable[[], str], on_lost: Callable[[int], None]
) -> Iterator[None]:
  """Calls `on_lost(index of the lost process)` if one ends without leaving.

  It is called from a thread, at most once, with 0 by all processes but 0.

  Args:
    index: of this process.
    count: of processes.
    host: where process 0 is.
    publish: process 0 tells its port with it.
    look_up: the others wait for that port.
    on_lost: see above.
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
  try:
    yield
  finally:
    watch.end()
