"""Vocabularies whose file is looked for when they are used."""

import pytest

from stepdistill_jax.config import data_folder
from stepdistill_jax.data import vocabularies
from stepdistill_jax.records import records
from stepdistill_jax.util import errors
from tests.support import real_data as testing


@pytest.fixture(name="nowhere", autouse=True)
def _nowhere(monkeypatch, tmp_path):
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path / "nothing"))


def test_it_stays_when_seqio_gets_other_records(tmp_path):
  """As after `rebuild_model`, whose model is used later."""
  testing.write_tiny_vocabulary(records.vocabulary_path(tmp_path, "own"))
  vocabulary = vocabularies.DatasetVocabulary("own")
  with pytest.raises(errors.UserError, match="was not found at"):
    vocabulary.encode("a b")
  with data_folder.tfds_data_dir(tmp_path):
    tokens = vocabulary.encode("a b")
  assert vocabulary.encode("a b") == tokens
  assert vocabulary.sentencepiece_model_file == str(
      records.vocabulary_path(tmp_path, "own"))


def test_it_follows_to_other_records(tmp_path):
  for name in ("one", "two"):
    testing.write_tiny_vocabulary(
        records.vocabulary_path(tmp_path / name, "own"))
  vocabulary = vocabularies.DatasetVocabulary("own")
  for name in ("one", "two"):
    with data_folder.tfds_data_dir(tmp_path / name):
      vocabulary.encode("a b")
      assert vocabulary.sentencepiece_model_file == str(
          records.vocabulary_path(tmp_path / name, "own"))
