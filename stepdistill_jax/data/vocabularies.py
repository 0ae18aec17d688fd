"""The vocabularies of tasks; no file is read before a task is used."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import gin
import seqio

from stepdistill_jax.data import hugging_face_vocabulary
from stepdistill_jax.records import records
from stepdistill_jax.util import errors, locations

# T5's 100 sentinels follow its 32,000 pieces; embeddings have 32,128 rows.
T5_EXTRA_IDS = 100


class _LateVocabulary(
    hugging_face_vocabulary.FollowsTokenizer, seqio.SentencePieceVocabulary):
  """A SentencePiece vocabulary whose file is looked for at first use.

  Tasks are registered on machines that have no vocabulary (`--help`, a test
  of names), so the constructor must not need it.
  """

  _sentencepiece_model_file: str

  def _model_context(self) -> Any:
    # Looked up each time: the place may be set after a first, failed use.
    path = self.sentencepiece_model_file
    if path != self._sentencepiece_model_file:
      self._sentencepiece_model_file, self._model = path, None
    return super()._model_context()

  @property
  def sentencepiece_model_file(self) -> str:
    """Its path; empty where a decoder's tokenizer.json is followed."""
    if hugging_face_vocabulary.tokenizer() is not None:
      return ""
    try:
      return str(self._find())
    except errors.UserError:
      if not self._sentencepiece_model_file:
        raise
      # A model is used after SeqIO had its records' folder for a while.
      return self._sentencepiece_model_file

  def _find(self) -> pathlib.Path:
    raise NotImplementedError

  def __eq__(self, other: Any) -> bool:
    # By what is asked for, not by whether the file was already found.
    if (own := hugging_face_vocabulary.tokenizer()) is not None:
      return bool(own == other)
    return type(self) is type(other) and self._key() == other._key()

  def _key(self) -> object:
    return self._extra_ids


class T5Vocabulary(_LateVocabulary):
  """T5's vocabulary, `locations.t5_vocabulary_path()`."""

  def __init__(self, extra_ids: int = T5_EXTRA_IDS):
    super().__init__("", extra_ids=extra_ids)

  def _find(self) -> pathlib.Path:
    return locations.t5_vocabulary_path()


class DatasetVocabulary(_LateVocabulary):
  """A data set's own vocabulary, which lies beside its records."""

  def __init__(self, dataset: str, extra_ids: int = 0):
    super().__init__("", extra_ids=extra_ids)
    self._dataset = dataset

  def _key(self) -> object:
    return self._extra_ids, self._dataset

  def _find(self) -> pathlib.Path:
    path = records.vocabulary_path(records_dir(), self._dataset)
    if not path.is_file():
      raise errors.UserError(
          f"the vocabulary of data set {self._dataset!r} was not found at "
          f"{path}; import the data set's records again")
    return path


def records_dir() -> str:
  """The folder of records: `--records_dir`, else `locations`' choice."""
  return str(
      seqio.utils._get_data_dir_override(None)
      or locations.records_dir())


@gin.configurable(module="stepdistill_jax.data.vocabularies")
@functools.cache
def t5_vocabulary() -> T5Vocabulary:
  """T5's vocabulary with its 100 extra ids; one object for all tasks."""
  return T5Vocabulary()


@gin.configurable(module="stepdistill_jax.data.vocabularies")
@functools.cache
def task_vocabulary(dataset: str) -> seqio.Vocabulary:
  """The vocabulary of a data set's tasks: its own, else T5's."""
  if dataset in _OWN_VOCABULARY or records.vocabulary_path(
      records_dir(), dataset).is_file():
    return DatasetVocabulary(dataset)
  return t5_vocabulary()


# Generated with their records, so they may not be there at registration.
_OWN_VOCABULARY = frozenset({"tracking"})
