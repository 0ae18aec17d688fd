"""Nested state dicts: flatten, intersect, merge, rename."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from absl import logging
from flax import traverse_util

from stepdistill_jax.util import errors


def tensorstore_leaf(unused_path, value) -> bool:
  """True for a dict that describes an array in TensorStore's notation."""
  return {"driver", "kvstore", "metadata"} <= set(value)


def flatten_state_dict(state_dict, keep_empty_nodes: bool = False):
  """Flattens to `a/b/c` names; TensorStore descriptions stay whole."""
  return traverse_util.flatten_dict(
      state_dict, is_leaf=tensorstore_leaf, sep="/",
      keep_empty_nodes=keep_empty_nodes)


def get_name_tree(state_dict, keep_empty_nodes: bool = False):
  """The same tree, each leaf replaced by its `a/b/c` name."""
  flat = traverse_util.flatten_dict(
      state_dict, keep_empty_nodes=keep_empty_nodes)
  return traverse_util.unflatten_dict({k: "/".join(k) for k in flat})


def intersect_state(
    state_dict: Mapping[str, Any], intersect_state_dict: Mapping[str, Any]
) -> Mapping[str, Any]:
  """The entries of `state_dict` that the other has too; logs the rest."""
  other = flatten_state_dict(intersect_state_dict)
  flat = flatten_state_dict(state_dict)
  for name in set(flat) - set(other):
    logging.warning("%s is not restored: no counterpart", name)
  return traverse_util.unflatten_dict(
      {k: v for k, v in flat.items() if k in other}, sep="/")


def merge_state(
    state_dict: Mapping[str, Any], from_scratch_state: Mapping[str, Any],
    overwrite: bool = False) -> Mapping[str, Any]:
  """Adds the entries that only `from_scratch_state` has.

  With `overwrite`, those that both have come from it too.
  """
  merged = flatten_state_dict(state_dict)
  for name, value in flatten_state_dict(from_scratch_state).items():
    if overwrite or name not in merged:
      logging.warning("%s is initialized from scratch", name)
      merged[name] = value
  return traverse_util.unflatten_dict(merged, sep="/")


def apply_assignment_map(
    ckpt_optimizer_state, optimizer_state,
    assignment_map: Sequence[tuple[str, str | None]],
    require_all_rules_match: bool = True, *, is_resuming: bool = False):
  r"""Renames a checkpoint's entries to those of the model being restored.

  A rule `(pattern, replacement)` says: the model's entry whose name matches
  `pattern` in full comes from the checkpoint's entry `replacement` (with
  groups such as `\1`), or, if that is None, from nowhere. The first rule that
  matches counts. An entry that no rule names comes from its namesake. One
  checkpoint entry may serve several of the model's.

  Args:
    optimizer_state: the model's state dict; only its names are read.
    require_all_rules_match: whether a rule that names nothing is an error.
    is_resuming: if True, the state is returned as it is: the names were
      mended when the run started.

  Returns:
    A nested dict. Checkpoint entries that no rule used keep their names.

  Raises:
    ValueError: a rule points at nothing, or names nothing.
  """
  if is_resuming:
    return ckpt_optimizer_state
  checkpoint = flatten_state_dict(ckpt_optimizer_state)
  model = flatten_state_dict(optimizer_state)
  assigned, used, skipped, patterns_used = {}, set(), set(), set()
  for name in model:
    matches = ((re.fullmatch(pattern, name), pattern, replacement)
               for pattern, replacement in assignment_map)
    match, pattern, replacement = next(
        (m for m in matches if m[0]), (None, None, None))
    if not match:
      continue
    patterns_used.add(pattern)
    if replacement is None:
      skipped.add(name)
      continue
    source = match.expand(replacement)
    if source not in checkpoint:
      raise errors.InvalidValue(
          f"Parameter '{source}', which '{name}' is to come from, does not "
          "exist in the checkpoint; near ones: "
          f"{', '.join(errors.near_names(source, checkpoint))}")
    used.add(source)
    assigned[name] = checkpoint[source]
  unmatched = {pattern for pattern, _ in assignment_map} - patterns_used
  if require_all_rules_match and unmatched:
    raise errors.InvalidValue(
        f"assignment_map: nothing matches {sorted(unmatched)}; the model has "
        f"{', '.join(errors.near_names(sorted(unmatched)[0], model))}, ...")
  for name, value in checkpoint.items():
    if (name not in used or name in model) and name not in skipped:
      assigned.setdefault(name, value)
  return traverse_util.unflatten_dict(assigned, sep="/")
