"""Gin bindings of a base class, for a subclass that is used in its place."""

from __future__ import annotations

from typing import Any

import gin


def of(cls: type) -> dict[str, Any]:
  """The values that gin files bind to a class; {} where none do.

  A gin file that says `trainer.Trainer.num_microbatches = 4` means the
  trainer of the run, also when a subclass of it runs. Gin itself would leave
  the subclass alone, and the user would not notice.
  """
  try:
    return dict(gin.get_bindings(cls))
  except ValueError:  # Nothing was ever bound to the class.
    return {}
