"""What is cut, counted against a plain count, on every way to the batches."""

import gin
import numpy as np
import pytest
import seqio
from t5x import utils

from stepdistill_jax.data import (
  exact_order,
  feature_converter,
  pipelines,
  task_names,
  task_registry,
  truncation,
)
from stepdistill_jax.embedded_t5x import datasets
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors, progress
from tests.support import real_data as testing

CONVERTER = feature_converter.StepDistillFeatureConverter
PAIR = ("inputs", "targets", "rationale_inputs", "rationale_targets")
COUNT = 12
# In tokens with EOS; the tiny vocabulary gives a token a letter or less.
LENGTHS = {"inputs": 12, "targets": 8, "rationale_targets": 10}


@pytest.fixture(name="task", autouse=True)
def _task(tmp_path, monkeypatch):
  """Records whose rationales grow: some fit, some do not, one is empty."""
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  task_registry.register_dataset("cuttable", ["someone"])
  record_writer.write_records(tmp_path, "cuttable", "someone", {
      split: [records.Record(
          id=f"cuttable/{split}/{i}", inputs="q" * (i + 1), label="ab",
          teacher_label="ab", rationale="xyz" * i, split=split)
              for i in range(COUNT)]
      for split in ("train", "validation")})
  with gin.unlock_config():
    gin.clear_config()
    yield lambda kind: task_names.task_name(
        kind, "cuttable", "gold", "someone")
    gin.clear_config()


@pytest.fixture(name="said")
def _said():
  lines = []

  class Watcher:
    say = staticmethod(lines.append)
    at_step = staticmethod(lambda step: None)

  with progress.watched_by(Watcher()):
    yield lines


def choose(do):
  gin.bind_parameter("long_rationales.do", do)


def config(name, lengths=None, **options):
  return utils.DatasetConfig(**{
      "mixture_or_task_name": name, "split": "train", "batch_size": 4,
      "task_feature_lengths": lengths or LENGTHS, "shuffle": True, "seed": 0,
      **options})


def examples(make):
  return list(pipelines.build(make).as_numpy_iterator())


def whole(name, split="train"):
  """Examples without lengths, in order."""
  return examples(lambda: seqio.get_mixture_or_task(name).get_dataset(
      None, split, shuffle=False))


def fitted(cfg):
  (task,) = seqio.get_subtasks(seqio.get_mixture_or_task(
      cfg.mixture_or_task_name))
  return examples(lambda: truncation.read(task, cfg))


@pytest.mark.parametrize("do", ["cut_tail", "cut_head"])
def test_cuts_are_those_of_the_plain_rule(task, do):
  choose(do)
  name = task("step")
  for before, after in zip(whole(name), fitted(config(name)), strict=True):
    for i, feature in enumerate(PAIR):
      limit = LENGTHS.get(feature, LENGTHS["inputs"] if (
          feature == "inputs") else None)
      tokens, size = before[feature].tolist(), len(before[feature])
      expected = tokens
      if limit is not None and size > limit:
        expected = ([*tokens[:-1][-(limit - 1):], 1] if (
            do == "cut_head" and feature == "rationale_targets")
                    else [*tokens[:limit - 1], 1])
      assert after[feature].tolist() == expected
      assert after[truncation.TOKENS_CUT][i] == (
          size - len(expected) if size else -1)


def test_counts_are_those_of_the_whole_examples(task, said):
  name = task("step")
  dataset = exact_order.get_dataset(config(name), 0, 1, CONVERTER)
  (found,) = dataset.cut()
  lost = {
      feature: np.array([
          max(0, len(e[feature]) - LENGTHS[feature]) for e in whole(name)])
      for feature in ("inputs", "rationale_targets")}
  assert found["examples"] == found["kept"] == COUNT
  for kind, feature in (
      ("inputs", "inputs"), ("rationales", "rationale_targets")):
    cut = lost[feature][lost[feature] > 0]
    assert 0 < cut.size < COUNT
    assert {k: found[kind][k] for k in ("cut", "median", "most")} == {
        "cut": cut.size, "median": np.median(cut), "most": cut.max()}
  assert found["labels"]["cut"] == 0
  (line,) = said
  assert line.startswith("warning: task cuttable_step_gold_someone, train: ")
  assert f"of {COUNT} inputs are longer than 12 tokens" in line
  assert "cut at the end" in line and "--gin.TASK_FEATURE_LENGTHS=" in line


