"""The teacher cache while it grows: locked, durable, indexed.

    manifest.json         what was asked of whom; replaced in one step
    shard-NNNNN.jsonl     the completions, one a line; appended only
    prompt.toml           the prompt file, as it was
    .lock                 held by the process that writes
    .sent                 requests on their way, see `Journal`
    .index.sqlite         what the shards hold; made anew at each opening

A line counts once `sync` has returned after it was appended. It survives the
process's end from `append` on, and the machine's from `sync` on. A line that
was cut by the machine's end is removed at the next opening, and asked again.

A request that failed leaves a line with an `error`, and is asked again by the
next run. When that succeeds, the old line is superseded; `close` rewrites such
shards, so that a finished cache has one line a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
import json
import os
import pathlib
import time
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import durable, index as index_lib, journal
from stepdistill_jax.util import durable_files, errors

_SHARD_BYTES = 64 * 2**20
_INDEX = ".index.sqlite"
_LOCK = ".lock"
# What may differ from the run before: another address, more samples.
_FREE_KEYS = ("base_url", "samples", "samples_per_request")


class Store:
  """A teacher cache, opened for appending by one process; a context manager.

  Attributes:
    folder: the cache's folder.
    index: what it holds.
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
      durable.Locked: another process writes to it.
      errors.UserError: it is a cache of something else, or cannot be written.
    """
    self.folder = pathlib.Path(folder)
    self._identity = dict(identity)
    self._files = dict(files or {})
    self._shard_bytes = shard_bytes
    self._shard = -1
    self._file = -1
    self._offset = 0
    self._manifest: dict[str, Any] = {}
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._lock = durable.lock(self.folder / _LOCK)
    except OSError as error:
      raise errors.UserError(
          f"cannot write the cache {self.folder}: {error.strerror}") from error
    try:
      self._require_same_identity()
      self.index = index_lib.Index(self.folder / _INDEX)
      self._scan()
      self._journal = journal.Journal(self.folder)
      self.in_doubt = frozenset(self._journal.in_doubt)
    except BaseException:
      os.close(self._lock)
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
    reason = self.index.reason(row_id, sample)
    return reason is None or reason.startswith(index_lib.ERROR)

  def lines_of(self, key: str) -> list[dict[str, Any]]:
    """The completions that a request has brought; [] if it has none yet."""
    return [self._read(place) for place in self.index.places_of_request(key)]

  def line(self, row_id: str, sample: int) -> dict[str, Any] | None:
    """The sample's line, or None."""
    place = self.index.place(row_id, sample)
    return place and self._read(place)

  # --- Adding to it.

  def append(self, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines that belong together: all of them are there, or none.

    Raises:
      errors.UserError: the disk is full or gone.
    """
    lines = [self._with_paid_before(line) for line in lines]
    encoded = [json.dumps(line).encode("ascii") + b"\n" for line in lines]
    if self._file < 0:
      for name, content in self._files.items():
        durable.replace(self.folder / name, content)
      self._write_manifest(complete=False)
      self._open_shard()
    elif self._offset >= self._shard_bytes:
      self.sync()
      self._open_shard()
    data = b"".join(encoded)
    try:
      written = 0
      while written < len(data):
        written += os.write(self._file, data[written:])
    except OSError as error:
      os.ftruncate(self._file, self._offset)
      raise errors.UserError(
          f"cannot write to {self.folder}: {error.strerror}; what was "
          "collected is safe, make room and run the same command again"
      ) from error
    for line, piece in zip(lines, encoded):
      self.index.enter(
          line, index_lib.Place(self._shard, self._offset, len(piece)))
      self._offset += len(piece)

  def sync(self) -> None:
    """Returns when all that was appended is on the disk."""
    if self._file >= 0:
      self.syncer()()

  def syncer(self) -> Callable[[], None]:
    """A function for another thread that syncs what is appended by now.

    Earlier shards were synced when the next one was begun.
    """
    # Of its own, as this one may be closed before the function is called.
    file = os.dup(self._file)

    def sync() -> None:
      try:
        os.fdatasync(file)
      finally:
        os.close(file)

    return sync

  def sent(self, key: str) -> None:
    """Notes that a request is about to be sent."""
    self._journal.sent(key)

  def answered(self, key: str) -> None:
    """Notes that a request has ended: its lines are appended, or it failed."""
    self._journal.answered(key)

  def close(self, complete: bool, **counted: Any) -> None:
    """Ends the writing: superseded lines go, the manifest tells the counts.

    Args:
      complete: True if no sample is missing.
      **counted: what the run counted, for the manifest.
    """
    if self._file >= 0:
      self.sync()
      os.close(self._file)
      self._file = -1
    if self.index.superseded:
      self._remove_superseded()
    shards = [durable.describe(path) for path in self._shards()]
    self._write_manifest(
        complete, shards=shards, count=sum(s["count"] for s in shards),
        **counted)
    self._journal.close()
    self.abandon()

  def abandon(self) -> None:
    """Lets go of the cache as it is; every line stays."""
    if self._lock < 0:
      return
    if self._file >= 0:
      os.close(self._file)
      self._file = -1
    self._journal.abandon()
    self.index.close()
    os.close(self._lock)  # Also unlocks.
    self._lock = -1

  # --- Inside.

  def _with_paid_before(self, line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The line, with the tokens that a failure in its place has cost."""
    before = self.line(line["id"], line.get("sample", 0))
    if not before or not (paid := index_lib.paid_for(before)):
      return line
    return dict(line, paid_in_vain=paid + Counter(
        line.get("paid_in_vain", {})))

  def _write_manifest(self, complete: bool, **counted: Any) -> None:
    """Replaces the manifest in one step."""
    manifest = {
        "format_version": completions.FORMAT_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **self._manifest, **self._identity, "complete": complete, **counted}
    if not complete and "shards" not in counted:
      # They change from now on; readers take the shards as they find them.
      for key in ("shards", "count"):
        manifest.pop(key, None)
    self._manifest = manifest
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    durable.replace(self.folder / completions.MANIFEST,
                    (text + "\n").encode("utf-8"))

  def _require_same_identity(self) -> None:
    if not (self.folder / completions.MANIFEST).exists():
      # Completions of unknown origin must not be mixed with new ones.
      if self._shards():
        raise errors.UserError(
            f"{self.folder} has shards but no {completions.MANIFEST}; choose "
            "an empty folder")
      return
    self._manifest = completions.read_manifest(self.folder)
    _require_same(self.folder, self._manifest, self._identity)

  def _shards(self) -> list[pathlib.Path]:
    return sorted(self.folder.glob("shard-[0-9][0-9][0-9][0-9][0-9].jsonl"))

  def _scan(self) -> None:
    """Indexes the lines that are there; cuts a last line without its end."""
    for temporary in self.folder.glob(".shard-*"):
      temporary.unlink()
    shards = self._shards()
    for number, path in enumerate(shards):
      self._shard = _number(path)
      offset = 0
      with path.open("rb") as file:
        for raw in file:
          line = _parse(raw)
          if line is None:
            if number < len(shards) - 1 or raw.endswith(b"\n"):
              raise errors.UserError(
                  f"{path} is damaged at byte {offset}: not a line of a "
                  "teacher cache; restore it, or collect into another folder")
            break
          self.index.enter(
              line, index_lib.Place(self._shard, offset, len(raw)))
          offset += len(raw)
      if offset < path.stat().st_size:
        os.truncate(path, offset)

  def _read(self, place: index_lib.Place) -> dict[str, Any]:
    with self._path(place.shard).open("rb") as file:
      file.seek(place.offset)
      return json.loads(file.read(place.length))

  def _path(self, shard: int) -> pathlib.Path:
    return self.folder / f"shard-{shard:05d}.jsonl"

  def _open_shard(self) -> None:
    """Opens the last shard, or begins the next one."""
    if self._file >= 0:
      os.close(self._file)
    if self._shard < 0 or self._path(
        self._shard).stat().st_size >= self._shard_bytes:
      self._shard += 1
    path = self._path(self._shard)
    try:
      self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
      raise errors.UserError(
          f"cannot write {path}: {error.strerror}") from error
    self._offset = os.fstat(self._file).st_size
    durable_files.sync_folder(self.folder)

  def _remove_superseded(self) -> None:
    """Rewrites the shards that have lines which no longer count."""
    for path in self._shards():
      places = self.index.offsets(_number(path))
      temporary = path.with_name(f".{path.name}")
      offset = dropped = 0
      with path.open("rb") as old, temporary.open("wb") as new:
        for raw in old:
          if offset in places:
            new.write(raw)
          else:
            dropped += 1
          offset += len(raw)
        new.flush()
        os.fsync(new.fileno())
      if dropped:
        os.replace(temporary, path)
      else:
        temporary.unlink()
    durable_files.sync_folder(self.folder)


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
  except ValueError:
    return None
  try:
    bytes.fromhex(line["request"])
    return line if isinstance(line["id"], str) else None
  except (KeyError, TypeError, ValueError):
    return None


def _number(path: pathlib.Path) -> int:
  return int(path.name[len("shard-"):-len(".jsonl")])
