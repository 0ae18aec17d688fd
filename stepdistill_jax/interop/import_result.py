"""What an import leaves: its result, and the files beside the checkpoint."""

from __future__ import annotations

import dataclasses
import pathlib

import ml_dtypes
import numpy as np

from stepdistill_jax.interop import architecture

PROVENANCE_FILE = "import.json"
HF_FOLDER = "hf"
# What a user may choose; None leaves a dtype as it is.
DTYPES = {"source": None, "original": None, "float32": np.dtype(np.float32),
          "bfloat16": np.dtype(ml_dtypes.bfloat16),
          "float16": np.dtype(np.float16)}


@dataclasses.dataclass(frozen=True)
class Imported:
  """What was written.

  Attributes:
    checkpoint: its folder.
    model_file: the gin file.
    arch: the architecture.
    parameters: how many numbers.
    nbytes: read.
    no_recipe: why no recipe can train it; else empty.
    spiece: its SentencePiece model, where it came with one.
  """

  checkpoint: pathlib.Path
  model_file: pathlib.Path
  arch: architecture.AnyArchitecture
  parameters: int
  nbytes: int
  no_recipe: str = ""
  spiece: pathlib.Path | None = None
