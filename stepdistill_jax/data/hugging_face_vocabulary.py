"""A decoder's `tokenizer.json` as a SeqIO vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import functools
import itertools
import os
import pathlib
from typing import Any

import gin
import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.data import chat_template, lengths, tokenizer_files
from stepdistill_jax.records import records
from stepdistill_jax.util import errors


@gin.configurable(module="stepdistill_jax.data.hugging_face_vocabulary")
class HuggingFaceVocabulary(seqio.Vocabulary):
  """Tokens of a folder's `tokenizer.json`, id 0 left free.

  T5X takes id 0 for padding, in losses, masks and packing; in these
  vocabularies it is a token ("!" in Llama's and Qwen's). So that token has the
  id `vocab_size` of the folder's config.json here, one more than its last;
  all others keep theirs. `import-hf` moves the rows of the embedding alike,
  `export-hf` moves them back.

  A prompt is what the tokenizer puts before texts (Llama's
  `<|begin_of_text|>`), the text, and `prompt_suffix`; with `chat` it is what
  the folder's chat template makes of it (see `chat_template.messages_of`). It
  has no end token.
  """

  def __init__(
      self, tokenizer_file: str, chat: bool = False, system: str = "",
      prompt_suffix: str = "\n", joint: str = "\n"):
    """Names the files; they are read at first use.

    Args:
      tokenizer_file: path of a tokenizer.json, beside which are the folder's
        config.json and tokenizer_config.json.
      chat: whether prompts are rendered by the chat template.
      system: with `chat`, the system's message; empty for none.
      prompt_suffix: without `chat`, what ends prompts.
      joint: what stands between the parts of a question, such as premise and
        hypothesis.
    """
    super().__init__()
    self.tokenizer_file = os.fspath(tokenizer_file)
    self._chat, self._system, self._suffix = chat, system, prompt_suffix
    self._joint = joint

  def __eq__(self, other: object) -> bool:
    same = followed(other)
    return same is not None and self._key() == same._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def _key(self) -> tuple[object, ...]:
    return (self.tokenizer_file, self._chat, self._system, self._suffix,
            self._joint)

  # ------------------------------------------------------------------ files

  @functools.cached_property
  def _tokenizer(self) -> Any:
    return tokenizer_files.open_tokenizer(pathlib.Path(self.tokenizer_file))

  @functools.cached_property
  def zero_id(self) -> int:
    """The id that stands for the tokenizer's 0."""
    config = tokenizer_files.beside(self.tokenizer_file, "config.json")
    size = config.get("vocab_size")
    last = tokenizer_files.number_of_ids(self.tokenizer_file) - 1
    if size is None:
      return last + 1
    if not isinstance(size, int) or size <= last:
      raise errors.UserError(
          f"{self.tokenizer_file} has the id {last}, but the config.json "
          f"beside it says `vocab_size` {size!r}; they are of different models")
    return size

  @functools.cached_property
  def _eos(self) -> int:
    return self._moved(tokenizer_files.eos_id(self.tokenizer_file))

  @functools.cached_property
  def _template(self) -> chat_template.ChatTemplate:
    return chat_template.read(pathlib.Path(self.tokenizer_file).parent)

  @functools.cached_property
  def _before(self) -> list[int]:
    """What the tokenizer puts before every text."""
    plain = self._tokenizer.encode("a", add_special_tokens=False).ids
    marked = self._tokenizer.encode("a", add_special_tokens=True).ids
    return list(marked[:marked.index(plain[0])])

  # -------------------------------------------------------------------- ids

  def _moved(self, token: int) -> int:
    """An id of the tokenizer here, or the other way around."""
    return {0: self.zero_id, self.zero_id: 0}.get(token, token)

  @property
  def bos_id(self) -> int | None:
    return self._moved(self._before[0]) if self._before else None

  @property
  def eos_id(self) -> int:
    return self._eos

  @property
  def unk_id(self) -> None:
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self.zero_id + 1

  # ------------------------------------------------------------------ texts

  def prompt_text(self, text: str) -> str:
    """What a student reads of a question's text, without BOS."""
    return self._rendered(self._messages(text))

  def _messages(self, text: str) -> list[dict[str, str]]:
    text = text.replace(records.EOS_TEXT, self._joint)
    if not self._chat:
      return [{"role": "user", "content": text}]
    return chat_template.messages_of(text, self._system)

  def _rendered(self, messages: Sequence[chat_template.Message]) -> str:
    if not self._chat:
      return f"{messages[0]['content']}{self._suffix}"
    return self._template.render(messages, add_generation_prompt=True)

  def _prompt_ids(
      self, messages: Sequence[chat_template.Message]) -> list[int]:
    before = [] if self._chat else self._before
    return [*map(self._moved, before), *self._encode(self._rendered(messages))]

  def encode_prompt(
      self, text: str, limit: int | None = None,
      keeps_end: bool = False) -> list[int]:
    """A question's ids, with all that stands around it; without EOS.

    Args:
      text: the question.
      limit: the most ids; for it the user's messages are cut, the longest
        first, and then the assistant's. The system's, a task's prefix and all
        that stands around them stay whole.
      keeps_end: whether a message that is cut loses its beginning.

    Raises:
      errors.UserError: what stays whole has more ids than `limit`.
    """
    messages = self._messages(text)
    ids = self._prompt_ids(messages)
    excess = 0 if limit is None else len(ids) - limit
    if excess <= 0:
      return ids
    for message in sorted(messages, key=lambda message: (
        message["role"] != "user", -len(message["content"]))):
      if message["role"] == "system":
        continue
      content = message["content"]
      start = max(len(p) for p in ("", *lengths.PREFIXES)
                  if content.startswith(p))
      prefix, content = content[:start], content[start:]
      # Characters of each token.
      spans = self._tokenizer.encode(
          content, add_special_tokens=False).offsets
      kept = len(spans)
      while excess > 0 and kept > 0:  # Again where a cut makes more tokens.
        kept = max(kept - excess, 0)
        part = content[:spans[kept][0]]
        if keeps_end:
          part = content[spans[-kept][0]:] if kept else ""
        message["content"] = prefix + part
        ids = self._prompt_ids(messages)
        excess = len(ids) - (limit or 0)
    if excess > 0:
      raise errors.UserError(
          f"what stands around a prompt has {len(ids)} tokens, of the "
          f"{limit} that inputs may have: pass a larger MAX_INPUTS, or "
          "another SYSTEM or CHAT")
    return ids

  def _encode(self, s: str) -> list[int]:
    ids = self._tokenizer.encode(s, add_special_tokens=False).ids
    return [self._moved(i) for i in ids]

  def _decode(self, ids: Iterable[int]) -> str:
    # What stands behind another end token than EOS was never meant; where
    # generation stops at that one, as transformers does, it is not there.
    ends = tokenizer_files.end_ids(self.tokenizer_file)
    moved = (self._moved(int(i)) for i in ids if 0 < i <= self.zero_id)
    return str(self._tokenizer.decode(
        list(itertools.takewhile(lambda i: i not in ends, moved)),
        skip_special_tokens=True))

  def encode_text_tf(self, text: tf.Tensor, prompt: bool) -> tf.Tensor:
    """A text's ids, int32 `[length]`."""
    to_ids = self.encode_prompt if prompt else self._encode

    def encode(value: Any) -> Any:
      value = value if isinstance(value, bytes) else value.item()
      return np.array(to_ids(value.decode("utf-8")), np.int32)

    ids = tf.numpy_function(encode, [text], tf.int32, stateful=False)
    return tf.ensure_shape(ids, [None])

  def fit_prompt_tf(
      self, ids: tf.Tensor, text: tf.Tensor, limit: int,
      keeps_end: bool) -> tf.Tensor:
    """A prompt's ids, int32 `[length]`, cut where they are too many.

    Args:
      ids: of the whole prompt.
      text: of the question, also for what follows see `encode_prompt`.
      limit: the most ids.
      keeps_end: which part of the question is kept.
    """
    def fit(ids: Any, text: Any) -> Any:
      if len(ids) <= limit:
        return ids
      text = text if isinstance(text, bytes) else text.item()
      return np.array(self.encode_prompt(
          text.decode("utf-8"), limit, keeps_end), np.int32)

    return tf.ensure_shape(tf.numpy_function(
        fit, [ids, text], tf.int32, stateful=False), [None])

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    s = tf.convert_to_tensor(s)
    if s.shape.rank == 0:
      return self.encode_text_tf(s, prompt=False)
    return tf.map_fn(
        lambda text: self.encode_text_tf(text, prompt=False), s,
        fn_output_signature=tf.RaggedTensorSpec([None], tf.int32, 0))

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(rows: Any) -> Any:
      if rows.ndim == 1:
        return self._decode(rows).encode("utf-8")
      return [self._decode(row).encode("utf-8") for row in rows]
    ids = tf.convert_to_tensor(ids)
    shape = ids.shape[:-1]
    return tf.ensure_shape(
        tf.numpy_function(decode, [ids], tf.string, stateful=False), shape)


