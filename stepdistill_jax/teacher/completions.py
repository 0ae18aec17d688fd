"""The teacher cache: what a teacher was asked and what it answered, raw.

A cache is a folder for one (teacher, data set, split):

    manifest.json       teacher, prompt, sampling, data set, split, counts,
                        sha256 of each shard
    shard-00000.jsonl   one completion a line:
      {"id": "...", "input": {...}, "output": "...", "finish_reason": "stop",
       "usage": {...}, "error": null}

`input` holds the data set's fields (of SVAMP `input` and `label`; of a data
set of one's own `inputs` and `label`), human label included: the prompt, not
the cache, keeps it from the teacher. `output` is raw and never edited. While
collecting a cache is append-only; the manifest is replaced in one step.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sqlite3
import tomllib
from typing import Any

from stepdistill_jax.records import records
from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import durable_files, errors, locations

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# The lines of a cache that is being collected; see `ask.store`.
GROWING = ".cache.sqlite"
_SHARD = re.compile(r"shard-\d{5}\.jsonl(?:\.gz)?")
# Endings.
STOP, LENGTH, FILTERED = "stop", "length", "content_filter"
# What servers call these and other things.
SERVERS = tomllib.loads(
    pathlib.Path(__file__).with_name("servers.toml").read_text("utf-8"))
_ENDING_OF = {name: ending for ending, names in SERVERS["endings"].items()
              for name in names}


@dataclasses.dataclass
class Completion:
  """One line of a shard.

  Attributes:
    id: stable within the cache.
    input: the data set's fields.
    output: the raw text; None if the teacher failed.
    finish_reason: as the teacher says; see `ending_of`.
    usage: token counts, as the teacher says.
    error: what the teacher failed with, else None.
    thinking: what the teacher thought before it answered, where its server
      gives that apart from the text.
  """

  id: str
  input: Mapping[str, Any]
  output: str | None
  finish_reason: str | None = "stop"
  usage: Mapping[str, Any] | None = None
  error: str | None = None
  thinking: str = ""


def ending_of(finish_reason: str | None) -> str:
  """How a completion ended, whatever the server's name for it.

  A server that says nothing is believed to have ended by itself.

  >>> ending_of("eos_token"), ending_of("MAX_TOKENS"), ending_of(None)
  ('stop', 'length', 'stop')
  """
  name = (finish_reason or "").lower().removeprefix("finish_reason_")
  return _ENDING_OF.get(name, name)


def thinking_of(line: Mapping[str, Any]) -> str:
  """The `thinking` of a cache's line; `reasoning` in those of before."""
  text = line.get("thinking") or line.get("reasoning")
  return text if isinstance(text, str) else ""


@contextlib.contextmanager
def cache_writer(
    folder: str | os.PathLike, *, teacher: str, dataset: str, split: str,
    prompt_id: str = "", sampling: Mapping[str, Any] | None = None
) -> Iterator[list[Completion]]:
  """Writes a cache as a whole, when its block ends without an error.

  For caches that fit in memory; what grows is an `ask.store.Store`.

  Yields:
    A list that takes the completions.
  """
  folder = pathlib.Path(folder)
  errors.require_known("split", split, records.SPLITS)
  manifest = {
      "format_version": FORMAT_VERSION,
      "teacher": records.check_name("teacher", teacher),
      "dataset": records.check_name("data set", dataset),
      "split": split, "prompt_id": prompt_id, "prompt_sha256": "",
      "sampling": dict(sampling or {})}
  before = read_manifest(folder) if (folder / MANIFEST).exists() else manifest
  for key, value in manifest.items():
    if before.get(key) != value:
      raise errors.UserError(
          f"{folder} is a cache with {key} {before.get(key)!r}, not {value!r}; "
          "choose another folder")
  found: list[Completion] = []
  yield found
  folder.mkdir(parents=True, exist_ok=True)
  # Lone surrogates stay as `\ud800` escapes: raw is raw.
  shards = write_shards(folder, (
      json.dumps({name: value for name, value in dataclasses.asdict(one).items()
                  if value or name != "thinking"}) for one in found))
  write_manifest(folder, {
      **manifest, "complete": True, "shards": shards, "count": len(found)})


def write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
  """Replaces a cache's manifest in one step."""
  text = json.dumps(manifest, indent=2, ensure_ascii=False)
  durable_files.replace(folder / MANIFEST, text + "\n")


