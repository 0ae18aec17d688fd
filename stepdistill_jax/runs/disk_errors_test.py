"""Errors that nobody catches, behind an error of the disk."""

import errno
import gc

import pytest

from stepdistill_jax.runs import disk_errors
from stepdistill_jax.util import errors


class _Write:
  """A write whose failure nobody catches, as some of orbax's."""

  def __init__(self, message):
    self.message = message

  def __del__(self):
    raise RuntimeError(self.message)


def _abandon(message):
  _Write(message)
  gc.collect()


@pytest.fixture(name="shown")
def _shown(monkeypatch):
  shown = []
  monkeypatch.setattr(
      "sys.unraisablehook", lambda error: shown.append(str(error.exc_value)))
  return shown


def test_writes_that_fail_behind_a_full_disk_are_not_shown(tmp_path, shown):
  with pytest.raises(errors.UserError, match="no space is left on the disk"):
    with disk_errors.reported(str(tmp_path)):
      _abandon("Event loop is closed")
      raise OSError(errno.ENOSPC, "No space left on device")
  _abandon("Event loop is closed")  # Some end when the command does.
  assert not shown
  _abandon("another error")
  assert shown == ["another error"]


def test_where_nothing_failed_all_is_as_it_was(tmp_path, shown):
  with disk_errors.reported(str(tmp_path)):
    _abandon("another error")
  _abandon("Event loop is closed")
  assert shown == ["another error", "Event loop is closed"]
