"""Tests of the simulated teacher and of the vocabulary, by the real import."""

import pathlib

import pytest
import sentencepiece

from stepdistill_jax.quickstart import (
  tracking,
  tracking_teacher,
  tracking_vocabulary,
)
from stepdistill_jax.records import records
from stepdistill_jax.teacher.importing import formats as importing
from stepdistill_jax.util import errors

DIFFICULTY = tracking.Difficulty()
SIZES = {"test": 200, "validation": 50, "train": 1000}


@pytest.fixture(scope="module")
def splits():
  return tracking.draw_splits(0, SIZES, DIFFICULTY)


def _completion(story, **rates):
  return tracking_teacher.SimulatedTeacher(**rates).complete(story)


def test_flawless_teacher_quotes_the_evidence(splits):
  for story in splits["test"]:
    completion = _completion(story, error_rate=0, unfinished_rate=0)
    assert completion.finish_reason == "stop"
    assert completion.output == (
        f"{story.quote(story.evidence)} So the answer is {story.label}.")


def test_mistakes_are_wrong_in_rationale_and_label_alike(splits):
  for story in splits["test"]:
    output = _completion(story, error_rate=1, unfinished_rate=0).output
    rationale, answer = output.split(" So the answer is ")
    answer = answer.removesuffix(".")
    assert answer != story.label
    assert rationale.endswith(f" went to the {answer} .")
    # Every sentence is one of the story, although the wrong one.
    for sentence in rationale.removesuffix(" .").split(" . "):
      assert f"{sentence} ." in story.text


def test_unfinished_completions_have_no_answer(splits):
  for story in splits["test"]:
    completion = _completion(story, error_rate=0, unfinished_rate=1)
    assert completion.finish_reason == "length"
    assert "So the answer" not in completion.output


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_impossible_rates_are_refused(rate):
  with pytest.raises(errors.UserError, match="expected 0 to 1"):
    tracking_teacher.SimulatedTeacher(error_rate=rate)


def test_caches_become_records(splits, tmp_path: pathlib.Path):
  teacher = tracking_teacher.SimulatedTeacher(
      error_rate=0.2, unfinished_rate=0.05)
  tracking_teacher.write_caches(
      tmp_path / "cache", splits, teacher, seed=0, difficulty=DIFFICULTY)
  imported = importing.import_cache(
      tmp_path / "cache", output=tmp_path / "records")
  assert (imported.dataset, imported.teacher) == ("tracking", "simulated")
  counts = imported.info["sources"]["train"]["rules"]["strict"]
  # Four standard errors of 1,000 draws.
  assert counts["correct"] / counts["labels"] == pytest.approx(0.8, abs=0.05)
  unfinished = counts["statuses"]["truncated"]["count"]
  assert unfinished / 1000 == pytest.approx(0.05, abs=0.03)
  # Every story came out with its own label and the completion's rationale.
  for split, stories in splits.items():
    read = {record.inputs: record for record in records.read_records(
        tmp_path / "records", "tracking", "simulated", split)}
    assert len(read) == len(stories)
    for story in stories:
      record = read[story.inputs]
      assert record.label == story.label
      if record.status == records.OK:
        assert teacher.complete(story).output == (
            f"{record.rationale} So the answer is {record.teacher_label}.")


def test_vocabulary_has_every_word_as_one_piece(splits, tmp_path):
  path = tmp_path / "spiece.model"
  tracking_vocabulary.write(path, splits["train"])
  first = path.read_bytes()
  tracking_vocabulary.write(path, splits["train"])
  assert path.read_bytes() == first
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
  assert pieces.vocab_size() == tracking_vocabulary.PIECES
  assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) == (0, 1, 2)
  for word in tracking.PEOPLE + tracking.PLACES + tracking.OBJECTS:
    assert len(pieces.encode(word)) == 1, word
  for story in splits["test"]:
    tokens = pieces.encode(story.inputs)
    # Four a sentence (who, did the, what, full stop), four the question less
    # its joined words.
    assert len(tokens) == 4 * len(story.events) + 3
    assert pieces.decode(tokens) == story.inputs
    with_prefix = pieces.encode("explain: " + story.inputs)
    assert len(with_prefix) + 1 == tracking_vocabulary.longest_inputs(
        tracking.Difficulty(sentences=(3, len(story.events))))
    assert pieces.unk_id() not in tokens
