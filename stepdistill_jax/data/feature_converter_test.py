"""Tests of the feature converter and of packing."""

import ast
import re

import numpy as np
import pytest
import seqio
import tensorflow as tf

from stepdistill_jax.data import feature_converter, packing

Converter = feature_converter.StepDistillFeatureConverter

PAIRS = [
    {"inputs": [7, 8, 5, 1], "targets": [3, 1],
     "rationale_inputs": [9, 8, 5, 1], "rationale_targets": [4, 6, 3, 1]},
    {"inputs": [7, 4, 1], "targets": [5, 1],
     "rationale_inputs": [9, 4, 1], "rationale_targets": [2, 5, 1]},
]


def dataset(examples):
  """A data set of ragged int32 examples."""
  signature = {
      name: tf.TensorSpec([None], tf.float32 if name == "record_weights"
                          else tf.int32) for name in examples[0]}
  return tf.data.Dataset.from_generator(
      lambda: iter(examples), output_signature=signature)


def converted(examples, lengths, **options):
  ds = Converter(**options)(dataset(examples), lengths)
  return list(ds.as_numpy_iterator())


def random_pairs(rng, count, longest=9):
  sequence = lambda: rng.integers(2, 30, rng.integers(1, longest)).tolist()
  names = ("inputs", "targets", "rationale_inputs", "rationale_targets")
  return [{name: sequence() for name in names} for _ in range(count)]


def docstring_arrays(start):
  """The literal arrays of the class's docstring that follow `start`."""
  text = Converter.__doc__.split(start, 1)[1].split("}", 1)[0]
  rows = re.findall(r'"(\w+)":\s*(\[.*\]),\n', text)
  return {name: ast.literal_eval(value) for name, value in rows}


@pytest.mark.parametrize("options,lengths,start", [
    ({"pack": True}, {"inputs": 15, "targets": 12}, "converted_ds = [{"),
    ({"pack": False}, {"inputs": 5, "targets": 4}, "converted_ds[0] = {"),
    ({"pack": False, "join_pairs": True},
     {"inputs": 4, "targets": 2, "rationale_targets": 4}, "joined_ds[0] = {"),
])
def test_docstring_example(options, lengths, start):
  got = converted(PAIRS, lengths, **options)[0]
  expected = docstring_arrays(start)
  assert set(got) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert got[name].dtype == (
        np.float32 if name == "decoder_loss_weights" else np.int32)


@pytest.mark.parametrize("pack", [False, True])
def test_plain_task_equals_seqio(pack):
  rng = np.random.default_rng(0)
  examples = [{"inputs": e["inputs"], "targets": e["targets"]}
              for e in random_pairs(rng, 60)]
  lengths = {"inputs": 16, "targets": 11}
  expected = list(seqio.EncDecFeatureConverter(pack=pack)(
      dataset(examples), lengths).as_numpy_iterator())
  got = converted(examples, lengths, pack=pack)
  assert len(got) == len(expected)
  for mine, theirs in zip(got, expected):
    assert set(mine) - {"decoder_task_ids"} == set(theirs)
    for name, value in theirs.items():
      np.testing.assert_array_equal(mine[name], value, err_msg=name)
    np.testing.assert_array_equal(
        mine["decoder_task_ids"], mine["decoder_target_tokens"] != 0)


def test_mixture_component_keeps_its_task_id():
  examples = [{"inputs": [5, 1], "targets": [6, 1], "task_ids": [2]},
              {"inputs": [5, 1], "targets": [1], "task_ids": [1]}]
  lengths = {"inputs": 4, "targets": 4, "task_ids": 1}
  got = converted(examples, lengths, pack=False)
  np.testing.assert_array_equal(got[0]["decoder_task_ids"], [2, 2, 0, 0])
  np.testing.assert_array_equal(got[1]["decoder_task_ids"], [1, 0, 0, 0])
  packed, = converted(examples, lengths, pack=True)
  np.testing.assert_array_equal(packed["decoder_task_ids"], [2, 2, 1, 0])


@pytest.mark.parametrize("weights,expected", [
    ([0.5], [[.5, .5, 0, 0], [.5] * 4]),
    ([1.0, 0.25], [[1, 1, 0, 0], [.25] * 4]),
])
def test_record_weights(weights, expected):
  examples = [{**PAIRS[0], "record_weights": weights}]
  got, = converted(examples, {"inputs": 5, "targets": 4}, pack=False)
  np.testing.assert_array_equal(got["decoder_loss_weights"], expected)
  packed, = converted(examples, {"inputs": 8, "targets": 6}, pack=True)
  np.testing.assert_array_equal(
      packed["decoder_loss_weights"], expected[0][:2] + expected[1])


