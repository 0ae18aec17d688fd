"""SentencePiece models as `tokenizer.json`, and back.

transformers reads a `spiece.model` as T5's: a unigram model whose pieces end
at spaces. Of others it would make other tokens without a word, so they get a
`tokenizer.json` of their own, which computes what SentencePiece does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
import pathlib
import re
from typing import Any

from stepdistill_jax.util import errors

_SPACE = "\u2581"
_SENTINEL = re.compile(r"<extra_id_\d+>")
# SentencePiece's types of pieces, and of models.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_UNIGRAM, _BPE = 1, 2
_UNKNOWN_ID = 2


def _parse(spiece: bytes):
  from google.protobuf import message
  from sentencepiece import sentencepiece_model_pb2
  with errors.reported(message.DecodeError, lambda error: (
      f"the tokenizer is no SentencePiece model: {error}")):
    return sentencepiece_model_pb2.ModelProto.FromString(spiece)


def _user_defined(model) -> list[str]:
  """The pieces that are never cut, longest first: that is who wins."""
  return sorted((p.piece for p in model.pieces if p.type == _USER_DEFINED),
                key=len, reverse=True)


def is_like_t5(spiece: bytes) -> bool:
  """Whether transformers makes the same tokens of a `spiece.model`."""
  model = _parse(spiece)
  normalizer = model.normalizer_spec
  return (model.trainer_spec.model_type == _UNIGRAM
          and not model.trainer_spec.byte_fallback
          and not model.trainer_spec.treat_whitespace_as_suffix
          and normalizer.add_dummy_prefix
          and normalizer.remove_extra_whitespaces
          and not _user_defined(model)
          and not any(_SPACE in p.piece[1:] for p in model.pieces))


def of_spiece(spiece: bytes, extra_ids: int) -> dict[str, Any]:
  """Makes the `tokenizer.json` of a SentencePiece model.

  Args:
    spiece: the serialized model.
    extra_ids: sentinels that follow its pieces, the last one first.

  Raises:
    errors.UserError: it is of a kind that such a file cannot express.
  """
  model = _parse(spiece)
  trainer = model.trainer_spec
  for bad, what in (
      (trainer.model_type not in (_UNIGRAM, _BPE), "a model of words or "
       "characters"),
      (trainer.byte_fallback, "bytes for unknown characters"),
      (trainer.treat_whitespace_as_suffix, "spaces at the end of pieces")):
    if bad:
      raise errors.UserError(
          f"the run's SentencePiece model has {what}, which this export "
          "cannot express for transformers; expected a unigram or BPE model "
          "without that")
  pieces = [(p.piece, p.score) for p in model.pieces]
  pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids))]
  special = [0, 1, _UNKNOWN_ID, *range(len(model.pieces), len(pieces))]
  end = {"SpecialToken": {"id": pieces[1][0], "type_id": 0}}
  first, second = ({"Sequence": {"id": i, "type_id": 0}} for i in "AB")
  return {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": [{
          "id": i, "content": pieces[i][0], "single_word": False,
          "lstrip": False, "rstrip": False, "normalized": False,
          "special": True} for i in special],
      "normalizer": _normalizer(model.normalizer_spec),
      "pre_tokenizer": _whole(_user_defined(model)),
      "post_processor": {
          "type": "TemplateProcessing", "single": [first, end],
          "pair": [first, end, second, end],
          "special_tokens": {pieces[1][0]: {
              "id": pieces[1][0], "ids": [1], "tokens": [pieces[1][0]]}}},
      "decoder": {"type": "Sequence", "decoders": [
          {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
          {"type": "Fuse"},
          *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
            if model.normalizer_spec.add_dummy_prefix else [])]},
      "model": _bpe(model, pieces) if trainer.model_type == _BPE else {
          "type": "Unigram", "unk_id": _UNKNOWN_ID, "byte_fallback": False,
          "vocab": [list(piece) for piece in pieces]},
  }


def _normalizer(spec) -> dict[str, Any]:
  steps: list[dict[str, Any]] = []
  if spec.precompiled_charsmap:
    steps.append({"type": "Precompiled", "precompiled_charsmap":
                  base64.b64encode(spec.precompiled_charsmap).decode()})
  if spec.remove_extra_whitespaces:
    steps += [{"type": "Strip", "strip_left": True, "strip_right": True},
              {"type": "Replace", "pattern": {"Regex": " {2,}"},
               "content": " "}]
  if spec.add_dummy_prefix:
    steps.append({"type": "Prepend", "prepend": " "})
  steps.append({"type": "Replace", "pattern": {"String": " "},
                "content": _SPACE})
  return {"type": "Sequence", "normalizers": steps}


def _whole(pieces: list[str]) -> dict[str, Any] | None:
  """Cuts a text around the pieces that are never cut themselves."""
  if not pieces:
    return None
  return {"type": "Split", "behavior": "Isolated", "invert": False,
          "pattern": {"Regex": "|".join(map(re.escape, pieces))}}


def _bpe(model, pieces: list[tuple[str, float]]) -> dict[str, Any]:
  """SentencePiece joins whatever makes the best piece: merges in that order."""
  ids = {piece: i for i, (piece, _) in enumerate(pieces)}
  merges = []
  for piece in model.pieces:
    if piece.type != _NORMAL:
      continue
    text = piece.piece
    merges += [(-piece.score, ids[text[:i]], ids[text[i:]])
               for i in range(1, len(text))
               if text[:i] in ids and text[i:] in ids]
  return {
      "type": "BPE", "vocab": ids, "unk_token": pieces[_UNKNOWN_ID][0],
      "merges": [[pieces[left][0], pieces[right][0]]
                 for _, left, right in sorted(merges)],
      # Neighbouring unknown characters are one token in SentencePiece.
      "fuse_unk": True, "byte_fallback": False, "dropout": None,
      "continuing_subword_prefix": None, "end_of_word_suffix": None,
      # What `_whole` has cut out is one token, which no merges lead to.
      "ignore_merges": True}


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes:
  """The table of SentencePiece's normalization in a tokenizer.json."""
  if not normalizer:
    return b""
  if normalizer.get("type") == "Precompiled":
    return base64.b64decode(normalizer["precompiled_charsmap"])
  for inner in normalizer.get("normalizers", ()):
    if found := _charsmap(inner):
      return found
  return b""


