"""A checkpoint's manifest: the size and checksum of each of its files.

Orbax restores a checkpoint with a flipped bit in silence. So after a
checkpoint is complete, `checksums.json` is written into its folder, last of
all, and compared before it is restored or by `stepdistill checkpoint verify`.

A checkpoint without one is of Google's T5X, or was cut off before the end.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from typing import Any, Iterator, Mapping

import xxhash

MANIFEST_FILE = "checksums.json"
_ALGORITHM = "xxh3_128"
_SCHEMA_VERSION = 1
_BLOCK_BYTES = 2**20
_THREADS = 4


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is wrong with a checkpoint.

  Attributes:
    file: within the checkpoint's folder.
    what: `missing`, `size`, `checksum`, `unlisted`, `unreadable`.
    detail: for people: what was expected and found.
  """

  file: str
  what: str
  detail: str


def _files(folder: pathlib.Path) -> Iterator[str]:
  """Names of all files below a folder but the manifest, sorted."""
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    # A manifest that was cut off while it was written is none.
    if path.is_file() and not name.startswith(MANIFEST_FILE):
      yield name


def _checksum(file: pathlib.Path) -> str:
  digest = xxhash.xxh3_128()
  with file.open("rb", buffering=0) as stream:
    while block := stream.read(_BLOCK_BYTES):
      digest.update(block)
  return digest.hexdigest()


def _entry(file: pathlib.Path) -> dict[str, Any]:
  checksum = _checksum(file)
  return {"size": file.stat().st_size, "checksum": checksum}


def has_manifest(checkpoint: str | os.PathLike[str]) -> bool:
  return (pathlib.Path(checkpoint) / MANIFEST_FILE).is_file()


def write(checkpoint: str | os.PathLike[str]) -> pathlib.Path:
  """Writes the manifest of a complete checkpoint; returns its path.

  When this returns, it is on the disk. Reads every file once; call it off the
  training thread.
  """
  folder = pathlib.Path(checkpoint)
  names = list(_files(folder))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = dict(zip(names, pool.map(
        lambda name: _entry(folder / name), names)))
  manifest = {"schema_version": _SCHEMA_VERSION, "algorithm": _ALGORITHM,
              "files": entries}
  target = folder / MANIFEST_FILE
  temporary = target.with_name(MANIFEST_FILE + ".partial")
  with temporary.open("w", encoding="utf-8") as stream:
    json.dump(manifest, stream, indent=1)
    stream.flush()
    os.fsync(stream.fileno())
  os.replace(temporary, target)
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
  return target


def _read(file: pathlib.Path) -> Mapping[str, Mapping[str, Any]]:
  """Reads a manifest's entries; raises ValueError if it is damaged."""
  manifest = json.loads(file.read_bytes())
  if not isinstance(manifest, dict) or manifest.get(
      "algorithm") != _ALGORITHM or not isinstance(manifest.get("files"), dict):
    raise ValueError("it is not what was written")
  for name, entry in manifest["files"].items():
    if ".." in name.split("/") or name.startswith("/") or not isinstance(
        entry, dict) or not {"size", "checksum"} <= set(entry):
      raise ValueError(f"its entry {name!r} is not what was written")
  return manifest["files"]


def _check(file: pathlib.Path, name: str,
           entry: Mapping[str, Any]) -> Problem | None:
  try:
    size = file.stat().st_size
    if size != entry["size"]:
      return Problem(name, "size", f"{size:,} bytes, expected "
                     f"{entry['size']:,}")
    if (found := _checksum(file)) != entry["checksum"]:
      return Problem(name, "checksum", f"checksum {found}, expected "
                     f"{entry['checksum']}")
  except FileNotFoundError:
    return Problem(name, "missing", "is missing")
  except OSError as error:
    return Problem(name, "unreadable", f"cannot be read: {error}")
  return None


def verify(checkpoint: str | os.PathLike[str]) -> list[Problem]:
  """Compares a checkpoint's files with its manifest.

  Args:
    checkpoint: a folder that has a manifest; see `has_manifest`.

  Returns:
    What is wrong, by file; empty if all is as it was written. Files that the
    manifest does not list count as wrong: a swapped or left-over chunk would
    be read.
  """
  folder = pathlib.Path(checkpoint)
  try:
    entries = _read(folder / MANIFEST_FILE)
  except (OSError, ValueError) as error:
    return [Problem(MANIFEST_FILE, "unreadable", f"cannot be read: {error}")]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    problems = list(pool.map(
        lambda item: _check(folder / item[0], *item), entries.items()))
  problems += [Problem(name, "unlisted", "is not in the manifest")
               for name in _files(folder) if name not in entries]
  return [problem for problem in problems if problem is not None]
