"""JSON objects inside a model's text, also where the JSON is not quite right.

Models write it in fences and between words, with trailing commas, single
quotes, raw newlines, and with LaTeX whose backslashes JSON would take for
escapes (`\\frac` is a form feed and `rac`). `json_repair` mends the syntax;
the backslashes are mended here before that.
"""

from collections.abc import Collection
import itertools
import json
import re
from typing import Any

# Places to try; a text of nothing but `{` must not take long.
_MOST_TRIES = 30
_OPENING = re.compile(r"\{\s*[\"'“”]?[A-Za-z_][\w\- ]{0,40}[\"'“”]?\s*:")
_LIST = re.compile(r"\[\s*\{")
_MOST_CHARS = 50_000
_DECODER = json.JSONDecoder(strict=False)
# A value that wants quotation marks, which a parser would cut: `3 + 4`, `1/2`.
_BARE = re.compile(
    r"""([{,]\s*["'“”]?[A-Za-z_][\w\- ]{0,40}["'“”]?\s*:\s*)"""
    r"""(?!(?:true|false|null)\b)([^\s"'“\[{}](?:[^"'“”\n{}]|\{[^{}\n]*\})*?)"""
    r"""(?=\s*(?:,?\s*(?://[^\n]*)?[}\n]|,\s*["'“]|,\s*[A-Za-z_]\w*\s*:|\Z))""",
    re.IGNORECASE)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[A-Za-z]+|[\s\S]|\Z)")
_WORDS = re.compile(r"[\s\-]+|(?<=[a-z])(?=[A-Z])")  # Between words of keys.
# Those that begin with the letter of an escape; after `\b` and `\f` any letter
# is LaTeX, as a backspace or a form feed before a letter means nothing.
_LATEX = frozenset(
    "neq ne nu nabla not notin nmid right rightarrow rho rangle rfloor rceil "
    "rm rbrace tfrac tan tanh theta tau text textbf textit textrm times "
    "therefore triangle to tilde top".split())


def find_object(
    text: str, keys: Collection[str]
) -> tuple[dict[str, Any], bool, int] | None:
  r"""Returns the last object that has one of the keys, or None.

  The last, as a model may repeat an example's object before its own.

  >>> find_object('Sure: {"Answer": "\\(\\frac{1}{2}\\)",}', ["answer"])
  ({'answer': '\\(\\frac{1}{2}\\)'}, True, 6)

  Args:
    text: any text.
    keys: in lower case, `_` between words.

  Returns:
    The object with its keys in that form, whether its last value was closed,
    and where it begins (counted in the text with its escapes mended).
  """
  if "{" not in text:
    return None
  text = text[-_MOST_CHARS:]
  if '{\\"' in text:
    text = _inner_text(text)
  text = _ESCAPE.sub(_escaped, text)
  found, end = None, 0
  for match in itertools.islice(_OPENING.finditer(text), _MOST_TRIES):
    if match.start() < end:
      continue  # Within the one that was found.
    try:
      value, after = _DECODER.raw_decode(text, match.start())
      closed = True
    except (ValueError, RecursionError):
      value, after, closed = _repaired(text, match.start())
    if value := _folded(value, keys):
      found, end = (value, closed, match.start()), after
  return found


def _inner_text(text: str) -> str:
  """JSON that is a JSON string's text, without the string's escapes."""
  start = text.rfind('"', 0, text.index('{\\"'))
  try:
    return str(_DECODER.raw_decode(text, max(start, 0))[0])
  except (ValueError, RecursionError):
    return text.replace('\\"', '"')


def _escaped(match: re.Match[str]) -> str:
  """A backslash as JSON needs it for what the writer meant."""
  whole, rest = str(match[0]), str(match[1])
  if re.fullmatch("u[0-9a-fA-F]{4}", rest):
    return whole
  if rest == "'":  # As in JavaScript; no string ends here.
    return "\\u0027"
  if rest[:1] in ("b", "f"):
    return "\\" + whole if len(rest) > 1 else whole
  if rest[:1] in ("n", "r", "t"):
    return "\\" + whole if rest in _LATEX else whole
  return whole if rest and rest in '"\\/' else "\\" + whole


def _repaired(text: str, at: int) -> tuple[Any, int, bool]:
  """(the mended object, its end, whether its last value was closed)."""
  import json_repair

  end = _object_end(text, at)
  piece = text[at:] if end < 0 else text[at:end]
  if piece.count("{") > 200 or piece.count("[") > 200:
    return None, len(text), False
  try:
    value = json_repair.loads(
        _BARE.sub(lambda m: m[1] + json.dumps(m[2].strip()), piece),
        skip_json_loads=True)
  except (ValueError, RecursionError, IndexError, TypeError):
    value = None
  ended = re.sub(r"[\s`}\],]+\Z", "", piece)
  closed = end >= 0 or ended[-1:] in "\"'”" or ended != piece.rstrip()
  return value, at + len(piece), closed


def _object_end(text: str, at: int) -> int:
  """The end of the object at `at` by its braces and double quotes, or -1."""
  depth, quoted, skip = 0, False, False
  for position in range(at, len(text)):
    character = text[position]
    if skip:
      skip = False
    elif character == "\\":
      skip = True
    elif character == '"':
      quoted = not quoted
    elif not quoted and character in "{}":
      depth += 1 if character == "{" else -1
      if not depth:
        return position + 1
  return -1


def _folded(value: Any, keys: Collection[str]) -> dict[str, Any] | None:
  """The object with folded keys; None without one of those asked for."""
  if not isinstance(value, dict):
    return None
  folded = {_WORDS.sub("_", str(key).strip()).lower(): item
            for key, item in value.items()}
  if any(key in folded for key in keys):
    return folded
  return None


def find_list(
    text: str, list_keys: Collection[str], keys: Collection[str]
) -> tuple[list[dict[str, Any]] | None, bool]:
  """The objects of a JSON list, as chain of density has them.

  Args:
    text: has the list alone, or in an object under one of `list_keys`.
    list_keys: see there.
    keys: objects with none of these are left out.

  Returns:
    The objects with their keys in lower case, None without such a list; and
    whether it was closed.
  """
  found = find_object(text, list_keys)
  if found:
    items = next(found[0][key] for key in list_keys if key in found[0])
    closed = found[1]
  else:
    items, closed = _bare_list(text, keys)
  if not isinstance(items, list):
    return None, closed
  return [folded for item in items if (folded := _folded(item, keys))], closed


def _bare_list(text: str, keys: Collection[str]) -> tuple[Any, bool]:
  """The last list of objects with one of the keys, and whether it is closed."""
  text = _ESCAPE.sub(_escaped, text[-_MOST_CHARS:])
  found: tuple[Any, bool] = None, False
  end = 0
  for match in itertools.islice(_LIST.finditer(text), _MOST_TRIES):
    start = match.start()
    if start < end:
      continue  # Within the one that was found.
    try:
      items, after = _DECODER.raw_decode(text, start)
      closed = True
    except (ValueError, RecursionError):
      value, _, closed = _repaired('{"list": ' + text[start:], 0)
      items = value.get("list") if isinstance(value, dict) else None
      after = len(text)
    if isinstance(items, list) and any(_folded(item, keys) for item in items):
      found, end = (items, closed), after
  return found
