"""Labels that a vocabulary loses, merges or changes are named."""

import pytest

from stepdistill_jax.records import vocabulary_losses
from stepdistill_jax.util import errors
from tests.support import real_data as testing


@pytest.fixture(name="spiece", scope="module")
def _spiece(tmp_path_factory):
  return testing.write_tiny_vocabulary(
      tmp_path_factory.mktemp("vocabulary") / "spiece.model")


def losses(spiece, *labels):
  check = vocabulary_losses.LabelCheck()
  for label in labels:
    check.add(label)
  return check.losses(spiece)


def test_labels_of_known_pieces_survive(spiece):
  found = losses(spiece, "a", "b", "a b", "a  b ", "", "b")
  assert found.lines() == [] and found.counted == 5
  assert not (found.merged or found.unknown or found.changed)


def test_unknown_characters_merge_labels(spiece):
  found = losses(spiece, "是", "是", "否", "是", "a", "a是", "a否")
  assert found.merged == [["是", "否"], ["a是", "a否"]]
  assert (found.merged_count, found.unknown_count) == (6, 6)
  merged, unknown = found.lines()
  assert "'是' = '否'; 'a是' = 'a否'" in merged
  assert "--verbalize=是=WORD,否=WORD" in merged
  assert unknown.startswith("6 of 7 labels have characters") and (
      "'是' -> '⁇'" in unknown)


def test_long_texts_are_cut_and_have_no_other_words(spiece):
  (line,) = losses(spiece, "a " * 50 + "是", "b").lines()
  assert len(line) < 350 and "…'" in line and "verbalize" not in line


def test_the_normalizer_changes_and_merges_labels(spiece):
  found = losses(spiece, "ａ", "b")
  assert found.changed == {"ａ": "a"} and not found.merged
  assert "'ａ' -> 'a'" in found.lines()[0]
  found = losses(spiece, "ａ", "a")
  assert found.merged == [["ａ", "a"]]
  # They can be learned, and scores do not tell them apart either.
  assert found.merged_count == 0


def test_every_pair_of_labels_is_distinguished_or_named(spiece):
  labels = ["a", "b", "ａ", "是", "否", "ａ是", "a是", "<", "^", "a b", "ba"]
  pieces = vocabulary_losses.load(spiece)
  named = [set(group) for group in losses(spiece, *labels).merged]
  for i, one in enumerate(labels):
    for other in labels[:i]:
      assert (pieces.encode(one) == pieces.encode(other)) == any(
          {one, other} <= group for group in named)


def test_a_file_that_is_no_vocabulary(tmp_path):
  (tmp_path / "x").write_text("no model")
  for name, message in (("x", "is not a SentencePiece"), ("y", "no file")):
    with pytest.raises(errors.UserError, match=message):
      vocabulary_losses.load(tmp_path / name)


def test_verbalizers():
  parse = vocabulary_losses.parse_verbalizers
  assert parse("") == {}
  assert parse("是=yes,否=no") == {"是": "yes", "否": "no"}
  assert parse("a=b=yes, <=less") == {"a=b": "yes", "<": "less"}
  for text, message in (("a", "expected LABEL=TEXT"), ("a=", "expected"),
                        ("a=x,b=x", "two labels the same text")):
    with pytest.raises(errors.UserError, match=message):
      parse(text)