def write_shards(folder: pathlib.Path, lines: Iterator[str],
                 shard_bytes: int = 64 * 2**20,
                 shard_lines: int | None = None) -> list[dict[str, Any]]:
  """Puts shards in the place of those that are there.

  Args:
    folder: the cache's.
    lines: of ASCII alone, without their ends.
    shard_bytes: size at which the next shard is begun.
    shard_lines: most lines of a shard.

  Returns:
    What the manifest has of each: name, count, sha256.
  """
  shards: list[dict[str, Any]] = []
  line = next(lines, None)
  while line is not None:
    name = f"shard-{len(shards):05d}.jsonl"
    digest, count = hashlib.sha256(), 0
    with (folder / f".{name}").open("wb") as file:
      while line is not None and file.tell() < shard_bytes and (
          count != shard_lines):
        data = line.encode("ascii") + b"\n"
        digest.update(data)
        file.write(data)
        count += 1
        line = next(lines, None)
      file.flush()
      os.fsync(file.fileno())
    shards.append({"name": name, "count": count, "sha256": digest.hexdigest()})
  for shard in shards:
    os.replace(folder / f".{shard['name']}", folder / shard["name"])
  for path in shard_paths(folder)[len(shards):]:
    path.unlink()
  durable_files.sync_folder(folder)
  return shards


def find_caches(folder: str | os.PathLike) -> list[pathlib.Path]:
  """The caches in a folder: itself, or those of its direct subfolders.

  Raises:
    errors.UserError: there is none.
  """
  folder = pathlib.Path(folder)
  if (folder / MANIFEST).is_file():
    return [folder]
  found = sorted(p.parent for p in folder.glob(f"*/{MANIFEST}"))
  if not found:
    raise errors.UserError(
        f"{folder} is not a teacher cache, and has none in its folders: no "
        f"{MANIFEST} was found" if folder.is_dir()
        else locations.not_a_folder(folder))
  return found


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """The cache's manifest.

  Raises:
    errors.UserError: it is missing, or not a manifest of a known version.
  """
  path = folder / MANIFEST
  manifest = text_files.read_object(path)
  if manifest.get("format_version") != FORMAT_VERSION:
    raise errors.UserError(
        f"{path} has format_version {manifest.get('format_version')!r}, this "
        f"program reads {FORMAT_VERSION}")
  for key in ("teacher", "dataset", "split"):
    if not isinstance(manifest.get(key), str):
      raise errors.UserError(f"{path} lacks a text for {key!r}")
  return manifest


def read_completions(folder: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields the lines of all shards; `Entry.value` is the line's object.

  Raises:
    errors.UserError: a shard differs from what the manifest says of it.
  """
  manifest = read_manifest(folder)
  if manifest.get("shards") is None and (folder / GROWING).is_file():
    yield from _growing_entries(folder / GROWING)
    return
  for path in _manifest_shards(folder, manifest):
    yield from text_files.read_entries(path)


def is_whole(database: sqlite3.Connection) -> bool:
  """True if a growing cache's database has all that was collected before."""
  return database.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)


def mark_whole(database: sqlite3.Connection) -> None:
  database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _growing_entries(path: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields the lines of a cache that is still being collected."""
  with errors.reported(
      sqlite3.Error, lambda error: f"cannot read {path}: {error}"
  ), contextlib.closing(sqlite3.connect(
      f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
    if is_whole(database):
      for number, line in database.execute(
          "SELECT rowid, line FROM samples ORDER BY rowid"):
        value, problem = text_files.parse_json(line)
        yield text_files.Entry(value, problem, path, number, "line")
      return
  for shard in shard_paths(path.parent):
    yield from text_files.read_entries(shard)


def _manifest_shards(
    folder: pathlib.Path, manifest: Mapping[str, Any]) -> list[pathlib.Path]:
  """The shards to read, checked against the manifest where it is complete."""
  listed = manifest.get("shards")
  if listed is None:
    # Still being collected, or its collector was killed: what there is.
    return [p for p in shard_paths(folder) if p.stat().st_size]
  if not isinstance(listed, list) or not all(
      isinstance(s, dict) and isinstance(s.get("name"), str) for s in listed):
    raise errors.UserError(f"{folder / MANIFEST} has a damaged list of shards")
  paths = []
  for shard in listed:
    # Only plain names, so that no manifest leads out of its folder.
    if not _SHARD.fullmatch(shard["name"]):
      raise errors.UserError(
          f"{folder / MANIFEST} names a shard {shard['name']!r}; shards are "
          "files of the cache's folder, named shard-NNNNN.jsonl")
    path = text_files.find_file(folder, shard["name"].removesuffix(".gz"))
    size = path.stat().st_size
    with text_files.open_bytes(path) if size else path.open("rb") as file:
      if shard.get("sha256") and shard["sha256"] != hashlib.file_digest(
          file, "sha256").hexdigest():
        raise errors.UserError(
            f"{path} is not what {MANIFEST} says (its sha256 differs); it was "
            "edited or is damaged: restore it, or collect it again")
    if size:
      paths.append(path)
  return paths


def shard_paths(folder: pathlib.Path) -> list[pathlib.Path]:
  """The shards of a cache, in their order."""
  return sorted(p for p in folder.iterdir() if _SHARD.fullmatch(p.name))