def unpack_rows(rows):
  """The (input, target, task) triples of packed rows, a list a row."""
  out = []
  for row in rows:
    triples = []
    for segment in range(1, row["decoder_segment_ids"].max() + 1):
      encoder = row["encoder_segment_ids"] == segment
      decoder = row["decoder_segment_ids"] == segment
      for side, where in (("encoder", encoder), ("decoder", decoder)):
        np.testing.assert_array_equal(
            row[side + "_positions"][where], np.arange(where.sum()))
      triples.append((row["encoder_input_tokens"][encoder].tolist(),
                      row["decoder_target_tokens"][decoder].tolist(),
                      row["decoder_task_ids"][decoder][0]))
      np.testing.assert_array_equal(
          row["decoder_input_tokens"][decoder],
          [0, *row["decoder_target_tokens"][decoder][:-1]])
    out.append(triples)
  return out


@pytest.mark.parametrize("join", [False, True])
def test_rows_hold_every_pair_whole_and_in_order(join):
  rng = np.random.default_rng(1)
  pairs = random_pairs(rng, 200)
  if join:
    rows = unpack_rows(converted(
        pairs, {"inputs": 20, "targets": 16}, pack=False, join_pairs=True))
    assert {len(row) for row in rows} == {2}
  else:
    rows = unpack_rows(converted(
        pairs, {"inputs": 40, "targets": 32}, pack=True))
    assert all(len(row) % 2 == 0 and len(row) >= 2 for row in rows)
  flat = [triple for row in rows for triple in row]
  expected = []
  for pair in pairs:
    expected.append((pair["inputs"], pair["targets"], 1))
    expected.append(
        (pair["rationale_inputs"], pair["rationale_targets"], 2))
  assert flat == expected
  # Next-fit fills every two neighbouring rows beyond one row's length.
  if not join:
    sizes = [sum(len(t[0]) for t in row) for row in rows]
    targets = [sum(len(t[1]) for t in row) for row in rows]
    assert np.mean(np.maximum(np.array(sizes) / 40,
                              np.array(targets) / 32)) > 0.7


def test_pair_that_fits_in_no_row_is_refused():
  with pytest.raises(tf.errors.InvalidArgumentError,
                     match="raise it in TASK_FEATURE_LENGTHS"):
    converted(PAIRS, {"inputs": 7, "targets": 12}, pack=True)


def test_longer_sequences_are_cut():
  got, = converted(PAIRS[:1], {
      "inputs": 4, "targets": 2, "rationale_targets": 3}, pack=False)
  np.testing.assert_array_equal(
      got["decoder_target_tokens"], [[3, 1, 0], [4, 6, 3]])


@pytest.mark.parametrize("drop,lengths,message", [
    ("rationale_targets", {"inputs": 5, "targets": 4},
     "lacks the feature 'rationale_targets'"),
    (None, {"inputs": 5}, "must give \\['targets'\\]"),
])
def test_errors_name_what_is_missing(drop, lengths, message):
  examples = [{k: v for k, v in e.items() if k != drop} for e in PAIRS]
  with pytest.raises(ValueError, match=message):
    converted(examples, lengths, pack=False)


def test_place_records_is_next_fit():
  placement = packing.place_records(
      tf.constant([3, 3, 3, 1]), tf.constant([1, 1, 1, 9]),
      input_length=6, target_length=10)
  np.testing.assert_array_equal(placement.row, [0, 0, 1, 1])
  np.testing.assert_array_equal(placement.index_in_row, [0, 1, 0, 1])
  np.testing.assert_array_equal(placement.input_start, [0, 3, 0, 3])
  np.testing.assert_array_equal(placement.target_start, [0, 1, 0, 1])


@pytest.mark.parametrize("join", [False, True])
def test_a_row_an_example_is_known_to_be_so(join):
  known = dataset(PAIRS).apply(tf.data.experimental.assert_cardinality(2))
  lengths = {"inputs": 8, "targets": 8}
  rows = Converter(pack=False, join_pairs=join)(known, lengths)
  assert len(rows) == len(list(rows)) == 2
  packed = Converter(pack=True)(known, lengths)
  assert packed.cardinality() == tf.data.UNKNOWN_CARDINALITY
