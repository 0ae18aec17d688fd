"""A study: a TOML file that names a grid of runs, and what to expect of them.

docs/studies.md has the format. Here it is read and checked, and becomes cells:
a data set, a method, a size, a share of the data and a teacher each, which
several seeds and, where something is swept, several settings are run of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import pathlib
import re
import tomllib
from typing import Any

from stepdistill_jax.config import gin_values
from stepdistill_jax.study import gin_names
from stepdistill_jax.util import errors, locations

AXES = ("datasets", "methods", "sizes", "shares", "teachers")
# What a sweep may choose, and its macro.
SWEPT = {"alpha": "ALPHA", "learning_rate": "LEARNING_RATE", "beta": "BETA"}
TEACHER_LINE = "teacher"  # As a method in [[expected]].
_DEFAULTS: Mapping[str, Sequence[Any]] = {
    "shares": (1.0,), "teachers": ("palm540b",), "seeds": (0, 1, 2, 3)}
_GRID_KEYS = (*AXES, "seeds", "name", "run", "gin", "sweep")
_KEYS = (*_GRID_KEYS, "title", "students", "limit", "grid", "expected")
_EXPECTED_KEYS = (*AXES, "percent", "source")
_TYPES = {"datasets": str, "methods": str, "sizes": str, "teachers": str,
          "shares": (int, float), "seeds": int, "percent": (int, float)}
_WORDS = {str: "texts", int: "whole numbers"}
_LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "shares": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "percent": (lambda value: 0 <= value <= 100, "from 0 to 100"),
    "seeds": (lambda value: value >= 0, "0 or more")}
# Of a grid: its runs would have the names of a sweep's, or of other seeds'.
_LIKE_A_SETTING = re.compile(rf"({'|'.join((*SWEPT, 'seed'))})\d*")


@dataclasses.dataclass(frozen=True)
class Cell:
  """What several seeds are run of.

  Attributes:
    dataset: such as `svamp`.
    method: of `gin_names.method_names`.
    size: of `gin_names.sizes`.
    share: of the train data.
    teacher: whose records; empty where a method needs none.
    variant: the name of its grid, mostly empty.
  """

  dataset: str
  method: str
  size: str
  share: float
  teacher: str
  variant: str = ""

  @property
  def name(self) -> str:
    """Of folders."""
    return "-".join(filter(None, (
        self.dataset, self.method, self.size, f"{100 * self.share:g}pct",
        self.teacher, self.variant)))


@dataclasses.dataclass(frozen=True)
class Grid:
  """The cells of one [[grid]], with all that they share.

  Attributes:
    cells: in the file's order.
    seeds: of each.
    run: name of a file in gin/runs; empty for the recipes' own.
    gin: bindings, name to value.
    sweep: what is chosen on validation, SWEPT's name to values.
    sweep_seeds: by which.
  """

  cells: tuple[Cell, ...]
  seeds: tuple[int, ...]
  run: str
  gin: Mapping[str, Any]
  sweep: Mapping[str, Sequence[float]]
  sweep_seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Study:
  """A study file, read.

  Attributes:
    name: of the file.
    title: in a line.
    grids: what to run.
    students: size to where its student begins: an import's folder, a name on
      the Hugging Face hub, or `random`.
    limit: score so many examples alone; None for all.
    expected: the papers' accuracies, cell to (share, source). A cell with the
      method TEACHER_LINE is a teacher's own line.
    text: of the file.
  """

  name: str
  title: str
  grids: tuple[Grid, ...]
  students: Mapping[str, str]
  limit: int | None
  expected: Mapping[Cell, tuple[float, str]]
  text: str


def packaged() -> dict[str, pathlib.Path]:
  """The studies that come with the project."""
  return {path.stem: path for path in sorted(
      (locations.resource_root() / "gin" / "studies").glob("*.toml"))}


def find(name: str) -> pathlib.Path:
  """A study's file, from its path or name.

  Raises:
    errors.UserError: there is none.
  """
  if pathlib.Path(name).is_file():
    return pathlib.Path(name)
  if "/" in name or name.endswith(".toml"):
    raise errors.UserError(f"there is no file {name}")
  errors.require_known("study", name, packaged(),
                       "(or pass the path of a TOML file)")
  return packaged()[name]


def read(path: pathlib.Path,
         teachers: Mapping[str, str] | None = None) -> Study:
  """Reads a study file.

  Args:
    path: of the file.
    teachers: others to put in the places of those that it names.

  Raises:
    errors.UserError: it is not TOML, or says what cannot be.
  """
  with errors.reported(
      (OSError, ValueError), lambda error: f"{path} cannot be read: {error}"):
    text = path.read_text(encoding="utf-8")
    table = tomllib.loads(text)
  where = str(path)
  _check_keys(table, _KEYS, where)
  grids = table.pop("grid", [{}])
  expected = table.pop("expected", [])
  for name, tables in (("grid", grids), ("expected", expected)):
    if not isinstance(tables, list) or not all(
        isinstance(t, dict) for t in tables):
      raise errors.UserError(
          f"{where}: {name} must be [[{name}]] tables, got {tables!r:.60}")
  limit, students = table.get("limit"), table.get("students", {})
  title = table.get("title", path.stem)
  if not isinstance(title, str):
    raise errors.UserError(f"{where}: title must be a text, got {title!r}")
  if limit is not None and (type(limit) is not int or limit < 1):
    raise errors.UserError(
        f"{where}: limit must be a whole number from 1 on, got {limit!r}")
  if not isinstance(students, dict) or not all(
      isinstance(v, str) and v for v in students.values()):
    raise errors.UserError(
        f"{where}: [students] must have texts, a size's student each")
  gin_names.check((), (), students, f"{where}, [students]")
  renamed = teachers or {}
  found = [_grid(
      table, grid, renamed,
      f"{where}, [[grid]] {number}" if len(grids) > 1 else where)
      for number, grid in enumerate(grids, 1)]
  _check_renamed(renamed, found, where)
  run = {dataclasses.replace(cell, variant="")
         for grid in found for cell in grid.cells}
  return Study(
      path.stem, title, tuple(found), students, limit,
      _expected(expected, table, renamed, run, where), text)


def _check_renamed(renamed, grids, where) -> None:
  known = {cell.teacher for grid in grids for cell in grid.cells}
  for old, new in renamed.items():
    if new not in known:  # So the study does not name `old`.
      raise errors.UserError(errors.unknown_name_message(
          "teacher", old, filter(None, known), f"({where})"))


def _check_keys(table: Mapping[str, Any], known: Sequence[str],
                where: str) -> None:
  for key in table:
    errors.require_known("key", key, known, f"({where})")


def _table(table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
  value = table.get(key, {})
  if not isinstance(value, dict):
    raise errors.UserError(
        f"{where}: {key} must be a table of names and values, got "
        f"{value!r:.60}")
  return value


def _values(table: Mapping[str, Any], key: str, where: str) -> tuple[Any, ...]:
  """The values of an axis, checked."""
  values = table.get(key, _DEFAULTS.get(key))
  kind = _TYPES[key]
  if not isinstance(values, (list, tuple)) or not values or not all(
      isinstance(v, kind) and not isinstance(v, bool) for v in values):
    got = "nothing" if values is None else f"{values!r:.60}"
    raise errors.UserError(
        f"{where}: {key} must be a list of {_WORDS.get(kind, 'numbers')}, got "
        f"{got}")
  fits, expected = _LIMITS.get(key, (lambda value: True, ""))
  if not all(map(fits, values)):
    raise errors.UserError(f"{where}: {key} must be {expected}, got {values}")
  if key != "percent":
    _check_differ(values, key, where)
  return tuple(map(float, values) if key == "shares" else values)


def _check_differ(values: Sequence[Any], key: str, where: str) -> None:
  """Raises UserError for values that would give their runs one name."""
  names = [v if isinstance(v, (str, int)) else f"{v:g}" for v in values]
  if len(set(names)) < len(names):
    raise errors.UserError(
        f"{where}: {key} names one twice: {list(values)}" + (
            "" if isinstance(values[0], (str, int))
            else " (six digits count)"))


def _cells(table: Mapping[str, Any], renamed: Mapping[str, str], where: str,
           variant: str = "") -> Iterator[Cell]:
  """The product of a table's axes, in their order."""
  axes = [_values(table, axis, where) for axis in AXES]
  gin_names.check(*axes[:3], where, (TEACHER_LINE,))
  for dataset, method, size, share, teacher in itertools.product(*axes):
    yield Cell(
        dataset, method, size, share, renamed.get(teacher, teacher)
        if gin_names.needs_teacher(method) else "", variant)


