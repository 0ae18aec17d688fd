"""What the shards of a growing cache hold, and where.

An SQLite file, made anew from the shards at each opening, so that memory does
not grow with the cache and nothing has to be kept consistent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import dataclasses
import pathlib
import sqlite3
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures

# Before the reason of a sample that has no completion.
ERROR = "error:"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
  """Where a line is: shard number, offset and length in bytes."""

  shard: int
  offset: int
  length: int


class Index:
  """The samples of a cache by row and by request.

  Attributes:
    superseded: lines that were entered and do not count.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self.superseded = 0
    path.unlink(missing_ok=True)
    # Used by one thread at a time.
    self._database = sqlite3.connect(
        path, check_same_thread=False, isolation_level=None)
    self._database.executescript("""
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        PRAGMA cache_size = -4096;  -- kB.
        CREATE TABLE samples (
            id TEXT, sample INTEGER, reason TEXT, request BLOB, copied INTEGER,
            shard INTEGER, offset INTEGER, length INTEGER,
            prompt_tokens INTEGER, completion_tokens INTEGER,
            PRIMARY KEY (id, sample)) WITHOUT ROWID;
        CREATE INDEX by_request ON samples (request);
        BEGIN;
    """)

  def enter(self, line: Mapping[str, Any], place: Place) -> None:
    """Enters a line; a completion supersedes an error, nothing else does."""
    sample = line.get("sample", 0)
    before = self.reason(line["id"], sample)
    if before is not None:
      self.superseded += 1
      if not before.startswith(ERROR):
        return
    paid = paid_for(line)
    self._database.execute(
        "INSERT OR REPLACE INTO samples VALUES (?,?,?,?,?,?,?,?,?,?)",
        (line["id"], sample, ending(line), bytes.fromhex(line["request"]),
         "copy_of" in line, place.shard, place.offset, place.length,
         paid.get("prompt_tokens", 0), paid.get("completion_tokens", 0)))

  def reason(self, row_id: str, sample: int) -> str | None:
    """How a sample ended, see `ending`; None if it is not there."""
    found = self._database.execute(
        "SELECT reason FROM samples WHERE id = ? AND sample = ?",
        (row_id, sample)).fetchone()
    return found and found[0]

  def place(self, row_id: str, sample: int) -> Place | None:
    """Where a sample's line is."""
    found = self._database.execute(
        "SELECT shard, offset, length FROM samples "
        "WHERE id = ? AND sample = ?", (row_id, sample)).fetchone()
    return found and Place(*found)

  def places_of_request(self, key: str) -> list[Place]:
    """Where the completions are that a request has brought."""
    return [Place(*found) for found in self._database.execute(
        "SELECT shard, offset, length FROM samples WHERE request = ? "
        "AND NOT copied AND reason NOT LIKE ? ORDER BY id, sample",
        (bytes.fromhex(key), f"{ERROR}%"))]

  def offsets(self, shard: int) -> set[int]:
    """Offsets of the lines of a shard that count."""
    return {offset for (offset,) in self._database.execute(
        "SELECT offset FROM samples WHERE shard = ?", (shard,))}

  def counts(self) -> dict[str, int]:
    """Number of samples by how they ended."""
    return dict(self._database.execute(
        "SELECT reason, COUNT(*) FROM samples GROUP BY reason "
        "ORDER BY reason"))

  def usage(self) -> dict[str, int]:
    """Tokens paid for, as the servers told."""
    totals = self._database.execute(
        "SELECT TOTAL(prompt_tokens), TOTAL(completion_tokens) FROM samples"
    ).fetchone()
    return dict(zip(("prompt_tokens", "completion_tokens"), map(int, totals)))

  def close(self) -> None:
    """Removes the file."""
    self._database.close()
    self._path.unlink(missing_ok=True)


def paid_for(line: Mapping[str, Any]) -> Counter[str]:
  """Tokens that were paid for a sample, vain attempts included."""
  return Counter(line.get("usage") or {}) + Counter(
      line.get("paid_in_vain") or {})


def ending(line: Mapping[str, Any]) -> str:
  """How a line's sample ended.

  `stop` is as it should be; else a named reason, with `error:` before it if
  there was no completion at all.
  """
  if line.get("error"):
    return f"{ERROR}{failures.of_error(line['error'])}"
  reason = completions.ending_of(line.get("finish_reason"))
  if reason == completions.STOP and not (line.get("output") or "").strip():
    return failures.EMPTY
  return reason
