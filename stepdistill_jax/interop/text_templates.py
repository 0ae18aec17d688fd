"""Gin files and model cards, from the templates beside this module."""

import json
import pathlib
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
    trim_blocks=True, undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True)
_ENVIRONMENT.filters.update(repr=repr, tojson=json.dumps)


def render(name: str, **values: Any) -> str:
  """Returns the text of a template with these values; nothing is escaped."""
  return _ENVIRONMENT.get_template(name).render(values)
