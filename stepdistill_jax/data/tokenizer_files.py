"""A folder's `tokenizer.json` and the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import json
import pathlib
from typing import Any

from etils import epath

from stepdistill_jax.records import records
from stepdistill_jax.util import errors


def special_token(config: Mapping[str, Any], name: str) -> str | None:
  """The text of a token in `tokenizer_config.json`, written in either way."""
  token = config.get(name)
  if isinstance(token, Mapping):
    token = token.get("content")
  return token if isinstance(token, str) else None


@functools.cache
def beside(file: str, name: str) -> Mapping[str, Any]:
  """A JSON file of a tokenizer's folder; empty if there is none."""
  return read_json(pathlib.Path(file).parent / name, may_lack=True)


@functools.cache
def eos_id(file: str) -> int:
  """The id of the token that ends texts, as the tokenizer has it.

  Raises:
    errors.UserError: the folder names none.
  """
  token = special_token(beside(file, "tokenizer_config.json"), "eos_token")
  found = token and open_tokenizer(pathlib.Path(file)).token_to_id(token)
  for name in ("generation_config.json", "config.json"):
    if not isinstance(found, int):
      found = next(iter(_named_ends(file, name)), None)
  if not isinstance(found, int):
    raise errors.UserError(
        f"the folder of {file} names no end token: expected `eos_token` in "
        "tokenizer_config.json, or `eos_token_id` in config.json")
  return found


@functools.cache
def end_ids(file: str) -> frozenset[int]:
  """The ids, as the tokenizer has them, at which generation stops.

  Raises:
    errors.UserError: the folder names none, or some that are not ids.
  """
  return frozenset({eos_id(file), *_named_ends(file, "generation_config.json")})


def _named_ends(file: str, name: str) -> list[int]:
  """`eos_token_id` of a file of the folder, which may be a list of them."""
  found = beside(file, name).get("eos_token_id")
  ends = found if isinstance(found, list) else [] if found is None else [found]
  size = number_of_ids(file) if ends else 0
  if any(type(end) is not int or not 0 <= end < size for end in ends):
    raise errors.UserError(
        f"{pathlib.Path(file).parent / name}: eos_token_id is {found!r}; "
        f"expected ids from 0 to {size - 1:,}, as its tokenizer has them")
  return ends


def read_json(
    file: pathlib.Path | epath.Path, may_lack: bool = False) -> dict[str, Any]:
  """The JSON object in a file; with `may_lack`, empty if there is no file.

  Raises:
    errors.UserError: it holds something else.
  """
  if may_lack and not file.is_file():
    return {}
  with errors.reported(
      ValueError, lambda error: f"{file} is not valid JSON: {error}"):
    value = json.loads(file.read_text(encoding="utf-8"))
  if not isinstance(value, dict):
    raise errors.UserError(f"{file} holds no JSON object")
  return value


@functools.cache
def number_of_ids(file: str) -> int:
  """One more than the last id of a tokenizer.json.

  Raises:
    errors.UserError: it is none.
  """
  tokenizer = open_tokenizer(pathlib.Path(file))
  return max(tokenizer.get_vocab(with_added_tokens=True).values(),
             default=-1) + 1


def token_counter(
    file: pathlib.Path) -> Callable[[list[str]], list[int]]:
  """Counts the tokens of texts, with what is put before each of them."""
  tokenizer = open_tokenizer(file)

  def count(texts: list[str]) -> list[int]:
    encoded = tokenizer.encode_batch(
        [text.replace(records.EOS_TEXT, "\n") for text in texts])
    return [len(one.ids) for one in encoded]

  return count


@functools.cache
def open_tokenizer(file: pathlib.Path) -> Any:
  with errors.reported(ImportError, f"{file} needs the package tokenizers: "
                       "pip install tokenizers"):
    import tokenizers
  if not file.is_file():
    raise errors.UserError(
        f"there is no tokenizer at {file}; `stepdistill checkpoint import-hf` "
        "keeps a checkpoint's in the folder hf/ that it writes")
  with errors.reported(Exception, lambda error: (  # It raises these itself.
      f"{file} is no tokenizer.json: {str(error).splitlines()[0]}")):
    tokenizer = tokenizers.Tokenizer.from_str(file.read_text("utf-8"))
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer
