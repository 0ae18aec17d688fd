"""The teacher cache while it grows: one SQLite table, locked and durable.

    manifest.json         what was asked of whom; replaced in one step
    .cache.sqlite         the lines, and the requests on their way
    shard-NNNNN.jsonl     the lines, one completion each; written by `close`
    prompt.toml           the prompt file, as it was
    .lock                 held by the process that writes

A line survives the process's end when `append` has returned, and the machine's
when `sync` has; only then it counts. While the database is there it is what
the cache holds; when it is not, the shards are, and the next opening reads
them. `close` writes the shards anew and removes the database.

A request that failed leaves a line with an `error`, and is asked again by the
next run; the line that brings then takes the place of that one.

A request is noted before it is sent, until its lines are appended or it has
failed. What is noted when the database is found again is *in doubt*: answers
may have been on their way when the process was killed. No plain API can tell;
a server that honours the `Idempotency-Key` header charges them once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import sqlite3
import time
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, locking
from stepdistill_jax.util import durable_files, errors

# Before the reason of a sample that has no completion.
ERROR = "error:"
_SHARD_BYTES = 64 * 2**20
_LOCK = ".lock"
_KEY_DIGITS = 32  # Hex digits of a request's key that are noted: 128 bits.
# Noted keys of caches written before 0.2: `+KEY` was sent, `-KEY` has ended.
_OLD_JOURNAL = ".sent"
# What may differ from the run before: another address, more samples. And as
# long as there is no completion, all but whose and of what they are.
_FREE_KEYS = ("base_url", "samples", "samples_per_request")
_NEVER_FREE_KEYS = ("teacher", "dataset", "split")
_TABLES = (
    "CREATE TABLE samples (id TEXT, sample INTEGER, reason TEXT, request TEXT,"
    " copied INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,"
    " line TEXT, PRIMARY KEY (id, sample))",
    "CREATE INDEX by_request ON samples (request)",
    "CREATE TABLE under_way (key TEXT PRIMARY KEY) WITHOUT ROWID")

Line = Mapping[str, Any]


class Store:
  """A teacher cache, opened for appending by one process; a context manager.

  Attributes:
    folder: the cache's folder.
    in_doubt: keys, shortened, of requests that were under way when an earlier
      writer was killed: they may have been paid for.
  """

  def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any],
               *, files: Mapping[str, bytes] | None = None,
               shard_bytes: int = _SHARD_BYTES):
    """Opens the cache, or begins it; what is there changes at `append` only.

    Args:
      folder: the cache's folder; made if it is not there.
      identity: the manifest's content that must not change between runs.
      files: to keep beside the shards, such as the prompt's.
      shard_bytes: size at which a new shard is begun.

    Raises:
      locking.Locked: another process writes to it.
      errors.UserError: it is a cache of something else, or cannot be written.
    """
    self.folder = pathlib.Path(folder)
    self._identity = dict(identity)
    self._files = dict(files or {})
    self._shard_bytes = shard_bytes
    self._path = self.folder / completions.GROWING
    self._manifest: dict[str, Any] = {}
    self._is_writing = self._is_kept = False
    with errors.reported(OSError, lambda error: (
        f"cannot write the cache {self.folder}: {error.strerror}")):
      self.folder.mkdir(parents=True, exist_ok=True)
      self._lock = locking.lock(self.folder / _LOCK)
    try:
      self._database = self._open_database()
      self._require_same_identity()
      self.in_doubt = frozenset(
          key for (key,) in self._database.execute("SELECT key FROM under_way"))
    except BaseException:
      self.abandon()
      raise

  def __enter__(self) -> Store:
    return self

  def __exit__(self, *exception) -> None:
    self.abandon()

  # --- What is there.

  @property
  def asked_again_before(self) -> int:
    """Requests in doubt that earlier runs have asked again."""
    return self._manifest.get("asked_again", 0)

  def lacks(self, row_id: str, sample: int) -> bool:
    """True if there is no completion of the sample."""
    return not self._database.execute(
        "SELECT 1 FROM samples WHERE id = ? AND sample = ? "
        f"AND reason NOT LIKE '{ERROR}%'", (row_id, sample)).fetchone()

  def line(self, row_id: str, sample: int) -> dict[str, Any] | None:
    """The sample's line, or None."""
    return next(self._lines("id = ? AND sample = ?", row_id, sample), None)

  def lines_of(self, key: str) -> list[dict[str, Any]]:
    """The completions that a request has brought; [] if it has none yet."""
    return list(self._lines(
        "request = ? AND NOT copied AND reason NOT LIKE ? ORDER BY id, sample",
        key, f"{ERROR}%"))

  def is_in_doubt(self, key: str) -> bool:
    return _short(key) in self.in_doubt

  def counts(self) -> dict[str, int]:
    """Number of samples by how they ended, see `ending`."""
    return dict(self._database.execute(
        "SELECT reason, COUNT(*) FROM samples GROUP BY reason "
        "ORDER BY reason"))

  def usage(self) -> dict[str, int]:
    """Tokens paid for, as the servers say."""
    totals = self._database.execute(
        "SELECT TOTAL(prompt_tokens), TOTAL(completion_tokens) FROM samples"
    ).fetchone()
    return dict(zip(("prompt_tokens", "completion_tokens"), map(int, totals)))

  # --- Adding to it.

  def sent(self, key: str) -> None:
    """Notes that a request is about to be sent."""
    with self._transaction() as database:
      database.execute(
          "INSERT OR IGNORE INTO under_way VALUES (?)", (_short(key),))

  def answered(self, *keys: str) -> None:
    """Notes that requests have ended: their lines are appended, or they failed.
    """
    with self._transaction() as database:
      database.executemany("DELETE FROM under_way WHERE key = ?",
                           {(_short(key),) for key in keys})

  def append(self, lines: Sequence[Line]) -> None:
    """Appends lines that belong together: all of them are there, or none.

    Raises:
      errors.UserError: the disk is full or gone.
    """
    if not self._is_writing:
      self._begin_writing()
    with self._transaction():
      for line in lines:
        self._enter(line)
      self.answered(*(line["request"] for line in lines))

  def sync(self) -> None:
    """Returns when all that was appended is on the disk."""
    if self._is_writing:
      self.syncer()()

  def syncer(self) -> Callable[[], None]:
    """A function for another thread that syncs what is appended by now."""
    # SQLite itself syncs the log whenever it moves it into the database.
    try:
      file = os.open(f"{self._path}-wal", os.O_RDONLY)
    except FileNotFoundError:
      return lambda: None

    def sync() -> None:
      try:
        os.fdatasync(file)
      finally:
        os.close(file)

    return sync

  def close(self, complete: bool, **counted: Any) -> None:
    """Ends the writing: shards and manifest are written.

    Args:
      complete: True if no sample is missing.
      **counted: what the run counted, for the manifest.
    """
    with errors.reported(OSError, self._cannot_write):
      lines = (line for (line,) in self._database.execute(
          "SELECT line FROM samples ORDER BY rowid"))
      shards = completions.write_shards(self.folder, lines, self._shard_bytes)
      self._write_manifest(
          complete, shards=shards, count=sum(s["count"] for s in shards),
          **counted)
    # What is in doubt has no other place.
    (self._is_kept,) = self._database.execute(
        "SELECT COUNT(*) FROM under_way").fetchone()
    self.abandon()

  def abandon(self) -> None:
    """Lets go of the cache as it is; every line stays."""
    if self._lock < 0:
      return
    if database := getattr(self, "_database", None):
      database.close()
    if not self._is_kept:
      self._path.unlink(missing_ok=True)
    os.close(self._lock)  # Also unlocks.
    self._lock = -1

  # --- Inside.

  def _open_database(self) -> sqlite3.Connection:
    """Opens the database; a new one gets the lines of the shards."""
    # Used by one thread at a time.
    self._database = database = sqlite3.connect(
        self._path, check_same_thread=False)
    try:
      is_wal = database.execute(
          "PRAGMA journal_mode = WAL").fetchone() == ("wal",)
      # Without a log, as on some file systems, each commit syncs.
      database.execute(f"PRAGMA synchronous = {'NORMAL' if is_wal else 'FULL'}")
      database.execute("PRAGMA cache_size = -4096")  # kB.
      self._is_kept = completions.is_whole(database)
      if not self._is_kept:
        database.execute("BEGIN")
        for table in _TABLES:
          database.execute(table)
        for line, text in self._shard_lines():
          self._enter(line, text)
        database.executemany("INSERT OR IGNORE INTO under_way VALUES (?)",
                             [(key,) for key in _old_journal(self.folder)])
        completions.mark_whole(database)
        database.commit()
    except sqlite3.DatabaseError as error:
      self._is_kept = True  # Whatever is in it.
      raise errors.UserError(
          f"{self._path} cannot be used ({error}); restore it, or collect into "
          "another folder") from error
    return database

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[sqlite3.Connection]:
    self._is_kept = True
    with errors.reported(
        sqlite3.OperationalError, self._cannot_write), self._database:
      yield self._database

  def _cannot_write(self, error: Exception) -> str:
    return (f"cannot write to {self.folder}: {error}; what was collected is "
            "safe, make room and run the same command again")

  def _enter(self, line: Line, text: str = "") -> None:
    """Enters a line; a completion supersedes an error, nothing else does.

    Args:
      line: the line.
      text: its JSON; made where it is not given.
    """
    key = line["id"], line.get("sample", 0)
    before = self._database.execute(
        "SELECT reason, line FROM samples WHERE id = ? AND sample = ?",
        key).fetchone()
    if before and not before[0].startswith(ERROR):
      return
    if before and (paid := _paid_for(json.loads(before[1]))):
      text, line = "", dict(line, paid_in_vain=paid + Counter(
          line.get("paid_in_vain") or {}))
    paid = _paid_for(line)
    self._database.execute(
        "INSERT OR REPLACE INTO samples VALUES (?,?,?,?,?,?,?,?)",
        (*key, ending(line), line["request"], "copy_of" in line,
         paid["prompt_tokens"], paid["completion_tokens"],
         text or json.dumps(line)))

  def _lines(self, where: str, *values: Any) -> Iterator[dict[str, Any]]:
    for (line,) in self._database.execute(
        f"SELECT line FROM samples WHERE {where}", values):
      yield json.loads(line)

  def _begin_writing(self) -> None:
    with errors.reported(OSError, self._cannot_write):
      for name, content in self._files.items():
        durable_files.replace(self.folder / name, content)
      self._write_manifest(complete=False)
    (self.folder / _OLD_JOURNAL).unlink(missing_ok=True)
    self._is_writing = True

  def _write_manifest(self, complete: bool, **counted: Any) -> None:
    """Replaces the manifest in one step."""
    manifest = {
        "format_version": completions.FORMAT_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **self._manifest, **self._identity, "complete": complete, **counted}
    if "shards" not in counted:
      # They change from now on; readers take what the database has.
      for key in ("shards", "count"):
        manifest.pop(key, None)
    self._manifest = manifest
    completions.write_manifest(self.folder, manifest)

  def _require_same_identity(self) -> None:
    if not (self.folder / completions.MANIFEST).exists():
      # Completions of unknown origin must not be mixed with new ones.
      if self.counts():
        raise errors.UserError(
            f"{self.folder} has completions but no {completions.MANIFEST}; "
            "choose an empty folder")
      return
    self._manifest = completions.read_manifest(self.folder)
    has_any = not all(reason.startswith(ERROR) for reason in self.counts())
    _require_same(self.folder, self._manifest, {
        key: value for key, value in self._identity.items()
        if has_any or key in _NEVER_FREE_KEYS})

  def _shard_lines(self) -> Iterator[tuple[Line, str]]:
    """The lines of the shards, without a last one that has no end."""
    shards = completions.shard_paths(self.folder)
    for path in shards:
      offset = 0
      with path.open("rb") as file:
        for raw in file:
          line = _parse(raw)
          if line is not None:
            yield line, raw[:-1].decode() if raw.isascii() else ""
          elif path != shards[-1] or raw.endswith(b"\n"):
            raise errors.UserError(
                f"{path} is damaged at byte {offset}: not a line of a "
                "teacher cache; restore it, or collect into another folder")
          offset += len(raw)