@gin.configurable(module="stepdistill_jax.data.hugging_face_vocabulary")
def tokenizer(
    vocabulary: HuggingFaceVocabulary | None = None
) -> HuggingFaceVocabulary | None:
  """The run's vocabulary, if its student reads a tokenizer.json."""
  return vocabulary


class FollowsTokenizer(seqio.Vocabulary):
  """A task's vocabulary, which is the run's `tokenizer` where there is one.

  Tasks are registered before a run's gin files say what its student reads.
  """

  def encode(self, s: str) -> Any:
    return self._now().encode(s)

  def decode(self, ids: Iterable[int]) -> Any:
    return self._now().decode(ids)

  def encode_tf(self, s: tf.Tensor) -> Any:
    return self._now().encode_tf(s)

  def decode_tf(self, ids: tf.Tensor) -> Any:
    return self._now().decode_tf(ids)

  @property
  def bos_id(self) -> Any:
    return self._now().bos_id

  @property
  def eos_id(self) -> Any:
    return self._now().eos_id

  @property
  def unk_id(self) -> Any:
    return self._now().unk_id

  @property
  def vocab_size(self) -> Any:
    return self._now().vocab_size

  def _now(self) -> Any:
    return tokenizer() or super()


def followed(vocabulary: object) -> HuggingFaceVocabulary | None:
  """A vocabulary's tokenizer.json, if that is what it is now."""
  if isinstance(vocabulary, FollowsTokenizer):
    vocabulary = tokenizer()
  return vocabulary if isinstance(vocabulary, HuggingFaceVocabulary) else None
