"""Tokenizer files: found, kept, and turned from one format into the other.

SeqIO reads a SentencePiece model (`spiece.model`); a Hugging Face folder may
have only `tokenizer.json`, which holds the same pieces and scores. ByT5 has
neither: its tokens are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import shutil
from typing import Any

from etils import epath

from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.interop import architecture, special_tokens, tokenizer_json
from stepdistill_jax.util import errors

SPIECE_FILE = "spiece.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md")
# Small files of a folder that `export-hf` gives back.
KEPT = ("config.json", "generation_config.json", JSON_FILE, CONFIG_FILE,
        "special_tokens_map.json", "added_tokens.json", SPIECE_FILE,
        "chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model",
        *LICENCES)
T5_EXTRA_IDS = 100


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """What a folder says of its vocabulary.

  Attributes:
    spiece: a serialized SentencePiece model; None for bytes.
    extra_ids: sentinels that follow its pieces.
    file: a decoder's tokenizer.json, which stays as it is; None for a T5's.
  """

  spiece: bytes | None
  extra_ids: int
  file: epath.Path | pathlib.Path | None = None


def _extra_ids(folder: pathlib.Path, default: int) -> int:
  """How many sentinels the folder says that there are."""
  value = tokenizer_files.read_json(
      folder / CONFIG_FILE, True).get("extra_ids")
  if value is None:
    return default
  if type(value) is not int or value < 0:
    raise errors.UserError(
        f"{folder / CONFIG_FILE}: `extra_ids` is {value!r}, expected a number, "
        "0 or more")
  return value


def _is_bytes(folder: pathlib.Path, config: Mapping[str, Any]) -> bool:
  named = tokenizer_files.read_json(
      folder / CONFIG_FILE, True).get("tokenizer_class")
  return (str(named).startswith("ByT5")
          or config.get("tokenizer_class") == "ByT5Tokenizer")


def find(folder: pathlib.Path, config: Mapping[str, Any]) -> Tokenizer:
  """Reads a Hugging Face folder's tokenizer.

  Args:
    folder: the checkpoint's.
    config: its `config.json`.

  Raises:
    errors.UserError: there is none, or one that SeqIO cannot have.
  """
  if config["model_type"] in architecture.DECODER_FAMILIES:
    if not (folder / JSON_FILE).is_file():
      raise errors.UserError(
          f"{folder} has no {JSON_FILE}; copy it there from the model that the "
          "checkpoint was trained from, or save it by transformers' "
          "AutoTokenizer")
    return Tokenizer(None, 0, folder / JSON_FILE)
  if _is_bytes(folder, config):
    return Tokenizer(None, _extra_ids(folder, 125))
  if (folder / SPIECE_FILE).is_file():
    default = 0 if config["model_type"] == "mt5" else T5_EXTRA_IDS
    return Tokenizer((folder / SPIECE_FILE).read_bytes(),
                     _extra_ids(folder, default))
  if (folder / JSON_FILE).is_file():
    return Tokenizer(*tokenizer_json.to_spiece(
        folder / JSON_FILE, tokenizer_files.read_json(folder / JSON_FILE)))
  if config["vocab_size"] == 384:  # ByT5's folders may have no such file.
    return Tokenizer(None, 125)
  raise errors.UserError(
      f"{folder} has no tokenizer: neither {SPIECE_FILE} nor {JSON_FILE}; "
      "copy it there from the model that the checkpoint was trained from")


def keep(folder: pathlib.Path, target: pathlib.Path,
         tokenizer: Tokenizer) -> None:
  """Copies a folder's small files, and adds a SentencePiece model."""
  target.mkdir(parents=True, exist_ok=True)
  for name in KEPT:
    if (folder / name).is_file():
      shutil.copyfile(folder / name, target / name)
  if tokenizer.spiece is not None:
    (target / SPIECE_FILE).write_bytes(tokenizer.spiece)


def vocabulary_size(tokenizer: Tokenizer, where="the tokenizer") -> int:
  """Ids of a tokenizer, sentinels included.

  Args:
    tokenizer: the tokenizer.
    where: names it in errors.

  Raises:
    errors.UserError: it is not a SentencePiece model.
  """
  if tokenizer.file is not None:
    return tokenizer_files.number_of_ids(tokenizer.file)
  if tokenizer.spiece is None:
    return 3 + 256 + tokenizer.extra_ids  # Pad, EOS and unknown come first.
  import sentencepiece
  if not tokenizer.spiece:
    raise errors.UserError(f"{where} is no SentencePiece model: it is empty")
  with errors.reported(RuntimeError, f"{where} is no SentencePiece model"):
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=tokenizer.spiece)
  return processor.GetPieceSize() + tokenizer.extra_ids


def write(folder: pathlib.Path, tokenizer: Tokenizer,
          kept: epath.Path | None, decoder: bool = False) -> None:
  """Writes a tokenizer that `transformers.AutoTokenizer` loads.

  Args:
    folder: the Hugging Face folder.
    tokenizer: the model's.
    kept: files that came with an imported checkpoint; taken as they are if
      they are of the same tokenizer.
    decoder: whether prompts bring their end token themselves.
  """
  # Tokens that were added are none that the run has learned.
  if kept is not None and _same(kept, tokenizer) and (
      tokenizer.file is not None or not special_tokens.added_tokens(
          kept, tokenizer.spiece, tokenizer.extra_ids)):
    for name in KEPT[2:]:
      if (kept / name).is_file():
        epath.Path(kept / name).copy(folder / name, overwrite=True)
    if (folder / CONFIG_FILE).is_file():
      return
  if tokenizer.file is not None:
    keep(pathlib.Path(tokenizer.file).parent, folder, tokenizer)
    return
  name = "ByT5Tokenizer"
  if tokenizer.spiece is not None:
    (folder / SPIECE_FILE).write_bytes(tokenizer.spiece)
    name = "T5Tokenizer"
    if decoder or not tokenizer_json.is_like_t5(tokenizer.spiece):
      # That class would make T5's kind of tokenizer of the pieces.
      name = "PreTrainedTokenizerFast"
      found = tokenizer_json.of_spiece(tokenizer.spiece, tokenizer.extra_ids)
      if decoder:
        found["post_processor"] = None
      (folder / JSON_FILE).write_text(
          json.dumps(found, ensure_ascii=False), encoding="utf-8")
  config = {
      "tokenizer_class": name, "pad_token": "<pad>", "eos_token": "</s>",
      "unk_token": "<unk>", "extra_ids": tokenizer.extra_ids,
      "additional_special_tokens": [
          f"<extra_id_{i}>" for i in range(tokenizer.extra_ids)],
      # SentencePiece's own treatment of spaces around special tokens.
      "legacy": False,
      "clean_up_tokenization_spaces": False,
  }
  (folder / CONFIG_FILE).write_text(
      json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _same(kept: pathlib.Path, tokenizer: Tokenizer) -> bool:
  if tokenizer.file is not None:
    return ((kept / JSON_FILE).is_file() and (kept / JSON_FILE).read_bytes()
            == tokenizer.file.read_bytes())
  if tokenizer.spiece is None:
    return not (kept / SPIECE_FILE).is_file()
  return ((kept / SPIECE_FILE).is_file()
          and (kept / SPIECE_FILE).read_bytes() == tokenizer.spiece)
