"""Gin helpers that gin files and train scripts name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import app
from etils import epath
import gin
import jax

from stepdistill_jax.config import gin_arguments, gin_config


@gin.configurable
def get_gin_config_str(show_provenance: bool = False) -> str:
  """The current configuration as gin text.

  Args:
    show_provenance: say where values come from; needs gin-config > 0.5.
  """
  if show_provenance:
    return gin.config_str(show_provenance=True)
  return gin.config_str()


def parse_gin_flags(
    gin_search_paths: Sequence[str], gin_files: Sequence[str],
    gin_bindings: Sequence[str], skip_unknown: bool | Sequence[str] = False,
    finalize_config: bool = True) -> None:
  """Parses gin files and bindings; see `gin_config.parse`."""
  gin_config.parse(gin_files, gin_bindings, gin_search_paths, skip_unknown)
  if not finalize_config:
    gin.config._set_config_is_locked(False)


rewrite_gin_args = gin_arguments.rewrite


def run(main: Callable[[Sequence[str]], Any]) -> None:
  """`absl.app.run` with gin's arguments rewritten."""
  app.run(main, flags_parser=lambda args: app.parse_flags_with_usage(
      list(rewrite_gin_args(args))))


@gin.register
def summarize_gin_config(model_dir: str, summary_writer, step: int) -> None:
  """Writes `config.gin` to a folder, and to TensorBoard if there is one."""
  if jax.process_index() != 0:
    return
  text = get_gin_config_str()
  folder = epath.Path(model_dir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.gin").write_text(text)
  if summary_writer is not None:
    summary_writer.write_texts(step, {"config": gin.markdown(text)})
    summary_writer.flush()


@gin.configurable
def sum_fn(var1=gin.REQUIRED, var2=gin.REQUIRED):
  """var1 + var2, for gin files."""
  return var1 + var2


@gin.configurable
def bool_fn(var1=gin.REQUIRED):
  """bool(var1), for gin files."""
  return bool(var1)


@gin.configurable
def string_split_fn(
    text=gin.REQUIRED, separator=gin.REQUIRED, maxsplit=-1, index=None):
  """text.split(separator, maxsplit), or its element `index`."""
  values = text.split(separator, maxsplit)
  return values if index is None else values[index]
