"""Tests of conversions need not wait for the disk."""

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
  monkeypatch.setattr("os.sync", lambda: None)
  monkeypatch.setattr("os.fsync", lambda descriptor: None)
