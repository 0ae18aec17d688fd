"""What a sweep chooses, where runs are open, failed, or were tried again."""

import json
import types

from stepdistill_jax.study import resolving

LOW, HIGH = (("learning_rate", 1e-4),), (("learning_rate", 1e-3),)
ONE = types.SimpleNamespace(
    cell=types.SimpleNamespace(name="cell"), settings=lambda: [LOW, HIGH],
    grid=types.SimpleNamespace(sweep_seeds=(0, 1)))


def score(folder, setting, seed, accuracy, split="-validation"):
  path = folder / f"scores/cell-{setting}-seed{seed}{split}"
  path.mkdir(parents=True)
  (path / "results.json").write_text(json.dumps({"systems": [
      {"kind": "checkpoint", "accuracy": accuracy},
      {"kind": "teacher", "accuracy": 0.99}]}))


def test_validation_alone_chooses_and_a_failure_does_not_hold_it_up(tmp_path):
  low, high = "learning_rate0.0001", "learning_rate0.001"
  for seed, accuracy in enumerate((0.25, 0.75)):
    score(tmp_path, low, seed, accuracy)
    score(tmp_path, high, seed, 0.125, split="")  # Of test.
  assert not resolving.choose(tmp_path, [ONE])
  score(tmp_path, high, 1, 1.0)
  assert not resolving.choose(tmp_path, [ONE])
  failed = {f"cell-{high}-seed0"}
  (choice,) = resolving.choose(tmp_path, [ONE], failed)
  assert choice.setting == LOW
  assert choice.accuracies == {LOW: 0.5, HIGH: None}
  # Tried again, it has a score, which counts.
  score(tmp_path, high, 0, 0.75)
  (choice,) = resolving.choose(tmp_path, [ONE], failed)
  assert (choice.setting, choice.accuracies[HIGH]) == (HIGH, 0.875)
