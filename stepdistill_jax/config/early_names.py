"""Names in gin files, looked up in sources before anything is imported.

What a gin file binds is known when its modules are imported, TensorFlow and
JAX among them: that takes seconds, and a misspelt name is found at their end.
Here the modules of this package are read with `ast` instead. Only what gin
would refuse is refused: what is not certain passes, and gin decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import importlib.machinery
import pathlib
import re
from typing import Any, TextIO

from gin import config_parser

from stepdistill_jax.util import errors, t5x_finder

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Decorators that keep the arguments of what they decorate.
_TRANSPARENT = {
    "cache", "lru_cache", "contextmanager", "configurable", "dataclass",
    "followed_by_class", "followed_by_function"}
# Packages that gin files import and that register nothing with gin.
_SILENT = {"__main__", "clu", "flax", "jax", "numpy", "optax"}


@dataclasses.dataclass(frozen=True)
class Name:
  """A selector in gin text: what it names, by which import, and where.

  Attributes:
    selector: such as `network.T5Config`.
    argument: bound of it, or "".
    statement: the import of its first name; None if there is none.
    where: for messages.
  """

  selector: str
  argument: str
  statement: config_parser.ImportStatement | None
  where: str


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%NAME` as a value."""

  name: str

  def __str__(self) -> str:
    return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/selector` as a value, or `@scope/selector()`."""

  name: str
  evaluated: bool

  def __str__(self) -> str:
    return f"@{self.name}" + ("()" if self.evaluated else "")


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass
class Text:
  """What gin files and bindings say.

  Attributes:
    names: selectors of files that register what they name.
    macros: macro -> its last value.
    arguments: `scope/selector.argument` -> its last value.
    used: macros that values refer to.
    imports: of all files, the first of a name counts.
  """

  names: list[Name] = dataclasses.field(default_factory=list)
  macros: dict[str, Any] = dataclasses.field(default_factory=dict)
  arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
  used: set[str] = dataclasses.field(default_factory=set)
  imports: dict[str, config_parser.ImportStatement] = dataclasses.field(
      default_factory=dict)

  def value(self, name: str) -> Any:
    """The value of a macro or argument, macros followed; None for none."""
    value = self.arguments.get(name, self.macros.get(name))
    for _ in range(8):
      if not isinstance(value, Macro):
        return value
      value = self.macros.get(value.name)
    return None


class _Delegate(config_parser.ParserDelegate):
  """Collects what a value refers to."""

  def __init__(self) -> None:
    self.references: list[str] = []
    self.macros: list[str] = []

  def configurable_reference(
      self, scoped_configurable_name: str, evaluate: bool) -> Any:
    self.references.append(scoped_configurable_name.rpartition("/")[2])
    return Reference(scoped_configurable_name, evaluate)

  def macro(self, macro_name: str) -> Any:
    self.macros.append(macro_name)
    return Macro(macro_name)


def read(source: str | TextIO, into: Text) -> Iterator[str]:
  """Reads gin text, without importing what it imports.

  Args:
    source: a file, or the bindings of a command line.
    into: takes what it says.

  Yields:
    Names of included files; to be read before what follows.
  """
  delegate = _Delegate()
  symbols: dict[str, config_parser.ImportStatement] = {}
  registers = False
  name = getattr(source, "name", "")

  def named(selector: str, argument: str, location: Any) -> None:
    where = f'In file "{name}", line {location.line_num}' if name else ""
    if registers or not name:
      into.names.append(Name(selector, argument, symbols.get(
          selector.partition(".")[0]), where))

  for statement in config_parser.ConfigParser(source, delegate):
    if isinstance(statement, config_parser.IncludeStatement):
      yield statement.filename
    elif isinstance(statement, config_parser.ImportStatement):
      if statement.module.startswith("__gin__."):
        registers = True
        continue
      symbols[statement.bound_name()] = statement
      into.imports.setdefault(statement.bound_name(), statement)
    elif isinstance(statement, config_parser.BlockDeclaration):
      named(statement.selector, "", statement.location)
    else:
      scope = f"{statement.scope}/" if statement.scope else ""
      bound = f"{scope}{statement.selector}"
      if statement.arg_name:
        named(statement.selector, statement.arg_name, statement.location)
        into.arguments[f"{bound}.{statement.arg_name}"] = statement.value
      else:
        into.macros[bound] = statement.value
    for reference in delegate.references:
      named(reference, "", statement.location)
    into.used.update(delegate.macros)
    delegate.references.clear()
    delegate.macros.clear()


# ------------------------------------------------------------------- sources


def _file_of(module: str) -> pathlib.Path | None:
  """A module's source; None if it is not one of this package's."""
  if module == "t5x" or module.startswith("t5x."):
    if t5x_finder.google_t5x_installed():
      return None
    module = t5x_finder.EMBEDDED + module[len("t5x"):]
  package, *parts = module.split(".")
  if package != _PACKAGE.name:
    return None
  path = _PACKAGE.joinpath(*parts)
  for file in (path / "__init__.py", path.with_suffix(".py")):
    if file.is_file():
      return file
  return None


@functools.cache
def _top_level(module: str) -> Mapping[str, Any] | None:
  """Name -> its definition, (module, name) of an import, or None if it is
  something else; None for a module that is not known in full."""
  file = _file_of(module)
  if file is None:
    return None
  found: dict[str, Any] = {
      p.name.removesuffix(".py"): None for p in file.parent.iterdir()
  } if file.name == "__init__.py" else {}
  for node in ast.parse(file.read_text("utf-8")).body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      found[node.name] = None if node.name in found else node
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        if alias.name == "*" and not node.level:
          of_module = _top_level(node.module or "")
          if of_module is None:
            return None
          found |= {name: (node.module, name) for name in of_module
                    if not name.startswith("_")}
        else:
          found[alias.asname or alias.name] = (
              None if node.level else (node.module, alias.name))
    elif isinstance(node, (ast.Import, ast.Assign, ast.AnnAssign)):
      for name in ast.walk(node):
        if isinstance(name, ast.alias):
          found[(name.asname or name.name).partition(".")[0]] = None
        elif isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
          found[name.id] = None
    elif not isinstance(node, ast.Expr):  # What it binds is not looked at.
      for name in ast.walk(node):
        for text in (getattr(name, "id", ""), getattr(name, "name", ""),
                     getattr(name, "asname", "")):
          if text:
            found[str(text)] = None
  return None if "__getattr__" in found else found


def _definition(module: str, name: str) -> tuple[Any, str]:
  """(the `ast` node of a name or None, the module that it is in)."""
  for _ in range(8):  # Imports of imports.
    names = _top_level(module)
    node = None if names is None else names.get(name)
    if not isinstance(node, tuple):
      return node, module
    module, name = node
  return None, module


def _definition_of_base(base: ast.expr, module: str) -> tuple[Any, str]:
  """`_definition` of a base class, `Name` or `module.Name`."""
  if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
    imported = (_top_level(module) or {}).get(base.value.id)
    if isinstance(imported, tuple):
      return _definition(".".join(imported), base.attr)
  if isinstance(base, ast.Name):
    return _definition(module, base.id)
  return None, module


def _is_dataclass(node: ast.ClassDef) -> bool:
  return any(_word(d) == "dataclass" for d in node.decorator_list)


def _word(node: ast.expr) -> str:
  """The last name of an expression such as `a.b(c)`."""
  node = node.func if isinstance(node, ast.Call) else node
  return getattr(node, "attr", getattr(node, "id", ""))


def _arguments(node: Any, module: str) -> list[str] | None:
  """What can be bound of a function or class; None where that is unclear."""
  if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or any(
      _word(d) not in _TRANSPARENT for d in node.decorator_list):
    return None
  if isinstance(node, ast.FunctionDef):
    args = node.args
    if args.kwarg is not None:
      return None
    return [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
  if node.keywords:
    return None
  methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
  if "__new__" in methods:
    return None
  if "__init__" in methods:
    arguments = _arguments(methods["__init__"], module)
    return arguments and arguments[1:]  # Without `self`.
  is_dataclass = _is_dataclass(node)
  inherited: list[str] = []
  for base in node.bases:
    definition = _definition_of_base(base, module)
    of_base = _arguments(*definition)
    if of_base is None:
      return None
    if not is_dataclass or _is_dataclass(definition[0]):
      inherited += of_base
  if is_dataclass:
    fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)
              and isinstance(n.target, ast.Name)]
    return [*inherited, *fields]
  return inherited if len(node.bases) == 1 else None


def _module_of(
    statement: config_parser.ImportStatement, selector: str
) -> tuple[str, list[str]]:
  """(module, the names after it) of a selector of a gin file."""
  parts = selector.split(".")
  if statement.is_from or statement.alias:
    return statement.module, parts[1:]
  module = statement.module.split(".")
  if parts[:-1][:len(module)] != module:
    return "", []
  return statement.module, parts[len(module):]


def _import_of(
    name: Name, text: Text, t5x_modules: Mapping[str, str]
) -> config_parser.ImportStatement | None:
  """The import of a name's first part; of a command line that of the files.

  There it may also be T5X's module of that name.
  """
  if name.statement or name.where:
    return name.statement
  first = name.selector.partition(".")[0]
  if first in text.imports or "." not in name.selector:
    return text.imports.get(first)
  module = t5x_modules.get(first, f"t5x.{first}")
  return config_parser.ImportStatement(module, True, None, None)


def mistake(name: Name, text: Text, t5x_modules: Mapping[str, str]) -> str:
  """What is wrong with a name, as gin would find; "" if nothing is for sure.

  Args:
    name: of `text`.
    text: all that gin reads.
    t5x_modules: first names of T5X's modules that are not `t5x.NAME`.
  """
  statement = _import_of(name, text, t5x_modules)
  if statement is None:
    return ""
  module, rest = _module_of(statement, name.selector)
  names = _top_level(module) if rest else None
  where = f"({name.where})" if name.where else ""
  if names is None:
    return ""
  if rest[0] not in names:
    # On a command line it may be anything that is registered elsewhere.
    if not name.where and (_foreign(text) or _is_somewhere(rest[0])):
      return ""
    first = name.selector.removesuffix("." + ".".join(rest))
    return "gin config: " + errors.unknown_name_message(
        "gin configurable", name.selector,
        [f"{first}.{n}" for n, node in names.items()
         if node is not None and not n.startswith("_")], where)
  if len(rest) > 1 or not name.argument:
    return ""
  arguments = _arguments(*_definition(module, rest[0]))
  if arguments is None or name.argument in arguments:
    return ""
  return "gin config: " + errors.unknown_name_message(
      f"argument of {name.selector}", name.argument, arguments, where)


def _foreign(text: Text) -> bool:
  """Whether files import modules of others, which may register anything."""
  return any(
      statement.module.partition(".")[0] not in (
          *_SILENT, "seqio", "t5x", _PACKAGE.name)
      for statement in text.imports.values()) or (
          t5x_finder.google_t5x_installed())


def _is_somewhere(word: str) -> bool:
  """Whether a word is in the sources of this package or of SeqIO."""
  folders = [_PACKAGE]
  seqio = importlib.machinery.PathFinder.find_spec("seqio")
  if seqio is not None and seqio.origin:
    folders.append(pathlib.Path(seqio.origin).parent)
  pattern = re.compile(rf"\b{re.escape(word)}\b")
  return any(pattern.search(file.read_text("utf-8"))
             for folder in folders for file in folder.rglob("*.py")
             if not file.name.endswith("_test.py"))


def is_resource(name: str) -> bool:
  """Whether a gin file's name is that of a file in an installed package."""
  package, _, rest = name.partition("/")
  spec = importlib.machinery.PathFinder.find_spec(package)
  return spec is not None and any(
      (pathlib.Path(folder) / rest).is_file()
      for folder in spec.submodule_search_locations or ())
