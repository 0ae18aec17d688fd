"""`stepdistill checkpoint verify`: what was written, with finite values?"""

from __future__ import annotations

import json

from stepdistill_jax.interop import streaming
from stepdistill_jax.runs import (
  array_reader as t5x_reader,
  checkpoint_manifest,
  checkpoint_paths,
  restore_choice,
)
from stepdistill_jax.util import errors, locations

BAD_EXIT_CODE = 1


def checkpoints_at(path: str) -> list[str]:
  """The checkpoint at `path`, or all that are in it.

  Raises:
    errors.UserError: there is none.
  """
  steps = checkpoint_paths.all_steps(path)
  if steps:
    return [checkpoint_paths.get_checkpoint_dir(path, s) for s in steps]
  return [t5x_reader.resolve(path)]


def verify(path: str) -> dict[str, list[str] | None]:
  """Checks checkpoints against their manifests, and that values are finite.

  Returns:
    The checkpoint's folder -> what is wrong with it, empty if nothing is; None
    where there is no manifest to compare with and nothing else is wrong.
  """
  found: dict[str, list[str] | None] = {}
  for checkpoint in checkpoints_at(path):
    problems = restore_choice.problems_by_name(checkpoint)
    bad = [f"{p.file}: {p.detail}" for p in problems or ()] or (
        _not_finite(checkpoint))
    found[checkpoint] = None if problems is None and not bad else bad
  return found


def _not_finite(checkpoint: str) -> list[str]:
  """The first tensor that has NaN or infinite values, or cannot be read."""
  try:
    for array in t5x_reader.open_checkpoint(checkpoint).arrays.values():
      rows = array.shape[0] if array.shape else 1
      for start, stop in streaming.row_ranges(
          rows, streaming.rows_per_block(rows, array.nbytes // max(rows, 1))):
        block = array.read(slice(start, stop) if array.shape else ...)
        if block.dtype.kind not in "iub":
          streaming.require_finite(block, array.name, start)
  except errors.UserError as error:
    return [str(error)]
  return []


def run(path: str, as_json: bool = False) -> int:
  """Prints what is found; returns 1 if a checkpoint is bad."""
  with errors.reported(OSError, lambda error: (
      f"{error.filename or path} cannot be read: {error.strerror or error}")):
    found = verify(locations.absolute(path))
  if as_json:
    print(json.dumps(found, indent=1))
  else:
    for checkpoint, problems in found.items():
      if problems is None:
        print(f"{checkpoint}: not checked: it has no "
              f"{checkpoint_manifest.MANIFEST_FILE} (Google's T5X writes none)")
      elif problems:
        print(f"{checkpoint}: BAD")
        for problem in problems:
          print(f"  {problem}")
      else:
        print(f"{checkpoint}: good")
  return BAD_EXIT_CODE if any(found.values()) else 0
