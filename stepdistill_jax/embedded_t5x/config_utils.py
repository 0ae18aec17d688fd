"""How T5X's scripts are started; this engine is configured by gin alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
import jax

from stepdistill_jax.embedded_t5x import gin_utils
from stepdistill_jax.util import errors


def using_fdl() -> bool:
  """Whether a flag of Fiddle's was given, where a script defines them."""
  return any(
      name in flags.FLAGS and flags.FLAGS[name].value
      for name in ("fdl_config", "fdl_config_file", "fdl_help"))


def config_with_fiddle(function: Callable[..., Any]) -> Any:
  """Raises InvalidValue: Fiddle's configurations are Google's T5X's."""
  raise errors.InvalidValue(
      f"{function.__name__} cannot be configured by Fiddle here; give gin "
      "files, or run Google's T5X (--engine=google)")


def run(main: Callable[[Sequence[str]], Any]) -> None:
  """`gin_utils.run`, with JAX's flags."""
  jax.config.parse_flags_with_absl()
  gin_utils.run(main)