def _grid(study: Mapping[str, Any], own: Mapping[str, Any],
          renamed: Mapping[str, str], where: str) -> Grid:
  """A [[grid]], with what it does not say from the study."""
  _check_keys(own, _GRID_KEYS, where)
  table = {**study, **own, "gin": {
      **_table(study, "gin", where), **_table(own, "gin", where)}}
  _check_quoted(table["gin"], where)
  variant, run = (table.get(key, "") for key in ("name", "run"))
  for key, value in (("name", variant), ("run", run)):
    if not isinstance(value, str) or not value.replace("_", "a").isalnum() and (
        value):
      raise errors.UserError(
          f"{where}: {key} must be a name of letters, digits and _, got "
          f"{value!r}")
  if _LIKE_A_SETTING.fullmatch(variant):
    raise errors.UserError(
        f"{where}: name = {variant!r} is how settings of a sweep and seeds are "
        "named; take another")
  if run:
    gin_names.check_run(run, where)
  cells = dict.fromkeys(_cells(table, renamed, where, variant))
  if any(cell.method == TEACHER_LINE for cell in cells):
    raise errors.UserError(
        f"{where}: {TEACHER_LINE!r} is not run; it stands in [[expected]]")
  seeds = _values(table, "seeds", where)
  sweep = dict(_table(table, "sweep", where))
  sweep_seeds = _values(sweep, "seeds", f"{where}, sweep") if (
      "seeds" in sweep) else seeds[:1]
  sweep.pop("seeds", None)
  _check_keys(sweep, (*SWEPT, "seeds"), f"{where}, sweep")
  for key, values in sweep.items():
    _check_swept(key, values, where)
  return Grid(tuple(cells), seeds, run, table["gin"], sweep, sweep_seeds)


