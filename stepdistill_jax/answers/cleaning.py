"""What does not belong to an answer, taken off before it is read.

`clean` works on a whole completion: thinking is set apart, special tokens, code
fences and bold marks go. `plain` works on an answer's own text: Markdown,
LaTeX, quotes and the final stop around it. Neither changes a text that has none
of that, and `output` in a teacher's cache stays as it came.
"""

import dataclasses
import html
import pathlib
import re
import tomllib

_THINKING = tomllib.loads(
    pathlib.Path(__file__).with_name("thinking.toml").read_text("utf-8"))
_BLOCKS = [(re.compile(opening, re.IGNORECASE),
            re.compile(closing, re.IGNORECASE | re.MULTILINE))
           for opening, closing in _THINKING["marks"]]
# Harmony: `<|channel|>analysis<|message|>…<|channel|>final<|message|>…`.
_CHANNEL = re.compile(
    r"(?:<\|start\|>\w*)?<\|channel\|>\s*(\w+)[^<]*"
    r"(?:<\|constrain\|>[^<]*)?<\|message\|>")
_BARE_FINAL = re.compile(r"\Aanalysis(?=[A-Z\W])(.*)assistantfinal", re.DOTALL)
_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|return|call|"
    r"END_RESPONSE|END_OF_TURN_TOKEN|assistant_end|eos)\|>|</s>|<eos>|"
    r"<end_of_turn>|<｜end▁of▁sentence｜>|\[/?INST\]")
_HEADER = re.compile(
    r"\s*(?:<\|(?:im_start|start|header_start)\|>\s*assistant\b|"
    r"<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|"
    r"<start_of_turn>\s*model\b|<\|assistant\|>|<｜Assistant｜>)\s*")
_SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_▁]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|"
    r"<(?:start|end)_of_turn>|\[/?INST\]|<unused\d+>")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*\w*[ \t]*(?:\n|\Z)", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)([^\n]*?\S)\1(?!\w)")

_WRAPPERS = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mathit|operatorname|emph|"
    r"underline)\s*\{")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_LATEX = {
    r"\times": "×", r"\cdot": "·", r"\div": "÷", r"\%": "%", r"\$": "$",
    r"\left": "", r"\right": "", r"\!": "", r"\,": " ", r"\;": " ",
    r"\:": " ", r"\quad": " ", r"\ ": " ", r"\approx": "≈", r"\&": "&",
    r"\_": "_", r"\#": "#", r"\sqrt": "√", r"\pi": "π",
    r"\{": "{", r"\}": "}", r"\circ": "°"}
_LATEX_NAME = re.compile(
    "|".join(re.escape(name) + (r"(?![A-Za-z])" if name[-1].isalpha() else "")
             for name in sorted(_LATEX, key=len, reverse=True)))