def to_spiece(
    file: pathlib.Path, tokenizer: Mapping[str, Any]) -> tuple[bytes, int]:
  """Makes the SentencePiece model of a T5's `tokenizer.json`.

  Args:
    file: names the tokenizer in errors.
    tokenizer: its content.

  Returns:
    The serialized model, and the number of sentinels that follow its pieces.

  Raises:
    errors.UserError: it is not a unigram model, or has other special tokens
      than T5 has.
  """
  from sentencepiece import sentencepiece_model_pb2
  model = tokenizer.get("model")
  model = model if isinstance(model, dict) else {}
  vocab = model.get("vocab")
  if not isinstance(vocab, list) or model.get("unk_id") is None:
    raise errors.UserError(
        f"{file} has a {model.get('type', 'missing')} model, expected Unigram, "
        "as T5's is; put the checkpoint's spiece.model beside it")
  if not all(isinstance(entry, list) and len(entry) == 2
             and isinstance(entry[0], str)
             and isinstance(entry[1], (int, float)) for entry in vocab):
    raise errors.UserError(
        f"{file}: expected [piece, score] for each entry of `vocab`; is it "
        "damaged?")
  extra_ids = 0
  while vocab and _SENTINEL.fullmatch(vocab[-1][0]):
    vocab, extra_ids = vocab[:-1], extra_ids + 1
  if [piece for piece, _ in vocab[:3]] != ["<pad>", "</s>", "<unk>"]:
    raise errors.UserError(
        f"{file} begins with the pieces {[p for p, _ in vocab[:3]]}, expected "
        "<pad>, </s>, <unk>, as T5's does")
  proto = sentencepiece_model_pb2.ModelProto()
  for index, (piece, score) in enumerate(vocab):
    kind = (_UNKNOWN if index == model["unk_id"] else
            _CONTROL if index < 2 else _NORMAL)
    proto.pieces.add(piece=piece, score=score, type=kind)
  spec = proto.trainer_spec
  spec.model_type = spec.UNIGRAM
  spec.vocab_size = len(vocab)
  spec.pad_id, spec.eos_id, spec.unk_id, spec.bos_id = 0, 1, 2, -1
  charsmap = _charsmap(tokenizer.get("normalizer"))
  proto.normalizer_spec.name = "nmt_nfkc" if charsmap else "identity"
  proto.normalizer_spec.precompiled_charsmap = charsmap
  proto.normalizer_spec.add_dummy_prefix = True
  proto.normalizer_spec.remove_extra_whitespaces = True
  proto.normalizer_spec.escape_whitespaces = True
  return proto.SerializeToString(), extra_ids
