"""Tests of `stepdistill data lengths`."""

import json

import numpy as np
import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.data import lengths as lengths_lib
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors
from tests.support import real_data as testing

words = lambda texts: [len(text.split()) for text in texts]


def record(inputs, label="a b", rationale="c d e", **fields):
  return records.Record(
      id=inputs, inputs=inputs, label=label, rationale=rationale, **fields)


def test_prefix_and_eos_count():
  measured = lengths_lib.measure(
      [record("one two three"), record("x", rationale=""),
       record("no label", label="")], words)
  # A prefix is one word, "The answer is" three.
  np.testing.assert_array_equal(measured.inputs, [3 + 1 + 1, 1 + 1 + 1])
  np.testing.assert_array_equal(measured.label, [3, 3])
  np.testing.assert_array_equal(measured.rationale, [4, 0])
  np.testing.assert_array_equal(measured.single, [3 + 3 + 2 + 1, 0])
  assert measured.longest() == {
      "MAX_INPUTS": 8, "MAX_LABEL": 8, "MAX_RATIONALE": 8, "MAX_SINGLE": 16}


def test_what_no_record_has_gets_no_length():
  measured = lengths_lib.measure([record("x", rationale="")], words)
  assert measured.longest() == {"MAX_INPUTS": 8, "MAX_LABEL": 8}
  assert set(measured.table()) == {"inputs", "label"}


def test_longer_of_human_and_teacher_label_counts():
  measured = lengths_lib.measure(
      [record("x", label="a", teacher_label="b c d")], words)
  np.testing.assert_array_equal(measured.label, [4])


def test_no_label_at_all():
  with pytest.raises(errors.UserError, match="no record has a label"):
    lengths_lib.measure([record("x", label="")], words)


def test_rows_are_those_of_training():
  """The packing that is simulated here is the one of the tf.data pipeline."""
  from tests.support import student_fixtures as fixtures

  examples = fixtures.random_pairs(2, 120, longest=12)
  # Pairs whose two inputs are of one length, as those of one question are.
  examples = [{**e, "rationale_inputs": e["inputs"]} for e in examples]
  size = lambda name: np.array([len(e[name]) for e in examples])
  measured = lengths_lib.Lengths(
      inputs=size("inputs"), label=size("targets"),
      rationale=size("rationale_targets"), single=size("targets"))
  row = lengths_lib.best_row(measured, inputs=(64, 128))
  assert row.targets % 32 == 0 and row.inputs in (32, 64, 128)
  batch = fixtures.convert(examples, row.inputs, row.targets, pack=True)
  assert row.pairs == 120 / len(batch["encoder_input_tokens"])
  tokens = sum((batch[f"{side}_segment_ids"] != 0).sum()
               for side in ("encoder", "decoder"))
  assert row.filled == tokens / sum(
      batch[f"{side}_segment_ids"].size for side in ("encoder", "decoder"))
  assert row.filled > 0.7


def test_command(tmp_path, capsys):
  vocabulary = testing.write_tiny_vocabulary(tmp_path / "spiece.model")
  record_writer.write_records(tmp_path, "svamp", "palm540b", {
      "train": [record("is it 1?</s>it is 2", "( 1.0 )", "one.")]})
  arguments = ["data", "lengths", "--dataset=svamp", "--teacher=palm540b",
               f"--records_dir={tmp_path}", f"--vocabulary={vocabulary}"]
  union = [*arguments, "--dataset=svamp_asdiv"]
  assert cli.main(union) == 2
  error, = capsys.readouterr().err.splitlines()
  assert error.startswith(
      "error: no records of data set 'asdiv' by teacher 'palm540b'")
  record_writer.write_records(tmp_path, "asdiv", "palm540b", {
      "train": [record("is it?", "( 22222222.0 )", "one.")]})
  assert cli.main(union) == 0
  printed = capsys.readouterr().out
  assert printed.startswith("svamp_asdiv/palm540b: 2 records of train,")
  assert "MAX_LABEL = 16" in printed
  assert cli.main(arguments) == 0
  printed = capsys.readouterr().out
  assert "MAX_INPUTS = " in printed and "PACKED_FEATURE_LENGTHS" in printed
  assert cli.main([*arguments, "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["longest"]["MAX_LABEL"] > 0
