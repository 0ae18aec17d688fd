"""The embedded benchmark's SentencePiece model, trained on its own texts.

T5's 32,000 pieces would make a student of a few hundred thousand parameters
consist of embeddings. This model has 192 pieces, with T5's ids for padding,
EOS and unknown, and is read by the same code.

The phrases that every sentence has in common (`went to the`) are one piece
each: half as many tokens per story, half the time per training step.
"""

from collections.abc import Iterable
import io
import pathlib

from stepdistill_jax.quickstart import tracking
from stepdistill_jax.util import durable_files

PIECES = 192
_PHRASES = ("went to the", "took the", "left the", "where is the")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's sign for a space.


def write(path: pathlib.Path, stories: Iterable[tracking.Story]) -> None:
  """Trains a SentencePiece model on the stories and writes it to `path`."""
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_texts(stories), model_writer=model,
      # Byte pair encoding joins until whole words are one piece; the unigram
      # model leaves words in pieces where they have few neighbours.
      model_type="bpe", vocab_size=PIECES, hard_vocab_limit=False,
      user_defined_symbols=[
          _SPACE + phrase.replace(" ", _SPACE) for phrase in _PHRASES],
      pad_id=0, eos_id=1, unk_id=2, bos_id=-1,  # T5's ids.
      character_coverage=1.0, num_threads=1, minloglevel=2)
  path.parent.mkdir(parents=True, exist_ok=True)
  durable_files.replace(path, model.getvalue())


def longest_inputs(difficulty: tracking.Difficulty) -> int:
  """Tokens of the longest story, with question, prefix and EOS.

  A sentence is a person, a phrase, a word and a full stop; the question a
  phrase, a word and its mark.
  """
  return 4 * difficulty.sentences[1] + 3 + 2 + 1


def _texts(stories: Iterable[tracking.Story]) -> Iterable[str]:
  """The texts, with every word there is, so that all become pieces."""
  from stepdistill_jax.data import preprocessors  # Loads TensorFlow.

  for story in stories:
    for prefix in ("", preprocessors.PREDICT_PREFIX,
                   preprocessors.EXPLAIN_PREFIX):
      yield prefix + story.inputs
  for word in (*tracking.PEOPLE, *tracking.PLACES, *tracking.OBJECTS):
    yield from [word] * 100  # More than the rare joins of other words.
