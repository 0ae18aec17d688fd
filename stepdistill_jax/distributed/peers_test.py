"""A process that goes without a word is noticed; one that ends is not."""

import queue
import socket
import threading

import pytest

from stepdistill_jax.distributed import peers


def test_an_orderly_end_is_no_loss():
  count, port, lost = 3, queue.Queue(), queue.Queue()
  together = threading.Barrier(count)

  def process(index):
    with peers.watched(
        index, count, "127.0.0.1",
        lambda text: [port.put(text) for _ in range(count - 1)], port.get,
        lambda *who: lost.put(who)):
      together.wait(10)

  threads = [threading.Thread(target=process, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(10)
    assert not thread.is_alive()
  assert lost.empty()


@pytest.mark.parametrize("text", [b"", b"x"])
def test_a_connection_that_ends_without_bye_is_a_loss(text):
  ours, theirs = socket.socketpair()
  lost = queue.Queue()
  watch = peers._Watch({ours: 7}, lambda *who: lost.put(who))
  watch.start()
  if text:
    theirs.sendall(text)
  theirs.close()
  assert lost.get(timeout=10) == (7, None)
  watch.join(10)


def test_an_exit_code_that_is_said_reaches_all_but_who_finds_it_itself(
    monkeypatch):
  monkeypatch.setattr(peers, "_OWN_SECONDS", 0.05)
  pairs = [socket.socketpair() for _ in range(2)]
  lost = queue.Queue()
  watch = peers._Watch(
      {pairs[0][0]: 1, pairs[1][0]: 2}, lambda *who: lost.put(who))
  watch.start()
  pairs[0][1].sendall(b"2")
  assert pairs[1][1].recv(1) == b"2"
  assert lost.get(timeout=10) == (1, 2)
  watch.join(10)
  monkeypatch.setattr(peers, "_OWN_SECONDS", 60.0)
  ours, theirs = socket.socketpair()
  watch = peers._Watch({ours: 1}, lambda *who: lost.put(who))
  watch.start()
  theirs.sendall(b"1")
  watch.end(1, first=False)  # Its own error, a moment later.
  assert lost.empty()
