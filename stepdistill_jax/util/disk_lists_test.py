"""A list on the disk is as one in memory, whatever its values are."""

import dataclasses
import math
import resource
import tempfile

import numpy as np
import pytest

from stepdistill_jax.util import disk_lists


@dataclasses.dataclass(frozen=True)
class _Pair:
  name: str
  value: float | None = None


VALUES = [
    None, True, 0, 2**64 - 1, -(2**63), 1e-320, -0.0, 0.1 + 0.2, math.inf, "",
    "\ud800", "\ud83d\ude00", "\U0001f600", "\\ud83d", "é",
    '"\\\n\r\u2028\x00,\ufeff', [], {},
    {"a": [1, {"b": None}], "\udc80": "x"}, "long" * 300_000, [[0.5]]]


@pytest.fixture(name="few", autouse=True)
def _few(monkeypatch):
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)


def _require_equal(found, values):
  assert len(found) == len(values)
  assert list(map(repr, found)) == list(map(repr, values))
  for at in (*range(-len(values), len(values)), np.int64(0)):
    assert repr(found[at]) == repr(values[at])
  for part in (slice(2), slice(-3, None), slice(None, None, -2)):
    assert repr(found[part]) == repr(values[part])
  for at in (len(values), -len(values) - 1):
    with pytest.raises(IndexError):
      found[at]


@pytest.mark.parametrize("count", range(1, 6))
def test_before_and_after_the_values_go_to_the_disk(count):
  for start in range(0, len(VALUES) - count, 5):
    values = VALUES[start:start + count]
    found = disk_lists.DiskList(values)
    assert (found._file is None) == (count <= 3)
    _require_equal(found, values)


def test_round_trip():
  _require_equal(disk_lists.DiskList(VALUES), VALUES)
  pairs = [_Pair(f"\ud83d\ude00{i}", i / 3 if i % 2 else None)
           for i in range(50)]
  _require_equal(disk_lists.DiskList(pairs, of=_Pair), pairs)


def test_it_grows_while_it_is_read():
  found, expected = disk_lists.DiskList(), []
  for i in range(40):
    found.append([i])
    expected.append([i])
    assert found[i // 2] == expected[i // 2]
  again = disk_lists.DiskList(range(2))
  for i in again:
    if i < 9:
      again.append(i + 2)
  assert list(again) == list(range(11))


def test_two_readers_at_once():
  found = disk_lists.DiskList(range(1000))
  assert list(zip(found, found)) == [(i, i) for i in range(1000)]


def test_a_large_list_is_read_in_blocks(monkeypatch):
  monkeypatch.setattr(disk_lists, "_BLOCK", 64)
  values = ["x" * (i % 90) for i in range(500)]
  _require_equal(disk_lists.DiskList(values), values)


def test_a_full_disk_is_named():
  found = disk_lists.DiskList(range(10))
  found.append("x" * 10_000)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
  try:
    with pytest.raises(OSError, match=tempfile.gettempdir()):
      list(found)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert list(found) == [*range(10), "x" * 10_000]
