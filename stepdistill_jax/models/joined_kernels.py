"""Kernels that multiply the same input, side by side in one.

XLA makes one matrix product of several with the same input, and for it puts
their kernels together: in a loop of layers at every turn. What a loop stacks
is put together here, once a step.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools
from typing import Any

import jax.numpy as jnp

# In the order in which XLA would put them together: then it does not.
_SAME_INPUT = (("value", "query", "key"), ("wi_0", "wi_1"))
_SAME_INPUT_CROSSING = (("value", "key"),)  # The queries are the decoder's.


def join(params: Any, name: str = "") -> Any:
  """Joins kernels `[in, out]` of one input to one, `[in, sum of outs]`.

  Args:
    params: of a layer of T5 or Llama, or of a module in it.
    name: of the module.

  Returns:
    The tree, in which a joined kernel is named after its parts.
  """
  if not isinstance(params, Mapping):
    return params
  together = _same_input(params, name)
  joined = {key: join(value, key) for key, value in params.items()
            if key not in together}
  if together:
    joined["+".join(together)] = jnp.concatenate(
        [params[part]["kernel"] for part in together], axis=1)
  return joined


def _same_input(params: Mapping[str, Any], name: str) -> tuple[str, ...]:
  crosses = name == "encoder_decoder_attention"
  for names in _SAME_INPUT_CROSSING if crosses else _SAME_INPUT:
    # Not with biases or adapters.
    if all(set(params.get(part, ())) == {"kernel"}
           and params[part]["kernel"].ndim == 2 for part in names):
      return names
  return ()


def separate(joined: Any, like: Any) -> Any:
  """The inverse of `join`.

  Args:
    joined: its result.
    like: its argument, for the shapes.
  """
  if not isinstance(like, Mapping):
    return joined
  params = {}
  for name, value in joined.items():
    if name in like:
      params[name] = separate(value, like[name])
      continue
    parts = name.split("+")
    ends = itertools.accumulate(
        like[part]["kernel"].shape[1] for part in parts[:-1])
    for part, kernel in zip(
        parts, jnp.split(value, list(ends), axis=1), strict=True):
      params[part] = {"kernel": kernel}
  return params
