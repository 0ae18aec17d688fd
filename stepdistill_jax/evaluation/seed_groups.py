"""Runs that differ only in their seed, put together."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

from stepdistill_jax.evaluation import statistics


def summarize(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Means over seeds, for systems with a `method` in common.

  A checkpoint's summary carries `method`: `{"name", "key", "seed"}`, where the
  key is a hash of its configuration without seed and folders.

  Returns:
    One dict a group of two or more, as in `results.json`.
  """
  groups: dict[tuple, list[dict[str, Any]]] = {}
  for s in summaries:
    if s.get("method"):
      key = (s["benchmark"], s["split"], s["mode"], s["method"]["key"])
      groups.setdefault(key, []).append(s)
  return [
      {"benchmark": benchmark, "split": split, "mode": mode,
       "method": group[0]["method"]["name"],
       "systems": [s["name"] for s in group],
       **dataclasses.asdict(
           statistics.over_seeds([s["accuracy"] for s in group]))}
      for (benchmark, split, mode, _), group in groups.items()
      if len(group) > 1]
