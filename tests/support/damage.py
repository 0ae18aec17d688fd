"""Damage to a checkpoint's files, for trials: what disks and people do."""

from __future__ import annotations

import pathlib
import random

KINDS = ("bit_flip", "truncation", "deletion", "swap")


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in checkpoint.rglob("*") if p.is_file())


def inflict(
    kind: str, checkpoint: pathlib.Path, rng: random.Random) -> str:
  """Damages a random file of a checkpoint; returns what was done.

  Args:
    kind: one of KINDS.
    checkpoint: the folder.
    rng: chooses file and place.
  """
  files = [f for f in _files(checkpoint)
           if f.stat().st_size or kind == "deletion"]
  file = rng.choice(files)
  name = file.relative_to(checkpoint).as_posix()
  data = bytearray(file.read_bytes())
  if kind == "bit_flip":
    position = rng.randrange(8 * len(data))
    data[position // 8] ^= 1 << position % 8
    file.write_bytes(data)
    return f"bit {position} of {name} flipped"
  if kind == "truncation":
    size = rng.randrange(len(data))
    file.write_bytes(data[:size])
    return f"{name} cut to {size} of {len(data)} bytes"
  if kind == "deletion":
    file.unlink()
    return f"{name} deleted"
  if kind == "swap":
    others = [f for f in files if f.read_bytes() != data]
    other = rng.choice(others)
    file.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return f"{name} swapped with {other.relative_to(checkpoint)}"
  raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
