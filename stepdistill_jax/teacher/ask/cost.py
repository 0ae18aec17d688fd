"""Tokens and dollars, before and while they are spent."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
import pathlib

from stepdistill_jax.records import vocabulary_losses
from stepdistill_jax.teacher.ask import requests
from stepdistill_jax.util import errors

CountTokens = Callable[[str], int]
# What a chat's template adds to each message, and to the whole, as a rule.
_TOKENS_A_MESSAGE, _TOKENS_A_CHAT = 4, 3
# English has about four characters a token; where a limit must hold, three
# bytes are the careful guess.
_CHARACTERS_A_TOKEN, _BYTES_A_TOKEN_AT_LEAST = 4, 3


@dataclasses.dataclass(frozen=True)
class Prices:
  """Dollars for a million tokens of prompt and of completion."""

  prompt_usd: float = 0.0
  completion_usd: float = 0.0

  def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
    """Dollars."""
    return (prompt_tokens * self.prompt_usd
            + completion_tokens * self.completion_usd) / 1e6

  def of_usage(self, usage: Mapping[str, int]) -> float:
    """Dollars for what a server says it used."""
    return self.cost(
        usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))


def most_tokens(text: str) -> int:
  """A careful number of tokens, where no tokenizer is named."""
  return -(-len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN_AT_LEAST)


def load_tokenizer(name: str) -> CountTokens:
  """Returns a function that counts a text's tokens.

  Args:
    name: a SentencePiece model (`spiece.model`), a `tokenizer.json` or a
      folder that has one, or the name of a tiktoken encoding (`cl100k_base`).

  Raises:
    errors.UserError: it is none of these, or its package is not installed.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    path = path / "tokenizer.json"
  if not path.is_file():
    if os.sep in name or path.suffix:
      raise errors.UserError(f"there is no file --tokenizer={path}")
    return _tiktoken(name)
  if path.suffix == ".json":
    return _hf_tokenizer(path)
  pieces = vocabulary_losses.load(path, "--tokenizer=")
  return lambda text: len(pieces.encode(text))


def _hf_tokenizer(path: pathlib.Path) -> CountTokens:
  import tokenizers

  with errors.reported(Exception, lambda error: (  # It raises plain ones.
      f"--tokenizer={path} is not a tokenizer file: {error}")):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _tiktoken(name: str) -> CountTokens:
  with errors.reported(
      ImportError, f"--tokenizer={name} is not a file, and as an encoding it "
      "needs the package `tiktoken`; run `pip install tiktoken`"):
    import tiktoken
  # Unknown, or its file cannot be fetched.
  with errors.reported(Exception, lambda error: (
      f"--tokenizer={name} is neither a file nor a tiktoken encoding that can "
      f"be loaded: {errors.first_line(error)}")):
    encoding = tiktoken.get_encoding(name)
  return lambda text: len(encoding.encode(text, disallowed_special=()))


class Estimator:
  """Estimates what a request will cost.

  Texts that come again (the exemplars) are counted once.
  """

  def __init__(self, prices: Prices, count: CountTokens | None):
    self.prices = prices
    # Likely number of a text's tokens.
    self.text_tokens = functools.lru_cache(maxsize=1024)(count or (
        lambda text: -(-len(text) // _CHARACTERS_A_TOKEN)))
    self._most = functools.lru_cache(maxsize=1024)(count or most_tokens)

  def prompt_tokens(self, request: requests.Request) -> int:
    """Likely number of the prompt's tokens."""
    return _count(request, self.text_tokens)

  def most_tokens(self, request: requests.Request) -> int:
    """The most tokens that the request can take, prompt and completions."""
    return (_count(request, self._most)
            + request.max_tokens * len(request.samples))

  def most_usd(self, request: requests.Request) -> float:
    """The most dollars that the request can cost."""
    return self.prices.cost(
        _count(request, self._most),
        request.max_tokens * len(request.samples))


def _count(request: requests.Request, count: CountTokens) -> int:
  if "prompt" in request.body:
    return sum(map(count, request.body["prompt"].split("\n\n")))
  return _TOKENS_A_CHAT + sum(
      _TOKENS_A_MESSAGE + count(message["content"])
      for message in request.body["messages"])
