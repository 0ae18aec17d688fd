"""The data sets and benchmarks that are declared, a TOML file each.

`tasks/NAME.toml` has `title`, `teachers` (whose tasks are registered by name,
with or without records), `licence` and `note` (what an import says of the
rows), and

* `[rows]`: how a source's rows are read. `kind` of the labels; `files`, the
  names of row files by split, the first found wins; `held_out`, `labels`,
  `file_mark`, `undivided_test_rows`, `expressions`, `gold` as in
  `datasets.Dataset`; and the columns:
  `inputs` (several are joined by newlines), `label` (of several the first that
  a row has), `references` (further labels) and `rationale`, or a
  `reader` of `datasets` for rows of a form of their own;
* `[benchmark]`: how answers are scored. `kind`, if it is not that of the rows;
  `score_rule`, one line for reports; `labels`; `decode_length`;
* or `members`: the data sets of a union.
"""

from collections.abc import Mapping
import functools
import pathlib
import tomllib
from typing import Any

from stepdistill_jax.util import errors, locations

_KEYS = {
    "": ("title", "teachers", "members", "licence", "note", "rows",
         "benchmark"),
    "rows": ("kind", "reader", "inputs", "label", "rationale", "files",
             "held_out", "labels", "file_mark", "undivided_test_rows",
             "expressions", "references", "gold"),
    "benchmark": ("kind", "score_rule", "labels", "decode_length"),
}


def read_toml(path: pathlib.Path) -> dict[str, Any]:
  """The table of a TOML file; raises UserError if it is not one."""
  with errors.reported(
      (OSError, ValueError), lambda error: f"{path} cannot be read: {error}"):
    return tomllib.loads(path.read_text("utf-8"))


@functools.cache
def tables() -> Mapping[str, Mapping[str, Any]]:
  """Every declaration by its name, sorted.

  Raises:
    errors.UserError: a file is not TOML, or has an unknown key.
  """
  found = {}
  for path in sorted((locations.resource_root() / "tasks").glob("*.toml")):
    table = read_toml(path)
    for section, known in _KEYS.items():
      keys = table.get(section, {}) if section else table
      if not isinstance(keys, dict):
        raise errors.UserError(f"{path}: {section} must be a table")
      for key in keys:
        errors.require_known("key", key, known, f"({path}, {section or 'top'})")
    found[path.stem] = table
  return found


def section(name: str) -> dict[str, dict[str, Any]]:
  """The tables of one kind, by data set: `rows` or `benchmark`."""
  return {dataset: dict(table[name]) for dataset, table in tables().items()
          if name in table}


def value(dataset: str, key: str, default: Any) -> Any:
  """A value of a data set's declaration, such as its `teachers`."""
  return tables().get(dataset, {}).get(key, default)
