"""The share of a text's words that another text has: audit, filters, scores.

One measure, so that a filter's threshold can be chosen from an audit and a
student's rationales compared with its teacher's.
"""

import functools
import pathlib
import re
import tomllib
from typing import Any

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
WORDS = {name: text.split() for name, text in tomllib.loads(pathlib.Path(
    __file__).with_name("words.toml").read_text("utf-8")).items()}
_COMMON = frozenset(WORDS["common"])


def content_words(text: str) -> set[str]:
  """The words and numbers of a text, in lower case, without common words."""
  return set(_WORD.findall(text.lower())) - _COMMON


def share_found(text: str, source: str) -> float | None:
  """Share of the content words of `text` that `source` has too.

  >>> share_found("The dog runs fast.", "A dog runs.")
  0.6666666666666666

  Returns:
    From 0 to 1, each distinct word once; None where `text` has none.
  """
  words = content_words(text)
  if not words:
    return None
  return len(words & content_words(source)) / len(words)


@functools.cache
def rouge_scorer(*metrics: str, stems: bool) -> Any:
  """The scorer of the rouge-score package."""
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(metrics, use_stemmer=stems)


def rouge_l(reference: str, text: str) -> float:
  """ROUGE-L F1 of two texts, in [0, 1], by the rouge-score package."""
  if reference == text:  # A teacher's own line: 1, unless there is no word.
    return float(re.search(r"[a-z0-9]", text.lower()) is not None)
  scorer = rouge_scorer("rougeL", stems=False)
  return float(scorer.score(reference, text)["rougeL"].fmeasure)
