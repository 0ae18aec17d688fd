"""Metrics of summaries and conversations, of one answer each.

| metric | what |
|---|---|
| `rouge1`, `rouge2`, `rougeL` | F1 of stemmed words, by rouge-score; with the
  best of several references |
| `rouge1_mean`, … | likewise the mean over several references |
| `chrf` | F2 of character n-grams (Popović 2015), by sacrebleu |
| `words` | length |
| `entity_density` | distinct entities a word (Adams et al. 2023), by spaCy |
| `repetition` | share of 4-grams of words that came before |
| `refusal` | 1 where the answer declines, by a rule |

All but `words` are in [0, 1]. Without a model of spaCy a rule finds entities.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import re

from stepdistill_jax.answers import text_overlap
from stepdistill_jax.records import datasets

# Kind of labels -> its metrics, the one that systems are compared by first.
OF_KIND: Mapping[str, tuple[str, ...]] = {
    datasets.SUMMARY: ("rougeL", "rouge1", "rouge2", "chrf", "words",
                       "entity_density", "repetition"),
    datasets.CONVERSATION: ("chrf", "rougeL", "words", "repetition", "refusal")}
# Metrics that say how well an answer agrees with the label; the others say
# something of it alone.
AGAINST_LABEL = ("rougeL", "rouge1", "rouge2", "chrf")

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_NGRAM = 4


def score(kind: str, labels: Sequence[str], text: str) -> dict[str, float]:
  """The metrics of one answer.

  Args:
    kind: one of `OF_KIND`.
    labels: right answers; empty where there is none.
    text: the answer.

  Returns:
    Metric -> value; without labels those of the answer alone.
  """
  found: dict[str, float] = {}
  scored = [rouge(label, text) for label in labels]
  for name in OF_KIND[kind]:
    if name not in AGAINST_LABEL:
      found[name] = _OF_TEXT[name](text)
    elif labels and name == "chrf":
      found[name] = chrf(labels, text)
    elif labels:
      found[name] = max(values[name] for values in scored)
  if len(labels) > 1:
    found |= {f"{name}_mean": value for name, value in means(scored).items()
              if name in found}
  return found


def reference_rule(most: int) -> str:
  """By what an answer is compared with up to `most` references, in words."""
  return "one reference" if most < 2 else (
      f"up to {most} references: ROUGE of an answer is that with the best of "
      "them, _mean the mean over them; chrF is likewise the best")


def rouge(label: str, text: str) -> Mapping[str, float]:
  """ROUGE-1, -2 and -L, as F1 with Porter's stemmer."""
  return {name: float(value.fmeasure)
          for name, value in text_overlap.rouge_scorer(
              "rouge1", "rouge2", "rougeL", stems=True).score(
                  label, text).items()}


def read_by_rouge(text: str) -> bool:
  """Whether at least half of a text's letters are of a to z.

  rouge-score leaves all others out: of Chinese texts every ROUGE is 0.
  """
  letters = [letter.isascii() for letter in text if letter.isalpha()]
  return 2 * sum(letters) >= len(letters)


def chrf(labels: Sequence[str], text: str) -> float:
  """chrF2 of one answer, in [0, 1]; by sacrebleu with the best reference."""
  import sacrebleu

  return sacrebleu.sentence_chrf(text, list(labels)).score / 100


def words(text: str) -> float:
  return float(len(_WORD.findall(text)))


def repetition(text: str) -> float:
  """Share of a text's 4-grams of words that stood in it before."""
  tokens = [word.lower() for word in _WORD.findall(text)]
  grams = list(zip(*(tokens[i:] for i in range(_NGRAM)), strict=False))
  return 1 - len(set(grams)) / len(grams) if grams else 0.0


_REFUSAL = re.compile(
    # "I'm sorry to hear that" is no refusal.
    r"\bI(?:['’]m| am) (?:sorry\b(?! to hear| for your| about)|"
    r"(?:unable|not able)\b)"
    r"|\bI (?:can(?:not|['’]t)|won['’]t|will not|do not|don['’]t) "
    r"(?:provide|help|assist|answer|discuss|support|comply|generate|create|"
    r"engage|fulfill|give|offer|share|write)\b"
    # Nor is "as an AI, I try to use many words".
    r"|\bas an AI\b[^.!?]*?\b(?:not?|cannot|never|unable|\w+n['’]t)\b",
    re.IGNORECASE)
_OPENING = 200  # Characters in which an answer that declines says so.


def refusal(text: str) -> float:
  """1.0 where an answer's opening declines."""
  return float(_REFUSAL.search(text[:_OPENING]) is not None)


def entity_density(text: str) -> float:
  """Distinct entities a word; 0 of an empty text."""
  return len(_find_entities()(text)) / words(text) if words(text) else 0.0


def entity_method() -> str:
  """By what entities are found: a model of spaCy, or `rule`."""
  models = _spacy_models()
  return f"spaCy {models[0]}" if models else "rule"


def _spacy_models() -> Sequence[str]:
  try:
    import spacy
  except ImportError:
    return ()
  return sorted(spacy.util.get_installed_models())


@functools.cache
def _find_entities() -> Callable[[str], set[str]]:
  models = _spacy_models()
  if not models:
    return entities_by_rule
  import spacy

  model = spacy.load(models[0])
  return lambda text: {found.text.lower() for found in model(text).ents}


_OPENERS = frozenset(text_overlap.WORDS["openers"])
# Capitals of the Latin, Greek and Cyrillic alphabets: Émile is a name, too.
_CAPITAL = f"[{''.join(filter(str.isupper, map(chr, range(0x530))))}]"
_SPAN = re.compile(
    rf"#?(?:{_CAPITAL}[\w'’-]*\d*#?|\$?\d[\d,.:]*\d%?|\$?\d%?)"
    rf"(?:(?:\.? (?:of )?|-)(?:{_CAPITAL}[\w'’-]*|\d[\d,.]*))*"
    rf"|\b(?:{'|'.join(text_overlap.WORDS['numbers'])})\b")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!Mr\.|Ms\.|Dr\.|St\.)(?<!Mrs\.)\s+")


def entities_by_rule(text: str) -> set[str]:
  """Spans of capitalized words, numbers and dates, in lower case.

  A word that begins a sentence counts unless it is one of the common openers.
  """
  found: set[str] = set()
  for sentence in _SENTENCE.split(text):
    for match in _SPAN.finditer(sentence):
      span = match[0]
      first, space, rest = span.partition(" ")
      if _bare(first) in _OPENERS:
        span = rest if space else ""
      if span and span != "I":
        found.add(_bare(span))
  return found


def _bare(span: str) -> str:
  return re.sub(r"(?:n['’]t|['’](?:s|ll|d|re|ve|m)?)$", "", span.lower()
                ).rstrip(".,:")


_OF_TEXT: Mapping[str, Callable[[str], float]] = {
    "words": words, "repetition": repetition, "refusal": refusal,
    "entity_density": entity_density}


def means(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """The mean of each metric over the answers that have it."""
  found: dict[str, list[float]] = {}
  for values in scores:
    for name, value in values.items():
      found.setdefault(name, []).append(value)
  return {name: sum(values) / len(values) for name, values in found.items()}
