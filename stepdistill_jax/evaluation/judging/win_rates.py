"""Who wins, and what a judge's verdicts depend on besides the answers."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

import pandas as pd

from stepdistill_jax.evaluation import cost, statistics
from stepdistill_jax.evaluation.judging import (
  pairs as pairs_lib,
  verdicts as verdicts_lib,
)

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class WinRate:
  """What one grader's verdicts come to.

  Attributes:
    grader: a model's or a person's name.
    pairs: pairs with a verdict that could be read in every order asked.
    unreadable: pairs with one that could not.
    first: pairs whose first answer is better.
    ties: pairs that are equal.
    second: pairs whose second answer is better.
    flipped: those of the ties whose verdicts name another answer in each
      order.
    win_rate: of the second system: the mean preference, a tie counting half.
    ci95: its percentile bootstrap interval over pairs.
    shown_first: verdicts for the answer that stood first, of those for one
      whose order is known: `count`, `n`, `share` and Wilson's `ci95`.
      Without a position bias of a judge who saw both orders it is a half.
    longer: decided pairs whose longer answer won, of those of other lengths;
      likewise.
  """

  grader: str
  pairs: int
  unreadable: int
  first: int
  ties: int
  second: int
  flipped: int
  win_rate: float | None
  ci95: Interval | None
  shown_first: Mapping[str, Any]
  longer: Mapping[str, Any]


def of_graders(pairs: pairs_lib.Pairs,
               verdicts: Sequence[verdicts_lib.Verdict], *, seed: int = 0
               ) -> list[WinRate]:
  """The win rate of the second system by each grader, in order."""
  by_grader: dict[str, list[verdicts_lib.Verdict]] = {}
  for verdict in verdicts:
    by_grader.setdefault(verdict.grader, []).append(verdict)
  return [_of_grader(pairs.pairs, grader, said, seed)
          for grader, said in by_grader.items()]


def _of_grader(pairs: Mapping[str, pairs_lib.Pair], grader: str,
               verdicts: Sequence[verdicts_lib.Verdict], seed: int) -> WinRate:
  frame = pd.DataFrame([dataclasses.asdict(v) for v in verdicts])
  frame["preference"] = frame["preference"].astype(float)
  means = frame.groupby("item", sort=False)["preference"].agg(
      lambda values: values.mean(skipna=False))
  spread = frame.groupby("item", sort=False)["preference"].agg(
      lambda values: values.max() - values.min())
  read = means.dropna()
  decided = read[read != verdicts_lib.TIE]
  longer = [_prefers_longer(pairs[str(item)], value)
            for item, value in decided.items()]
  single = frame[frame["preference"].notna()
                 & (frame["preference"] != verdicts_lib.TIE)
                 & (frame["order"] != verdicts_lib.NOT_SAID)]
  shown_first = (single["preference"] < verdicts_lib.TIE) == (
      single["order"] == verdicts_lib.GIVEN)
  return WinRate(
      grader=grader, pairs=len(read), unreadable=int(means.isna().sum()),
      first=int((read < verdicts_lib.TIE).sum()),
      ties=int((read == verdicts_lib.TIE).sum()),
      second=int((read > verdicts_lib.TIE).sum()),
      flipped=int((spread[read.index] == 1.0).sum()),
      win_rate=float(read.mean()) if len(read) else None,
      ci95=statistics.bootstrap_interval(read.to_numpy(), seed=seed)
      if len(read) else None,
      shown_first=_share(int(shown_first.sum()), len(shown_first)),
      longer=_share(sum(filter(None, longer)),
                    sum(value is not None for value in longer)))


def _share(count: int, n: int) -> dict[str, Any]:
  """A share of `n` with Wilson's interval; None of nothing."""
  return {"count": count, "n": n, "share": count / n if n else None,
          "ci95": statistics.wilson_interval(count, n) if n else None}


def _prefers_longer(pair: pairs_lib.Pair, preference: float) -> bool | None:
  """None where the answers have the same number of characters."""
  difference = len(pair.second) - len(pair.first)
  if not difference:
    return None
  return bool((difference > 0) == (preference > verdicts_lib.TIE))


def family(model: str) -> str | None:
  """The family of a model by its name, such as `llama`; None if unknown."""
  words = re.findall(r"[a-z]+\d?", model.lower())
  for name, known in cost.MODELS["families"].items():
    if any(word.rstrip("0123456789") == name or word == name for word in words):
      return known
  return None


def self_preference(judge: str, systems: Mapping[str, str]) -> list[str]:
  """Warnings for systems that are, or learned from, the judge's own family.

  Args:
    judge: the judge's name.
    systems: of each system or teacher its name, and what it is in words.
  """
  own = family(judge)
  return [
      f"judge {judge} is of the same family ({own}) as {what} {name}: judges "
      "tend to prefer their own family's answers; grade with another, too"
      for name, what in systems.items()
      if own is not None and family(name) == own]
