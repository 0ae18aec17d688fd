"""Examples of two data sets' lengths, with tokens that mean nothing."""

from __future__ import annotations

import numpy as np

# Pieces, EOS included, at the percentiles 0, 10, ... 100 of the records of
# SVAMP and ANLI R1 with PaLM's rationales.
_DECILES = {
    "svamp": {"inputs": (19, 31, 34, 37, 39, 41, 45, 48, 51, 56, 73),
              "label": (8, 9, 9, 10, 10, 10, 10, 11, 15, 16, 19),
              "rationale": (9, 24, 27, 30, 33, 35, 39, 44, 49, 58, 99)},
    "anli1": {"inputs": (61, 82, 87, 91, 95, 100, 105, 110, 117, 128, 201),
              "label": (2, 2, 2, 2, 2, 2, 2, 5, 5, 5, 5),
              "rationale": (11, 15, 18, 20, 23, 26, 30, 33, 38, 43, 143)}}
DATASETS = tuple(_DECILES)
EOS, _FIRST, _VOCABULARY = 1, 3, 32000


def pairs(dataset: str, number: int, seed: int = 0) -> list[dict[str, list]]:
  """`inputs`, `label` and `rationale` of each record, as ids that end in EOS.

  The two inputs of a record differ in their prefix alone, and so not here.
  """
  rng = np.random.default_rng(seed)
  lengths = {name: np.interp(rng.uniform(0, 10, number), np.arange(11), deciles)
             .round().astype(int)
             for name, deciles in _DECILES[dataset].items()}
  return [{name: [*rng.integers(_FIRST, _VOCABULARY, sizes[i] - 1), EOS]
           for name, sizes in lengths.items()} for i in range(number)]
