"""A SentencePiece model's tokens of many texts, each word encoded once.

In most models no piece spans a space, so that the tokens of a text are those
of its words, and looking up words takes a tenth of the time of encoding
texts. A text of words that are not ASCII, or whose best segmentation is about
as good as the next, is encoded as a whole: what stands before a word rounds
the sums of scores that decide between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2
import seqio
import tensorflow as tf

from stepdistill_jax.data import preprocessors
from stepdistill_jax.records import records

_SPACE = "\u2581"
# Of log probabilities; rounding changes those of long texts by a thousandth.
_LEAST_GAP = 0.1
_MOST_WORDS = 500_000
# Nothing that models normalize or have as a symbol of their own.
_PLAIN = re.compile(rb"[!-;=-~]*")
_EOS = records.EOS_TEXT.encode()


class WordPieces:
  """The tokens of words, by a model whose pieces do not span spaces."""

  def __init__(self, vocabulary: seqio.SentencePieceVocabulary,
               scores: Mapping[str, float]):
    """Initializes.

    Args:
      vocabulary: of the model.
      scores: its pieces' log probabilities.
    """
    self._vocabulary = vocabulary
    self._scores = scores
    self._longest = max(map(len, scores))
    self._clear()

  @classmethod
  def of(cls, vocabulary: seqio.Vocabulary) -> WordPieces | None:
    """Of a vocabulary; None if words do not make up its texts."""
    proto = getattr(vocabulary, "sp_model", None)
    if not isinstance(proto, bytes):
      return None
    pb2: Any = sentencepiece_model_pb2
    model = pb2.ModelProto.FromString(proto)
    how, trained = model.normalizer_spec, model.trainer_spec
    splits = (
        trained.model_type == trained.UNIGRAM
        and not trained.treat_whitespace_as_suffix and how.add_dummy_prefix
        and how.remove_extra_whitespaces and how.escape_whitespaces
        and all(piece.piece.rfind(_SPACE) <= 0 for piece in model.pieces))
    return cls(vocabulary, {
        piece.piece: piece.score for piece in model.pieces
        if piece.type == piece.NORMAL}) if splits else None

  def _clear(self) -> None:
    self._numbers = {_EOS: 0}
    self._tokens = np.array([self._vocabulary.eos_id], np.int32)
    self._starts = np.array([0, 1])
    self._is_safe = np.array([True])

  @staticmethod
  def split(texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Texts `[texts]` as different words, and which of them each text has."""
    parts = tf.strings.split(tf.strings.regex_replace(
        texts, records.EOS_TEXT, f" {records.EOS_TEXT} "), " ")
    words, of_texts = tf.unique(parts.flat_values)
    return {"words": words, "of_texts": of_texts,
            "counts": parts.row_lengths()}

  def encode(self, words: np.ndarray, of_texts: np.ndarray,
             counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of texts from what `split` made of them.

    Returns:
      (tokens of all texts int32, the number of each text's int64).
    """
    if len(self._numbers) + len(words) > _MOST_WORDS:
      self._clear()
    words = words.tolist()
    self._add([word for word in words if word not in self._numbers])
    numbers = np.array([self._numbers[w] for w in words], np.int64)[of_texts]
    sizes = np.diff(self._starts)[numbers]
    # The numbers of ranges, one after the other: the tokens of each word.
    tokens = self._tokens[np.repeat(
        self._starts[numbers] - (np.cumsum(sizes) - sizes), sizes)
                          + np.arange(sizes.sum())]
    firsts = np.cumsum(counts) - counts  # Each text has a word at least.
    lengths = np.add.reduceat(sizes, firsts)
    whole = np.flatnonzero(
        ~np.logical_and.reduceat(self._is_safe[numbers], firsts))
    if not whole.size:
      return tokens, lengths
    texts = [b" ".join([words[i] for i in of_texts[first:first + count]])
             for first, count in zip(firsts[whole], counts[whole])]
    encoded = preprocessors.encode("", tf.constant(
        [text.replace(b" " + _EOS + b" ", _EOS) for text in texts]),
                                   self._vocabulary)
    of_text = np.split(tokens, np.cumsum(lengths)[:-1])
    for text, found in zip(whole, encoded.to_list()):
      of_text[text] = np.array(found, np.int32)
    return np.concatenate(of_text), np.array([len(t) for t in of_text])

  def _add(self, words: Sequence[bytes]) -> None:
    """Encodes words that were not seen before."""
    if not words:
      return
    encoded = self._vocabulary.encode_tf(tf.constant(words))
    for word in words:
      self._numbers[word] = len(self._numbers)
    self._tokens = np.concatenate([self._tokens, encoded.flat_values.numpy()])
    self._starts = np.concatenate([
        self._starts, self._starts[-1] + np.cumsum(
            encoded.row_lengths().numpy())])
    self._is_safe = np.concatenate([
        self._is_safe, [self._stands_alone(word) for word in words]])

  def _stands_alone(self, word: bytes) -> bool:
    """Whether a word has the same tokens in any text."""
    if not _PLAIN.fullmatch(word):
      return False
    text = _SPACE + word.decode()
    best: list[list[float]] = [[0.0]]  # Two of each beginning of the word.
    for end in range(1, len(text) + 1):
      best.append(sorted((
          before + self._scores[text[start:end]]
          for start in range(max(0, end - self._longest), end)
          if text[start:end] in self._scores
          for before in best[start]), reverse=True)[:2])
    found = best[-1]
    return len(found) == 1 or len(found) == 2 and (
        found[0] - found[1] > _LEAST_GAP)
