"""HTML pages: one layout for all of them, every text escaped.

A page is one file that loads nothing from elsewhere. Its template extends
`layout.html`; `parts.html` has tables and figures.
"""

import functools
import pathlib
from typing import Any

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: pathlib.Path, **values: Any) -> str:
  """Returns the page of a template with these values."""
  return str(_environment(template.parent).get_template(
      template.name).render(values))


@functools.cache
def _environment(folder: pathlib.Path) -> Any:
  import jinja2

  return jinja2.Environment(
      loader=jinja2.FileSystemLoader([folder, _TEMPLATES]), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
