"""How well graders agree: with each other, beyond chance, over the same pairs.

statsmodels and the package krippendorff compute the coefficients; intervals
are percentile bootstraps over items.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math
import warnings

import numpy as np
import pandas as pd

from stepdistill_jax.evaluation.judging import verdicts as verdicts_lib

_RESAMPLES = 1_000
_CATEGORIES = 3  # First, tie, second.


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How well some graders agree.

  Attributes:
    graders: their names.
    items: pairs that all of them graded.
    same: pairs on which all say the same.
    coefficient: `Cohen's κ` of two, `Fleiss' κ` of more.
    kappa: its value; None where it is not defined, as where all verdicts of
      all graders are the same.
    kappa_ci95: its interval.
    alpha: Krippendorff's α, nominal, over all pairs that two or more graded;
      None where it is not defined, or not asked for.
    alpha_ci95: its interval.
    alpha_items: those pairs.
  """

  graders: tuple[str, ...]
  items: int
  same: int
  coefficient: str
  kappa: float | None
  kappa_ci95: tuple[float, float] | None
  alpha: float | None
  alpha_ci95: tuple[float, float] | None
  alpha_items: int


def table_of(verdicts: Sequence[verdicts_lib.Verdict]) -> pd.DataFrame:
  """One row an item, one column a grader, cells 0 (first), 1 (tie), 2 (second).

  Of a grader who saw both orders the mean decides, so that a verdict that
  flips is a tie. What could not be read is NaN.
  """
  frame = pd.DataFrame([dataclasses.asdict(v) for v in verdicts])
  means = frame.pivot_table(
      index="item", columns="grader", values="preference",
      aggfunc=lambda values: values.mean(skipna=False), dropna=False,
      sort=False)
  return np.sign(means - 0.5) + 1


def agree(table: pd.DataFrame, graders: Sequence[str] | None = None, *,
          alpha: bool = True, seed: int = 0) -> Agreement:
  """Computes how well graders agree.

  Args:
    table: as of `table_of`.
    graders: which of its columns; by default all.
    alpha: compute Krippendorff's α, too.
    seed: of the bootstrap.

  Raises:
    ValueError: fewer than two graders.
  """
  graders = list(table.columns if graders is None else graders)
  if len(graders) < 2:
    raise ValueError(f"agreement needs two graders, got {graders}")
  chosen = table[graders]
  whole = chosen.dropna().to_numpy(dtype=int)
  some = chosen[chosen.notna().sum(axis=1) >= 2].to_numpy()
  kappa = _cohen if len(graders) == 2 else _fleiss
  return Agreement(
      graders=tuple(map(str, graders)), items=len(whole),
      same=int((whole == whole[:, :1]).all(axis=1).sum()),
      coefficient="Cohen's κ" if len(graders) == 2 else "Fleiss' κ",
      kappa=kappa(whole), kappa_ci95=_interval(kappa, whole, seed),
      alpha=_krippendorff(some) if alpha else None,
      alpha_ci95=_interval(_krippendorff, some, seed) if alpha else None,
      alpha_items=len(some))


def agree_in_pairs(table: pd.DataFrame, *, seed: int = 0) -> list[Agreement]:
  """The agreement of each two graders who have an item in common."""
  found = (agree(table, pair, alpha=False, seed=seed)
           for pair in itertools.combinations(table.columns, 2))
  return [agreement for agreement in found if agreement.items]


def _cohen(ratings: np.ndarray) -> float | None:
  """Cohen's κ (Cohen 1960) of `[items, 2]` categories."""
  from statsmodels.stats import inter_rater

  counts = np.zeros((_CATEGORIES, _CATEGORIES))
  np.add.at(counts, (ratings[:, 0], ratings[:, 1]), 1)
  return _defined(
      lambda: inter_rater.cohens_kappa(counts, return_results=False))


def _fleiss(ratings: np.ndarray) -> float | None:
  """Fleiss' κ (Fleiss 1971) of `[items, graders]` categories."""
  from statsmodels.stats import inter_rater

  counts = np.stack([(ratings == category).sum(axis=1)
                     for category in range(_CATEGORIES)], axis=1)
  return _defined(lambda: inter_rater.fleiss_kappa(counts))


def _krippendorff(ratings: np.ndarray) -> float | None:
  """Krippendorff's α of `[items, graders]` categories with NaN."""
  import krippendorff

  if len(np.unique(ratings[~np.isnan(ratings)])) < 2:
    return None
  return _defined(lambda: krippendorff.alpha(
      reliability_data=ratings.T, level_of_measurement="nominal",
      value_domain=list(range(_CATEGORIES))))


def _defined(compute: Callable[[], float]) -> float | None:
  """A coefficient; None where it divides by zero."""
  with warnings.catch_warnings(), np.errstate(all="ignore"):
    warnings.simplefilter("ignore")
    value = float(compute())
  return value if math.isfinite(value) else None


def _interval(compute: Callable[[np.ndarray], float | None],
              ratings: np.ndarray, seed: int) -> tuple[float, float] | None:
  """Percentile interval over resampled items; None where there is none."""
  if len(ratings) < 2:
    return None
  rng = np.random.default_rng(seed)
  values = [compute(ratings[rng.integers(0, len(ratings), len(ratings))])
            for _ in range(_RESAMPLES)]
  finite = [value for value in values if value is not None]
  if not finite:
    return None
  low, high = np.quantile(finite, [0.025, 0.975])
  return float(low), float(high)
