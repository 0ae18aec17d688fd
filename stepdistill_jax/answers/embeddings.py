"""How near two texts are by a model of sentence embeddings.

The package sentence-transformers reads a model's folder; it is an extra
(`pip install -c constraints.txt -e '.[embeddings]'`), and the model is the
user's: nothing is downloaded.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any

import numpy as np

from stepdistill_jax.util import errors


@functools.cache
def load(folder: str) -> Any:
  """Loads a model's folder, on the CPU.

  Raises:
    errors.UserError: the package is missing, or the folder is not a model's.
  """
  with errors.reported(
      ImportError, f"--embeddings={folder} needs the package "
      "sentence-transformers: `pip install -c constraints.txt -e "
      "'.[embeddings]'`"):
    import sentence_transformers
  if not os.path.isdir(folder):
    raise errors.UserError(
        f"--embeddings={folder} is not a folder; name one of a model, as "
        "sentence-transformers or transformers saves it")
  with errors.reported((OSError, ValueError, KeyError), lambda error: (
      f"--embeddings={folder} cannot be loaded: {errors.first_line(error)}")):
    return sentence_transformers.SentenceTransformer(
        os.path.abspath(folder), device="cpu", local_files_only=True)


def similarities(folder: str, texts: Sequence[str],
                 references: Sequence[Sequence[str]]) -> list[float | None]:
  """Cosine of each text's embedding with that of its best reference.

  Args:
    folder: of the model.
    texts: answers.
    references: of each text; () where there is none.

  Returns:
    In [-1, 1]; None of a text without a reference.
  """
  model = load(folder)
  distinct = list(dict.fromkeys(
      [*texts, *(reference for rs in references for reference in rs)]))
  vectors = np.asarray(model.encode(
      distinct, normalize_embeddings=True, show_progress_bar=False))
  at = {text: vector for text, vector in zip(distinct, vectors, strict=True)}
  return [max(float(at[text] @ at[r]) for r in rs) if rs else None
          for text, rs in zip(texts, references, strict=True)]
