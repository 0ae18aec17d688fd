"""Every example once per epoch, from any step, for any number of hosts."""

import collections
import time

import numpy as np
import pytest
import seqio
from t5x import utils
import tensorflow as tf

import stepdistill_jax  # noqa: F401
from stepdistill_jax.data import (
  exact_order,
  example_order,
  feature_converter,
  pair_rows,
)
from stepdistill_jax.util import errors

SIZES = {"a": 23, "b": 7}
PLAIN, PAIRED, MIXTURE = "exact_plain_a", "exact_paired", "exact_mixture"
LENGTHS = {"inputs": 24, "targets": 20}
BATCH = 4
CONVERTER = feature_converter.StepDistillFeatureConverter


def _example(name: str, index: int, paired: bool):
  """Token 2 + 100 * (name is b) + index says which example it is."""
  token = 2 + 100 * (name == "b") + index
  example = {"inputs": [token] * (1 + index % 5) + [1],
             "targets": [token] * (1 + index % 3) + [1]}
  if paired:
    example |= {"rationale_inputs": [token] * 3 + [1],
                "rationale_targets": [token] * (index % 4) + [1]}
  return example


def _register(task: str, name: str, paired: bool = False):
  examples = [_example(name, i, paired) for i in range(SIZES[name])]

  def dataset(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_generator(
        lambda: iter(examples), output_signature={
            key: tf.TensorSpec([None], tf.int32) for key in examples[0]})

  vocabulary = seqio.PassThroughVocabulary(1000)
  seqio.TaskRegistry.add(
      task, source=seqio.FunctionDataSource(
          dataset, splits=["train"], num_input_examples={
              "train": SIZES[name]}),
      preprocessors=[], output_features={
          key: seqio.Feature(vocabulary, add_eos=False)
          for key in examples[0]})


@pytest.fixture(scope="module", autouse=True)
def _tasks():
  if PLAIN not in seqio.TaskRegistry.names():
    _register(PLAIN, "a")
    _register("exact_plain_b", "b")
    _register(PAIRED, "a", paired=True)
    seqio.MixtureRegistry.add(MIXTURE, [(PLAIN, 1.0), ("exact_plain_b", 0.5)])


def make(task, shard=0, shards=1, pack=False, seed=3, shuffle=True,
         batch_size=BATCH, **options):
  return exact_order.get_dataset(
      utils.DatasetConfig(
          mixture_or_task_name=task, task_feature_lengths=LENGTHS,
          split="train", batch_size=batch_size, shuffle=shuffle, seed=seed,
          pack=pack), shard, shards, CONVERTER, **options)


def take(dataset, batches):
  return list(dataset.take(batches).as_numpy_iterator())


def examples_in(batch) -> list[int]:
  """The number of each example of a batch, in order."""
  tokens = batch["encoder_input_tokens"]
  if "encoder_positions" not in batch:
    return tokens.reshape(len(tokens), -1)[:, 0].tolist()
  firsts = (batch["encoder_positions"] == 0) & (tokens > 0)
  # The second sequence of a pair is its rationale's.
  return [t for row, first in zip(tokens, firsts) for t in row[first][::2]]


@pytest.mark.parametrize("pack", [False, True])
def test_every_example_once_per_epoch(pack):
  batches = take(make(PAIRED, pack=pack), 40)
  seen = [number for batch in batches for number in examples_in(batch)]
  epochs = [seen[i:i + 23] for i in range(0, len(seen) - 23, 23)]
  assert len(epochs) >= 6
  for epoch in epochs:
    assert sorted(epoch) == list(range(2, 25))
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("task,pack", [
    (PLAIN, False), (MIXTURE, False), (PAIRED, False), (PAIRED, True)])
def test_starts_at_any_step(task, pack):
  whole = take(make(task, pack=pack), 14)
  dataset = make(task, pack=pack)
  for step in (1, 5, 11):  # The first is `dataset` itself, moved.
    later = take(dataset.starting_at(step), 3)
    for expected, found in zip(whole[step:], later):
      np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("task,pack", [(MIXTURE, False), (PAIRED, True)])
@pytest.mark.parametrize("shards", [2, 4])
def test_global_batches_do_not_depend_on_the_hosts(task, pack, shards):
  whole = take(make(task, pack=pack), 9)
  shares = [take(make(task, shard, shards, pack), 9)
            for shard in range(shards)]
  for batch, *parts in zip(whole, *shares):
    np.testing.assert_equal(
        {name: np.concatenate([part[name] for part in parts])
         for name in batch}, batch)


def sequences_in(batch):
  """(inputs, targets, task, weight) of each sequence of a batch, sorted."""
  found = []
  names = ("encoder_input_tokens", "decoder_target_tokens", "decoder_task_ids",
           "decoder_loss_weights")
  if "encoder_segment_ids" not in batch:  # A segment each.
    batch = {name: value.reshape(-1, value.shape[-1])
             for name, value in batch.items()}
    segments = [(batch[names[0]] > 0).astype(int),
                (batch[names[1]] > 0).astype(int)]
  else:
    segments = [batch["encoder_segment_ids"], batch["decoder_segment_ids"]]
  for row in range(len(batch[names[0]])):
    for segment in range(1, segments[0][row].max() + 1):
      inside = [side[row] == segment for side in segments]
      found.append(tuple(
          tuple(batch[name][row][inside[i > 0]].tolist())
          for i, name in enumerate(names)))
  return sorted(found)


@pytest.mark.parametrize("task", [PLAIN, MIXTURE, PAIRED])
@pytest.mark.parametrize("shards", [1, 2])
def test_shared_rows_have_the_pairs_of_rows_of_their_own(task, shards):
  """In each host's share, at any step; the last one too."""
  request = pair_rows.Request(steps=14, multiple=2)
  shape = None
  for shard in range(shards):
    dataset = make(task, shard, shards, pair_rows=request)
    assert shape in (None, dataset.rows)
    shape = dataset.rows
    own, shared = take(make(task, shard, shards), 15), take(dataset, 99)
    assert len(shared) == 15
    for expected, found in zip(own, shared):
      assert sequences_in(found) == sequences_in(expected)
      assert found["encoder_input_tokens"].shape == (
          shape.rows // shards, shape.inputs)
    for step in (1, 5, 14):
      np.testing.assert_equal(
          take(dataset.starting_at(step), 1), shared[step:step + 1])
  assert shape.rows % 2 == 0
  positions = shape.rows * (shape.inputs + shape.targets)
  assert positions < BATCH * sum(LENGTHS.values()) * (1 if task == PAIRED
                                                      else 0.7)


def test_a_run_keeps_the_rows_that_it_has():
  found = make(PAIRED, pair_rows=pair_rows.Request(9, 2)).rows
  larger = found._replace(targets=found.targets + 8)
  assert make(PAIRED, pair_rows=pair_rows.Request(
      9, 2, larger)).rows == larger
  # Other devices cannot.
  assert make(PAIRED, pair_rows=pair_rows.Request(
      9, 4, larger._replace(rows=6))).rows.rows % 4 == 0


def test_large_batches_are_placed_in_groups():
  request = pair_rows.Request(2, 8)
  dataset = make(PAIRED, batch_size=96, pair_rows=request)
  assert dataset.rows.rows % 8 == 0 and dataset.rows.rows < 96
  for expected, found in zip(
      take(make(PAIRED, batch_size=96), 3), take(dataset, 3), strict=True):
    assert sequences_in(found) == sequences_in(expected)
  # A number without divisors is one group.
  assert make(PAIRED, batch_size=67, pair_rows=request).rows.rows % 8 == 0


def test_other_engines_refuse_pairs():
  with pytest.raises(errors.UserError, match="PACK is True or False"):
    make(PAIRED, pack="pairs")


def test_packed_rows_are_as_full_as_the_converters():
  task = seqio.get_mixture_or_task(PAIRED)
  ds = task.get_dataset(LENGTHS, "train", shuffle=False)
  expected = list(CONVERTER(pack=True)(ds, LENGTHS).as_numpy_iterator())
  rows = [{name: values[i] for name, values in batch.items()}
          for batch in take(make(PAIRED, pack=True, shuffle=False), 4)
          for i in range(BATCH)]
  np.testing.assert_equal(rows[:len(expected)], expected)


@pytest.mark.parametrize("pack", [False, True])
def test_says_which_examples_are_where(pack):
  dataset = make(PAIRED, pack=pack)
  numbers = dataset.batches.examples_of_steps(2, 5)
  assert [2 + i for i in numbers] == [
      n for batch in take(dataset, 5)[2:] for n in examples_in(batch)]
  assert dataset.batches.num_examples() == 23


def test_svamp_once_per_epoch_under_kills(monkeypatch, tmp_path):
  # Rows as real ones are: some without rationale.
  from stepdistill_jax.records import record_writer, records
  from tests.support import real_data as testing
  rows = [records.Record(
      id=f"svamp/train/{i}", inputs=f"{i} apples and {i % 7} more",
      label=f"( {i}.0 + {i % 7}.0 )", teacher_label=str(i + i % 7),
      rationale=f"{i} + {i % 7}" if i % 9 else "", dataset="svamp",
      teacher="palm540b", split="train") for i in range(700)]
  record_writer.write_records(tmp_path, "svamp", "palm540b", {"train": rows})
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  from stepdistill_jax import tasks  # noqa: F401
  rng, step, batches = np.random.default_rng(0), 0, []
  lengths = {"inputs": 64, "targets": 32}
  cfg = utils.DatasetConfig(
      mixture_or_task_name="svamp_step_gold_palm540b", split="train",
      task_feature_lengths=lengths, batch_size=50, shuffle=True, seed=0)
  while step < 28:  # Two epochs; every process goes further than it saves.
    saved = step + int(rng.integers(3, 10))
    dataset = exact_order.get_dataset(cfg, 0, 1, CONVERTER)
    batches += take(dataset.starting_at(step), saved - step)
    step = saved
  inputs = [row.tobytes() for batch in batches[:28]
            for row in batch["encoder_input_tokens"][:, 0]]
  for epoch in (inputs[:700], inputs[700:1400]):
    assert len(set(epoch)) == 700
  # Step 100,000 of the real pipeline, all of its preprocessing included.
  seconds = []
  for step in (0, 100_000):
    dataset = exact_order.get_dataset(cfg, 0, 1, CONVERTER)
    start = time.process_time()  # Of all threads, whatever else runs here.
    (late,) = take(dataset.starting_at(step), 1)
    seconds.append(time.process_time() - start)
  assert seconds[1] - seconds[0] < 2.0  # It is about 0.
  epoch, first = divmod(100_000 * 50, 700)
  assert first + 50 <= 700 and epoch == 7142
  assert {row.tobytes() for row in late["encoder_input_tokens"][:, 0]} < set(
      inputs[:700])


def test_mixture_keeps_its_rates_and_epochs():
  seen = [n for batch in take(make(MIXTURE), 36) for n in examples_in(batch)]
  parts = {"a": [n for n in seen if n < 100], "b": [n for n in seen if n > 99]}
  assert len(parts["a"]) == 2 * len(parts["b"])
  for name, numbers in parts.items():
    size = SIZES[name]
    for start in range(0, len(numbers) - size, size):
      counts = collections.Counter(numbers[start:start + size])
      assert len(counts) == size and set(counts.values()) == {1}


def test_other_seeds_give_other_orders():
  orders = {tuple(examples_in(take(make(PLAIN, seed=seed), 1)[0]))
            for seed in range(5)}
  assert len(orders) == 5


def _mix(z: int) -> int:
  """SplitMix64's finalizer, on Python's own integers."""
  z = (z + 0x9E3779B97F4A7C15) % 2**64
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
  return z ^ (z >> 31)


def test_order_is_made_of_64_bit_integers_alone():
  # So it stays under other versions of NumPy and on other machines.
  for seed, stream in ((7, 3), (-1, 0), (2**63, 10**6)):
    key = _mix((_mix(seed % 2**64) + stream) % 2**64)
    bits = [_mix(key ^ _mix(i)) for i in range(50)]
    assert example_order.random_bits(
        seed, stream, np.arange(50)).tolist() == bits
    assert example_order.permutation(seed, stream, 50).tolist() == sorted(
        range(50), key=bits.__getitem__)


def test_step_100_000_of_svamps_size_is_found_at_once():
  start = time.perf_counter()
  plain = example_order.ExampleOrder(700, seed=0)
  plain.at(np.arange(64) + 100_000 * 64)
  sizes = np.random.default_rng(0).integers(20, 120, 700)
  packed = example_order.PackedOrder(plain, 2 * sizes, sizes, 1024, 608)
  packed.rows(100_000 * 32, 32)
  assert time.perf_counter() - start < 2.0  # Seconds; it takes 0.1.


@pytest.mark.parametrize("shuffle", [True, False])
def test_late_epochs_are_packed_as_early_ones(monkeypatch, shuffle):
  monkeypatch.setattr(example_order, "_MOST_PACKED", 1100)
  sizes = np.random.default_rng(1).integers(1, 9, (2, 500))
  packed, pack = [], example_order.PackedOrder._pack
  monkeypatch.setattr(example_order.PackedOrder, "_pack", lambda self, epoch: (
      packed.append(epoch) or pack(self, epoch)))
  def order():
    return example_order.PackedOrder(
        example_order.ExampleOrder(500, 2, shuffle), *sizes, 30, 40)
  rows = [row.tolist() for row in order().rows(0, 1000)]
  ends = np.cumsum([0, *map(len, rows)]).tolist()
  epochs = [rows[ends.index(500 * i):ends.index(500 * (i + 1))]
            for i in range(6)]
  for epoch in epochs:
    assert sorted(sum(epoch, [])) == list(range(500))
    assert sorted(epoch) in [sorted(e) for e in epochs[:2]]
  if shuffle:
    assert len(set(map(str, epochs))) == 6
  else:
    assert all(epoch == epochs[0] for epoch in epochs)
  del packed[:]
  at = sum(map(len, epochs[:5]))
  assert [row.tolist() for row in order().rows(at + 7, 5)] == (
      rows[at + 7:at + 12])
  assert packed == [0, 1]


def test_rows_do_not_depend_on_the_pieces_that_are_packed(monkeypatch):
  sizes = np.random.default_rng(1).integers(1, 9, (2, 500))
  def packed():
    order = example_order.ExampleOrder(500, seed=2)
    return [row.tolist() for row in example_order.PackedOrder(
        order, *sizes, 30, 40).rows(0, 300)]
  expected = packed()
  monkeypatch.setattr(example_order, "_AT_ONCE", 41)
  assert packed() == expected