def test_the_lengths_that_it_names_cut_nothing(task, said):
  name = task("step")
  gin.parse_config("""
    MAX_INPUTS = 12
    MAX_RATIONALE = 10
    TASK_FEATURE_LENGTHS = {
        'inputs': %MAX_INPUTS, 'targets': 8,
        'rationale_targets': %MAX_RATIONALE}
  """)
  exact_order.get_dataset(config(name), 0, 1, CONVERTER).cut()
  needed = {word.partition("=")[0]: int(word.partition("=")[2])
            for word in said.pop().split() if word.startswith("--gin.")}
  assert set(needed) == {"--gin.MAX_INPUTS", "--gin.MAX_RATIONALE"}
  lengths = {"inputs": needed["--gin.MAX_INPUTS"], "targets": 8,
             "rationale_targets": needed["--gin.MAX_RATIONALE"]}
  (found,) = exact_order.get_dataset(
      config(name, lengths), 0, 1, CONVERTER).cut()
  assert not said and not found["inputs"]["cut"]


def test_packing_into_rows_for_one_names_the_file_for_rows(task, said):
  gin.parse_config("""
    PACKED_FEATURE_LENGTHS = {'inputs': 1024, 'targets': 608}
    TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 16}
  """)
  lengths = {"inputs": 12, "targets": 16}
  exact_order.get_dataset(
      config(task("step"), lengths, pack=True), 0, 1, CONVERTER).cut()
  assert "--gin_file=gin/runs/packed.gin holds them" in said.pop()


@pytest.mark.parametrize("pack", [False, True])
def test_dropped_records_leave_an_exact_order_of_the_others(task, said, pack):
  choose("drop")
  name = task("step")
  lengths = {"inputs": 64, "targets": 24} if pack else LENGTHS
  cfg = config(name, lengths, pack=pack)
  label = len(whole(name)[0]["targets"])
  most = 24 - label if pack else LENGTHS["rationale_targets"]
  kept = [i for i, e in enumerate(whole(name))
          if len(e["rationale_targets"]) <= most]
  assert 0 < len(kept) < COUNT
  dataset = exact_order.get_dataset(cfg, 0, 1, CONVERTER)
  (found,) = dataset.cut()
  assert found["kept"] == len(kept) == dataset.batches.num_examples()
  assert "their records are left out" in said[0]
  seen = dataset.batches.examples_of_steps(0, 40)
  for start in range(0, len(seen) - len(kept), len(kept)):
    if not pack:  # A packed epoch's last row may be half empty, no more.
      assert sorted(seen[start:start + len(kept)]) == list(range(len(kept)))
  assert set(seen) == set(range(len(kept)))
  batches = list(dataset.take(6).as_numpy_iterator())
  later = exact_order.get_dataset(cfg, 0, 1, CONVERTER).starting_at(3)
  np.testing.assert_equal(list(later.take(3).as_numpy_iterator()), batches[3:])
  shares = [list(exact_order.get_dataset(cfg, i, 2, CONVERTER).take(
      6).as_numpy_iterator()) for i in range(2)]
  for batch, *parts in zip(batches, *shares):
    np.testing.assert_equal(
        {k: np.concatenate([p[k] for p in parts]) for k in batch}, batch)


@pytest.mark.parametrize("do", ["cut_tail", "cut_head"])
def test_packed_pairs_are_cut_to_their_row(task, do):
  choose(do)
  name, lengths = task("step"), {"inputs": 32, "targets": 20}
  cfg = config(name, lengths, pack=True)
  for before, after in zip(whole(name), fitted(cfg), strict=True):
    sizes = {feature: len(after[feature]) for feature in PAIR}
    assert sizes["inputs"] + sizes["rationale_inputs"] <= 32
    assert sizes["targets"] == len(before["targets"])
    assert sizes["rationale_targets"] == min(
        len(before["rationale_targets"]), 20 - sizes["targets"])
  # On either order of examples: rows that would not hold them end the run.
  ways = [exact_order.get_dataset, datasets.get_dataset]
  for get in ways if do == "cut_tail" else ways[:1]:  # SeqIO's takes seconds.
    rows = list(get(cfg, 0, 1, CONVERTER).take(4).as_numpy_iterator())
    assert rows[0]["decoder_target_tokens"].shape == (4, 20)


