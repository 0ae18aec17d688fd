"""Whether a Hugging Face folder's special tokens are those of T5X and SeqIO.

Theirs are fixed: padding 0, which also starts the decoder, EOS 1, unknown 2,
and the sentinels behind the pieces. A token that was added to the tokenizer is
not in its SentencePiece model, so a run would read it as unknown.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.util import errors

_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
_FILES = ("config.json", "generation_config.json")
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_OF_BYTES = ("<pad>", "</s>", "<unk>")
_SHOWN = 5


def check(folder: pathlib.Path, spiece: bytes | None, extra_ids: int) -> None:
  """Raises errors.UserError for special tokens that a run would not have.

  Args:
    folder: of the checkpoint.
    spiece: its SentencePiece model; None for bytes.
    extra_ids: the number of sentinels.
  """
  for name in _FILES:
    for key, expected in _IDS.items():
      found = tokenizer_files.read_json(folder / name, True).get(key)
      if found not in (None, expected, [expected]):
        raise errors.UserError(
            f"{folder / name}: {key} is {found!r}, but T5X and SeqIO have "
            f"{expected}; only checkpoints with T5's special ids can be "
            "imported")
  if spiece is not None:
    pieces = _pieces(spiece)
    ids = pieces.pad_id(), pieces.eos_id(), pieces.unk_id()
    if ids != (0, 1, 2):
      raise errors.UserError(
          f"{folder}: the SentencePiece model has pad, EOS and unknown ids "
          f"{', '.join(map(str, ids))}; T5's are 0, 1, 2, and T5X and SeqIO "
          "have no others")
  if added := added_tokens(folder, spiece, extra_ids):
    shown = ", ".join(f"{token!r} ({number})"
                      for token, number in list(added.items())[:_SHOWN])
    raise errors.UserError(
        f"{folder}: {len(added)} tokens were added to the tokenizer, such as "
        f"{shown}; SeqIO's vocabularies cannot have them, and would read them "
        "as unknown: take a checkpoint without them, or add them to its "
        "spiece.model as user-defined pieces")


def added_tokens(folder: pathlib.Path, spiece: bytes | None, extra_ids: int
                 ) -> dict[str, int]:
  """Tokens of a folder's files that its vocabulary in SeqIO lacks -> ids."""
  pieces = None if spiece is None else _pieces(spiece)
  size = 0 if pieces is None else pieces.get_piece_size()
  added = {}
  for token, number in _listed(folder):
    if pieces is None:
      known = token in _OF_BYTES or _SENTINEL.fullmatch(token) is not None
    elif sentinel := _SENTINEL.fullmatch(token):
      known = number == size + extra_ids - 1 - int(sentinel[1]) or (
          number < size and pieces.id_to_piece(number).endswith(token))
    else:
      known = 0 <= number < size and pieces.id_to_piece(number) == token
    if not known:
      added[token] = number
  return added


def _listed(folder: pathlib.Path) -> list[tuple[str, int]]:
  """(token, id) of each file that lists added tokens."""
  def read(name: str) -> dict[str, Any]:
    return tokenizer_files.read_json(folder / name, may_lack=True)

  listed = read("tokenizer.json").get("added_tokens") or ()
  by_id = read("tokenizer_config.json").get("added_tokens_decoder") or {}
  pairs: list[tuple[Any, Any]] = [
      *read("added_tokens.json").items(),
      *((entry.get("content"), entry.get("id"))
        for entry in listed if isinstance(entry, dict)),
      *((entry.get("content"), int(number)) for number, entry in by_id.items()
        if isinstance(entry, dict) and number.isdecimal())]
  return [(token, number) for token, number in pairs
          if isinstance(token, str) and type(number) is int]


def _pieces(spiece: bytes) -> Any:
  import sentencepiece

  return sentencepiece.SentencePieceProcessor(model_proto=spiece)