def _check_quoted(gin: Mapping[str, Any], where: str) -> None:
  """Raises UserError for `gin.network.T5Config.dropout_rate = 0.0`.

  TOML has tables in tables there, and gin a macro that nothing uses.
  """
  for name, value in gin.items():
    path, inner = name, value
    while isinstance(inner, dict) and inner and (
        "." not in name and not name.isupper()):
      path, inner = f"{path}.{next(iter(inner))}", next(iter(inner.values()))
    if path != name:
      raise errors.UserError(
          f"{where}: gin.{name} is a table; a name with dots needs quotes: "
          f"gin.\"{path}\" = {inner!r:.60}")


def _check_swept(key: str, values: Any, where: str) -> None:
  if not isinstance(values, list) or not values or not all(
      isinstance(v, (int, float)) and not isinstance(v, bool)
      and math.isfinite(v) for v in values):
    raise errors.UserError(
        f"{where}: sweep.{key} must be a list of numbers, got {values!r}")
  _check_differ(values, f"sweep.{key}", where)
  rule = gin_values.RULES.get(SWEPT[key])
  for value in values:
    if rule is not None and not rule.allows(value):
      raise errors.UserError(
          f"{where}: sweep.{key} must have values that are each "
          f"{rule.expected}; got {value!r}")


def _expected(entries, table, renamed, run: set[Cell], where: str
              ) -> dict[Cell, tuple[float, str]]:
  """The accuracies that papers have: the product of the axes, in order."""
  defaults = {key: table[key] for key in AXES if key in table}
  found: dict[Cell, tuple[float, str]] = {}
  for number, entry in enumerate(entries, 1):
    here = f"{where}, [[expected]] {number}"
    _check_keys(entry, _EXPECTED_KEYS, here)
    source = entry.get("source", "")
    if not isinstance(source, str):
      raise errors.UserError(f"{here}: source must be a text, got {source!r}")
    # No teacher has a part in some methods' cells.
    cells = list(dict.fromkeys(_cells({**defaults, **entry}, renamed, here)))
    percent = _values(entry, "percent", here)
    if len(percent) != len(cells):
      raise errors.UserError(
          f"{here}: percent has {len(percent)} numbers for {len(cells)} cells "
          f"({' × '.join(AXES)})")
    for cell, value in zip(cells, percent):
      if cell.method != TEACHER_LINE and cell not in run:
        raise errors.UserError(
            f"{here}: no [[grid]] runs {cell.name}; did you mean: " + ", ".join(
                errors.near_names(cell.name, [c.name for c in run], 3)) + "?")
      if cell in found:
        raise errors.UserError(
            f"{here}: {cell.name} has an accuracy already, "
            f"{100 * found[cell][0]:g}")
      found[cell] = value / 100, source
  return found
