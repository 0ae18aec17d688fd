"""A checkpoint's manifest: the size and checksum of each of its files.

Orbax restores a checkpoint with a flipped bit in silence. So when a
checkpoint's files are complete, `checksums.json` is written into its folder,
last of all; then the folder gets its final name. The manifest is compared
before a checkpoint is restored, and by `stepdistill checkpoint verify`.

A checkpoint without one is of Google's T5X.
"""

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import json
import os
from typing import Any

from etils import epath
import xxhash

from stepdistill_jax.util import durable_files

MANIFEST_FILE = "checksums.json"
_ALGORITHM = "xxh3_128"
_SCHEMA_VERSION = 2
_OWN_CHECKSUM = "checksum_of_this"
_BLOCK_BYTES = 2**20
_THREADS = 4
_MOST_FILES_SHOWN = 3


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


def _is_local(path: epath.Path) -> bool:
  return "://" not in os.fspath(path)


def files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
  """Names of all files below a folder but the manifest, sorted."""
  for path in sorted(folder.iterdir(), key=lambda path: path.name):
    name = prefix + path.name
    if path.is_dir():
      yield from files(path, name + "/")
    # A manifest that was cut off while it was written does not count. File
    # systems and desktops add .nfs…, .DS_Store; zarr's names begin with .z.
    elif not name.startswith(MANIFEST_FILE) and (
        path.name[:1] != "." or path.name[:2] == ".z"):
      yield name


def _checksum(file: epath.Path, sync: bool = False) -> str:
  digest = xxhash.xxh3_128()
  with file.open("rb") as stream:
    while block := stream.read(_BLOCK_BYTES):
      digest.update(block)
    if sync:
      os.fsync(stream.fileno())
  return digest.hexdigest()


def _entry(file: epath.Path) -> dict[str, Any]:
  checksum = _checksum(file, sync=_is_local(file))
  return {"size": file.stat().length, "checksum": checksum}


def has_manifest(checkpoint: str | os.PathLike[str]) -> bool:
  return (epath.Path(checkpoint) / MANIFEST_FILE).exists()


def _dump(manifest: Mapping[str, Any]) -> str:
  """A manifest's text, with a checksum of its own: every flipped bit shows."""
  own = xxhash.xxh3_128_hexdigest(json.dumps(manifest).encode())
  return json.dumps({**manifest, _OWN_CHECKSUM: own}, indent=1)


def write(checkpoint: str | os.PathLike[str]) -> epath.Path:
  """Writes the manifest of a complete checkpoint; returns its path.

  When this returns, it and the files that it lists are on the disk. Reads
  every file once; call it off the training thread.
  """
  folder = epath.Path(checkpoint)
  names = list(files(folder))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = dict(zip(names, pool.map(
        lambda name: _entry(folder / name), names)))
  text = _dump({"schema_version": _SCHEMA_VERSION, "algorithm": _ALGORITHM,
                "files": entries})
  target = folder / MANIFEST_FILE
  durable_files.replace(target, text)
  for path in {(folder / name).parent for name in names}:
    if _is_local(folder):
      durable_files.sync_folder(path)
  return target


def _read(file: epath.Path) -> Mapping[str, Mapping[str, Any]]:
  """Reads a manifest's entries; raises ValueError if it is damaged."""
  text = file.read_bytes().decode()
  manifest = json.loads(text)
  if not isinstance(manifest, dict) or manifest.get(
      "algorithm") != _ALGORITHM or not isinstance(manifest.get("files"), dict):
    raise ValueError("it is not what was written")
  own = manifest.pop(_OWN_CHECKSUM, None)
  # Manifests of the project's first conversions have no checksum of their own.
  if (own is not None or manifest.get("schema_version") != 1) and (
      text != _dump(manifest)):
    raise ValueError("it is not what was written")
  for name, entry in manifest["files"].items():
    if ".." in name.split("/") or name.startswith("/") or not isinstance(
        entry, dict) or not {"size", "checksum"} <= set(entry):
      raise ValueError(f"its entry {name!r} is not what was written")
  return manifest["files"]


def own_checksum(checkpoint: str | os.PathLike[str]) -> str | None:
  """A checksum of all that a manifest lists; None without a manifest."""
  file = epath.Path(checkpoint) / MANIFEST_FILE
  if not file.exists():
    return None
  with contextlib.suppress(ValueError, AttributeError):
    return json.loads(file.read_text()).get(_OWN_CHECKSUM)
  return None


def _check(file: epath.Path, name: str,
           entry: Mapping[str, Any]) -> Problem | None:
  try:
    size = file.stat().length
    if size != entry["size"]:
      return Problem(name, "size", f"{size:,} bytes, expected "
                     f"{entry['size']:,}")
    if (found := _checksum(file)) != entry["checksum"]:
      return Problem(name, "checksum", f"checksum {found}, expected "
                     f"{entry['checksum']}")
  except (FileNotFoundError, NotADirectoryError):
    return Problem(name, "missing", "is missing")
  return None


def verify(checkpoint: str | os.PathLike[str]) -> list[Problem]:
  """Compares a checkpoint's files with its manifest.

  Args:
    checkpoint: a folder that has a manifest; see `has_manifest`.

  Returns:
    What is wrong, by file; empty if all is as it was written. Files that the
    manifest does not list count as wrong: a swapped or left-over chunk would
    be read.

  Raises:
    OSError: a file that is there cannot be read, which says nothing of what
      is in it.
  """
  folder = epath.Path(checkpoint)
  try:
    entries = _read(folder / MANIFEST_FILE)
  except ValueError as error:
    return [Problem(MANIFEST_FILE, "unreadable", f"cannot be read: {error}")]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    problems = list(pool.map(
        lambda item: _check(folder / item[0], *item), entries.items()))
  problems += [Problem(name, "unlisted", "is not in the manifest")
               for name in files(folder) if name not in entries]
  return [problem for problem in problems if problem is not None]


def describe(checkpoint: str, found: Sequence[Problem]) -> str:
  """A line about a bad checkpoint: path, with the step, and its files."""
  files = "; ".join(f"{p.file}: {p.detail}" for p in found[:_MOST_FILES_SHOWN])
  more = len(found) - _MOST_FILES_SHOWN
  return (f"the checkpoint {checkpoint} is not what was written: {files}"
          + (f"; and {more} more" if more > 0 else ""))
