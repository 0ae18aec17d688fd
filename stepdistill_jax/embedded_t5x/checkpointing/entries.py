"""What a checkpoint's arrays are, before they are read, and what is asked."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
  """An array of a checkpoint; its name there is `target/.../kernel`."""

  name: str
  shape: tuple[int, ...]
  dtype: Any


@dataclasses.dataclass(frozen=True)
class Request:
  """How to load an entry: sharding, and dtype (None: as saved)."""

  sharding: Any
  dtype: Any = None
