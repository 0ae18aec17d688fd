"""State dicts: merging, intersecting, renaming."""

import pytest

from stepdistill_jax.embedded_t5x import state_utils

CHECKPOINT = {"target": {"old": {"kernel": 1}, "same": 2, "extra": 3},
              "state": {"step": 4}}
MODEL = {"target": {"new": {"kernel": 0}, "same": 0, "fresh": 0},
         "state": {"step": 0}}


def flat(tree):
  return state_utils.flatten_state_dict(tree)


def renamed(rules, **options):
  return flat(state_utils.apply_assignment_map(
      CHECKPOINT, MODEL, rules, **options))


def test_rules_rename_and_keep_the_rest():
  assert renamed([(r"target/new/(\w+)", r"target/old/\1")]) == {
      "target/new/kernel": 1, "target/same": 2, "target/extra": 3,
      "state/step": 4}


def test_rule_without_source_drops():
  assert "target/same" not in renamed([("target/same", None)])


def test_one_entry_serves_several():
  assert renamed([("target/(new/kernel|same)", "target/old/kernel")]) == {
      "target/new/kernel": 1, "target/same": 1, "target/extra": 3,
      "state/step": 4}


def test_swapped_names():
  swapped = flat(state_utils.apply_assignment_map(
      {"a": 1, "b": 2}, {"a": 0, "b": 0}, [("a", "b"), ("b", "a")]))
  assert swapped == {"a": 2, "b": 1}


def test_renamed_entry_wins_over_its_namesake():
  moved = flat(state_utils.apply_assignment_map(
      {"a": 1, "b": 2}, {"a": 0}, [("a", "b")]))
  assert moved["a"] == 2


def test_rules_that_match_nothing_are_mistakes():
  with pytest.raises(ValueError, match="nothing matches .*typo"):
    renamed([("target/typo", None)])
  renamed([("target/typo", None)], require_all_rules_match=False)
  with pytest.raises(ValueError, match="'target/nowhere'.*does not exist"):
    renamed([("target/same", "target/nowhere")])


def test_resuming_renames_nothing():
  assert renamed([("target/typo", None)], is_resuming=True) == flat(CHECKPOINT)


def test_intersect_and_merge():
  common = flat(state_utils.intersect_state(CHECKPOINT, MODEL))
  assert common == {"target/same": 2, "state/step": 4}
  merged = flat(state_utils.merge_state(CHECKPOINT, MODEL))
  assert merged["target/same"] == 2 and merged["target/fresh"] == 0
  overwritten = flat(state_utils.merge_state(
      CHECKPOINT, MODEL, overwrite=True))
  assert overwritten["target/same"] == 0 and overwritten["target/extra"] == 3


def test_names_and_tensorstore_leaves():
  assert state_utils.get_name_tree({"a": {"b": 1}}) == {"a": {"b": "a/b"}}
  spec = {"driver": "zarr", "kvstore": {}, "metadata": {}}
  assert flat({"a": spec}) == {"a": spec}
