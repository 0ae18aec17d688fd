"""Prompts as data: one TOML file for a data set and a kind of prompt.

The file's name without `.toml` is the prompt's id; the sha256 of its bytes is
its version, which a teacher cache records. See `prompt.Prompt` for the keys,
and `docs/own_data.md` for how to add one.
"""

from stepdistill_jax.teacher.prompts.files import find, list_prompts, load_file
from stepdistill_jax.teacher.prompts.prompt import Prompt

__all__ = ["Prompt", "find", "list_prompts", "load_file"]