_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$")
_PAIRS = (("$", "$"), ('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"),
          ("‘", "’"), ("«", "»"), ("„", "“"), ("*", "*"), ("_", "_"),
          ("「", "」"), ("[", "]"), ("{", "}"))
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_LONG = 200  # Characters; a text of more may be about HTML.
_HTML = re.compile(
    r"</?(?:b|i|u|em|strong|mark|span|p|br|code)\s*/?>", re.IGNORECASE)
_STOPS = ".。!！,;、"
_LIST_MARK = re.compile(r"\A(?:[#>*•=→]+\s+|-\s+(?=\D))+")


@dataclasses.dataclass(frozen=True, slots=True)
class Cleaned:
  """A completion without what surrounds it.

  Attributes:
    text: what is left.
    thinking: what the model thought before its answer; empty if it did not,
      or did not say.
    removed: names of what was taken off: `thinking`, `special tokens`,
      `code fence`, `bold`.
  """

  text: str
  thinking: str = ""
  removed: tuple[str, ...] = ()


def clean(output: str) -> Cleaned:
  """Sets thinking apart and removes special tokens, fences and bold marks.

  >>> clean("<think>3? No, 7.</think>\\n3 + 4 = **7**.<|im_end|>")
  ... # doctest: +NORMALIZE_WHITESPACE
  Cleaned(text='3 + 4 = 7.', thinking='3? No, 7.',
          removed=('thinking', 'special tokens', 'bold'))

  A block that is never closed is thinking up to the end; before a closing tag
  alone everything is.
  """
  removed = []
  text, thinking = _split_thinking(output)
  if thinking is not None:
    removed.append("thinking")
  before = text
  if "<" in text or "[" in text:
    text = _HEADER.sub("", text, count=1) if _HEADER.match(text) else text
    lead = len(text) - len(text.lstrip())
    # What follows an end is not part of the answer.
    end = next((m for m in _ENDS.finditer(text) if m.start() > lead), None)
    text = _SPECIAL.sub("", text[:end.start()] if end else text)
  if text != before:
    removed.append("special tokens")
  if "```" in text or "~~~" in text:
    text = _FENCE.sub("", text)
    removed.append("code fence")
  if "**" in text or "__" in text:
    text, count = _BOLD.subn(r"\2", text)
    removed += ["bold"] if count else []
  if not removed:
    return Cleaned(output)
  return Cleaned(text.strip(), (thinking or "").strip(), tuple(removed))


def _split_thinking(text: str) -> tuple[str, str | None]:
  """Returns (the rest, the thinking or None)."""
  if not any(sign in text for sign in _THINKING["signs"]):
    return text, None
  if "<|channel|>" in text:
    parts = _CHANNEL.split(text)  # [before, name, text, name, text, ...]
    texts = list(zip(parts[1::2], parts[2::2]))
    final = [body for name, body in texts if name == "final"]
    thoughts = "\n".join(
        _SPECIAL.sub("", body).strip() for name, body in texts
        if name != "final")
    if texts:
      return (final[-1] if final else ""), thoughts
  if match := _BARE_FINAL.match(text):
    return text[match.end():], match[1]
  for opening, closing in _BLOCKS:
    *_, closed = [None, *closing.finditer(text)]
    if closed:
      thoughts = opening.sub("", closing.sub("", text[:closed.end()]))
      rest = text[closed.end():]
      if opened := opening.search(rest):  # Another block, cut by the limit.
        return rest[:opened.start()], f"{thoughts}\n{rest[opened.end():]}"
      return rest, thoughts
    if opened := opening.search(text):
      return text[:opened.start()], text[opened.end():]
  return text, None


def braced(text: str, start: int) -> int:
  """The end of the group whose brace opens just before `start`; -1 if none."""
  depth = 1
  for position in range(start, len(text)):
    if text[position] in "{}":
      depth += 1 if text[position] == "{" else -1
      if not depth:
        return position
  return -1


def without_latex(text: str) -> str:
  """LaTeX as plain text.

  >>> without_latex(r"\\(\\boxed{1\\frac{1}{2}}\\) \\text{hours}")
  '1 1/2 hours'
  """
  if "\\" not in text and "$$" not in text and "{," not in text:
    return text
  text = _DELIMITERS.sub("", text)
  text = _FRACTION.sub(
      lambda m: f" {m[1] if m[1] is not None else m[3]}/"
                f"{m[2] if m[2] is not None else m[4]} ", text)
  text = text.replace("{,}", ",").replace(r"^\circ", "°")
  at = 0
  while match := _WRAPPERS.search(text, at):
    end = braced(text, match.end())
    if end < 0:
      text = text[:match.start()] + text[match.end():]
    else:
      text = (text[:match.start()] + text[match.end():end] + text[end + 1:])
    at = match.start()
  text = _LATEX_NAME.sub(lambda m: _LATEX[m[0]], text)
  return re.sub(r" {2,}", " ", text).strip()


def plain(text: str, stops: str = _STOPS) -> str:
  """An answer's own text, without the decoration around it, and `stops`.

  >>> [plain(t) for t in ("**loans**.", r"\\boxed{loans}.", "`loans`", "3.")]
  ['loans', 'loans', 'loans', '3']
  """
  if not text.isascii():
    text = text.translate(_INVISIBLE)
  if ("&" in text or "<" in text) and len(text) < _LONG:
    text = _HTML.sub("", html.unescape(text))
  text = without_latex(text).replace("**", "").replace("`", "").strip()
  text = _LIST_MARK.sub("", text)
  before = None
  while text != before:
    before = text
    text = text.strip().rstrip(stops).strip()
    for opening, closing in _PAIRS:
      inner = text[1:-1]
      if (len(text) > 1 and text[0] == opening and text[-1] == closing and (
          opening not in inner and closing not in inner
          or inner[:1] == opening and inner[-1:] == closing)):
        text = inner
  return text