def ending(line: Line) -> str:
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


def _paid_for(line: Line) -> Counter[str]:
  """Tokens that were paid for a sample, vain attempts included."""
  return Counter(line.get("usage") or {}) + Counter(
      line.get("paid_in_vain") or {})


def _require_same(folder: pathlib.Path, before: Mapping[str, Any],
                  now: Mapping[str, Any], prefix: str = "") -> None:
  for key, value in now.items():
    if key in _FREE_KEYS:
      continue
    old = before.get(key)
    if isinstance(value, Mapping) and isinstance(old, Mapping):
      _require_same(folder, old, value, f"{prefix}{key}.")
    elif old != value:
      raise errors.UserError(
          f"{folder} is a cache with {prefix}{key} {old!r}, and this run has "
          f"{value!r}; choose another --output, or the settings of before")


def _parse(raw: bytes) -> dict[str, Any] | None:
  """The line's object; None if it is cut or not a line of a cache."""
  if not raw.endswith(b"\n"):
    return None
  try:
    line = json.loads(raw)
    bytes.fromhex(line["request"])
    return line if isinstance(line["id"], str) else None
  except (KeyError, TypeError, ValueError):
    return None


def _short(key: str) -> str:
  """The part of a request's key that is noted."""
  return key[:_KEY_DIGITS]


def _old_journal(folder: pathlib.Path) -> set[str]:
  """The keys that a cache written before 0.2 leaves in doubt."""
  keys: set[str] = set()
  with contextlib.suppress(FileNotFoundError):
    for line in (folder / _OLD_JOURNAL).read_text(
        "ascii", "replace").splitlines(keepends=True):
      if line.startswith("+") and len(line) == _KEY_DIGITS + 2:
        keys.add(line[1:-1])
      elif line.startswith("-"):
        keys.discard(line[1:-1])
  return keys