def test_seqios_order_drops_train_records_alone(task):
  choose("drop")
  name = task("step")
  fits = sum(len(e["rationale_targets"]) <= 10 for e in whole(name))
  count = lambda split: len(examples(
      lambda: seqio.get_mixture_or_task(name).get_dataset(
          LENGTHS, split, shuffle=False)))
  assert (count("train"), count("validation")) == (fits, COUNT)


@pytest.mark.parametrize("kind, lengths, do, expected", [
    ("step", {**LENGTHS, "targets": 2}, "drop", "labels are longer than 2"),
    ("label", {"inputs": 64, "targets": 2}, "cut_head", "a cut label is ano"),
    ("step", LENGTHS, "refuse", "LONG_RATIONALE is 'refuse'"),
    ("single", {"inputs": 64, "targets": 12}, "cut_tail", "LONG_RATIONALE="),
])
def test_what_must_not_be_cut_is_refused(task, kind, lengths, do, expected):
  choose(do)
  cfg = config(task(kind), lengths)
  with pytest.raises(errors.UserError, match=expected) as refused:
    exact_order.get_dataset(cfg, 0, 1, CONVERTER).cut()
  assert "\n" not in str(refused.value) and "--gin." in str(refused.value)
  provider = seqio.get_mixture_or_task(cfg.mixture_or_task_name)
  with pytest.raises(errors.UserError, match=expected):
    truncation.look_at(provider, cfg)
  # Where nothing learns from it.
  truncation.look_at(provider, cfg, refuses=False)


def test_a_single_target_keeps_its_label_when_its_head_is_cut(task):
  choose("cut_head")
  name = task("single")
  ends = {tuple(e["targets"][-4:]) for e in whole(name)}
  assert len(ends) == 1
  after = fitted(config(name, {"inputs": 64, "targets": 12}))
  assert {tuple(e["targets"][-4:]) for e in after} == ends
  assert max(len(e["targets"]) for e in after) == 12


# The record without a rationale stays; labels alone are not the method.
@pytest.mark.parametrize("kind, count, lengths", [
    ("rationale", 11, {"inputs": 64, "targets": 1}),
    ("step", 12, {**LENGTHS, "rationale_targets": 1})])
def test_nothing_left_is_refused(task, kind, count, lengths):
  choose("drop")
  with pytest.raises(errors.UserError, match=(
      f"no record with a rationale is left of {count}, as LONG_RATIONALE")):
    exact_order.get_dataset(
        config(task(kind), lengths), 0, 1, CONVERTER).cut()


def test_unknown_choices_are_refused():
  choose("cut_tale")
  with pytest.raises(errors.UserError, match="did you mean: cut_tail"):
    truncation.long_rationales()


def test_mixtures_count_each_part(task, said):
  dataset = exact_order.get_dataset(
      config(task("mix"), {"inputs": 64, "targets": 10}), 0, 1, CONVERTER)
  label, rationale = dataset.cut()
  assert label["labels"]["cut"] == 0 and rationale["rationales"]["cut"] > 0
  (of_rationales, cut) = said
  assert of_rationales.endswith("11 of 12 records have what the task needs")
  assert cut.startswith("warning: ") and "cut at the end" in cut


def test_records_without_what_a_task_needs_are_counted(task, said):
  exact_order.get_dataset(config(task("rationale"), {
      "inputs": 64, "targets": 64}), 0, 1, CONVERTER).cut()
  assert said == [f"task {task('rationale')}, train: {COUNT - 1} of {COUNT} "
                  "records have what the task needs"]


def test_a_sample_says_how_many_it_looked_at(task, said, monkeypatch):
  monkeypatch.setattr(truncation, "_SAMPLE", 10)
  name = task("step")
  truncation.look_at(seqio.get_mixture_or_task(name), config(name))
  assert "train (its first 10 examples): " in said[0]
  assert "of 10 inputs" in said[0]
