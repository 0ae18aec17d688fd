"""Gin files for T5X runs: found, parsed, and their mistakes reported.

T5X's gin files are found by T5X's names on the embedded engine too: gin looks
`t5x/configs/runs/finetune.gin` up as a resource of the package `t5x.configs`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import copy
import difflib
import importlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
import tokenize
import types
from typing import Any

import gin
from gin import config_parser

from stepdistill_jax.config import early_names, gin_types, gin_values
from stepdistill_jax.util import errors, locations

_EMBEDDED_ROOT = pathlib.Path(__file__).resolve().parents[1] / "embedded_t5x"
# Long enough that gin never breaks a value; it also draws rules that long.
_LONG_LINE = 20_000
# A macro that nothing uses and that looks this much like one that is used is a
# misspelling; T5X lets others pass, as in commands shared by many gin files.
_MISSPELT = 0.8
# Macros that files which do not know them would ignore -> what to do.
_MUST_BE_USED = dict.fromkeys(
    ("LEARNING_RATE_SCHEDULE", "WARMUP_STEPS"),
    "include gin/runs/paper.gin, or set the files' own schedule")
_PARSING_ERRORS = (
    OSError, ValueError, SyntaxError, NameError, AttributeError, ImportError,
    TypeError, KeyError, RecursionError, tokenize.TokenError)
# Modules that T5X's gin files name otherwise than `from t5x import NAME`.
_T5X_MODULES = {"network": "t5x.examples.t5.network", "seqio": "seqio"}
# Macros and arguments that name what a run reads its parameters from, or
# writes.
_FOLDERS = re.compile(
    r"\w*(MODEL_DIR|OUTPUT_DIR|CHECKPOINT_PATH)|"
    r"(.*\.)?(model_dir|output_dir|RestoreCheckpointConfig\.path)")


def _embedded_path(path: str) -> pathlib.Path | None:
  """The embedded file of a name such as `t5x/configs/runs/finetune.gin`."""
  if not path.startswith("t5x/"):
    return None
  embedded = _EMBEDDED_ROOT / path.removeprefix("t5x/")
  return embedded if embedded.is_file() else None


def _open_remote(path: str) -> Any:
  from etils import epath
  return epath.Path(path).open("r")


def _remote_exists(path: str) -> bool:
  if "://" not in path:
    return False
  from etils import epath
  return bool(epath.Path(path).exists())


def search_paths(extra: Sequence[str] = ()) -> list[str]:
  """Folders that gin files are relative to, best first."""
  paths = [*extra, ".", str(locations.resource_root())]
  spec = importlib.util.find_spec("t5x")
  origin = getattr(spec, "origin", None)
  if origin and _EMBEDDED_ROOT not in pathlib.Path(origin).parents:
    paths.append(str(pathlib.Path(origin).parent.parent))  # Google's T5X.
  return list(dict.fromkeys(paths))


def _gin_files_below(folders: Sequence[str]) -> Iterator[str]:
  for folder in folders:
    for name in ("gin", "t5x"):
      for path in sorted((pathlib.Path(folder) / name).rglob("*.gin")):
        yield str(path.relative_to(folder))
  for path in sorted(_EMBEDDED_ROOT.rglob("*.gin")):
    yield "t5x/" + str(path.relative_to(_EMBEDDED_ROOT))


def _folders_of(
    gin_files: Sequence[str], extra_search_paths: Sequence[str]) -> list[str]:
  """The folders to search, in which, or elsewhere, all the files are."""
  folders = search_paths(extra_search_paths)
  for name in gin_files:
    _check_file(name, folders)
  return folders


def _check_file(name: str, folders: Sequence[str]) -> None:
  if _remote_exists(name) or _embedded_path(name) or any(
      os.path.isfile(os.path.join(folder, name)) for folder in folders):
    return
  raise errors.UserError(errors.unknown_name_message(
      "gin file", name, set(_gin_files_below(folders)),
      "(looked in "
      f"{', '.join(dict.fromkeys(map(os.path.abspath, folders)))})"))


def _arguments_of(selector: str) -> list[str]:
  """What can be bound of a configurable that a gin file or command names."""
  registry = gin.config._REGISTRY
  # A file's `import ... as` may give it another module's name.
  found = registry.matching_selectors(selector) or (
      registry.matching_selectors(selector.rpartition(".")[2]))
  if not found:
    return []
  wrapped = registry[found[0]].wrapped
  return [name for name, p in inspect.signature(wrapped).parameters.items()
          if name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _selectors_near(selector: str) -> list[str]:
  """Names that a selector may stand for: registered ones, its module's."""
  registry = gin.config._REGISTRY
  parts = selector.count(".") + 1
  names = [".".join(name.split(".")[-parts:]) for name, _ in registry.items()]
  first = selector.partition(".")[0]
  if (statement := _import_of(first)) is not None:
    with contextlib.suppress(ImportError):
      module = importlib.import_module(statement.module)
      names += [f"{first}.{name}" for name, value in vars(module).items()
                if isinstance(value, (types.FunctionType, type))
                and not name.startswith("_")]
  return names


def _explain_name(message: str) -> str:
  """Names what is near to one that gin does not know; else ""."""
  argument = re.match(
      r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'\.?",
      message)
  lookup = argument or re.match(
      r"No configurable matching (?:reference )?'@?(?:[\w/]+/)?([\w.]+?)"
      r"(?:\(\))?'\.?", message) or re.match(
          r"Couldn't resolve selector ([\w.]+); .*? has no attribute \w+\.",
          message)
  if lookup is None:
    return ""
  where = re.sub(r"^In bindings string line \d+ |\s*\^$", "",
                 message[lookup.end():].strip())
  where = f"({where})" if where else ""
  if argument:
    return errors.unknown_name_message(
        f"argument of {argument[1]}", argument[2], _arguments_of(argument[1]),
        where)
  return errors.unknown_name_message(
      "gin configurable", lookup[1], _selectors_near(lookup[1]), where)


def _explain_value(message: str, bindings: Sequence[str]) -> str:
  """What is wrong with a value that is not a Python literal."""
  token = re.search(r"Failed to parse token '(.*?)' \((.*?)\)", message)
  if token is not None:  # What gin says of it has an address in memory.
    where = "" if token[2].startswith("line ") else f" ({token[2]})"
    message = f"{token[1]} is not a value{where}"
  near = next((b for b in bindings if re.search(
      r"=\s*[A-Za-z_./~]" if token is None else re.escape(token[1]),
      "=" + b.partition("=")[2])
               and not re.search(r"=\s*(True|False|None)\b", b)), "")
  name, _, value = (part.strip() for part in near.partition("="))
  rule = gin_values.RULES.get(name)
  if rule is not None and not rule.is_text:
    return f"{name} must be {rule.expected}; got {value}"
  if near:
    text = "..."
    if token is not None and re.fullmatch(r"[\w./~:-]+", value):
      message = f"{value} is not a value"  # Gin names a path's first part.
      text = value
    message += f"; a string needs quotes: --gin.{name}='\"{text}\"'"
  return f"gin config: {message}"


def _explain(error: Exception, bindings: Sequence[str]) -> str:
  """Makes a line of gin's message."""
  if isinstance(error, RecursionError):
    files = re.findall(r'include (["\'].*?["\'])', str(error))
    return ("gin config: files include themselves: "
            f"{', '.join(dict.fromkeys(files))}")
  message = " ".join(str(error).split())
  if isinstance(error, KeyError):  # Shows its text, of two names, in quotes.
    message = re.sub(r'^"(.*?)"(?= |$)', r"\1", message)
  # A macro that is nowhere set: all of the configuration follows.
  message = re.sub(
      r"No bindings specified for '(.*)/gin\.macro' in config string: .*",
      r"%\1 is used and never set; set it with --gin.\1=VALUE", message)
  if any(of_gin in message for of_gin in (
      "malformed node or string", "Failed to parse token",
      "Unable to parse value")):
    return _explain_value(message, bindings)
  return f"gin config: {_explain_name(message) or message}"


def _explained(
    bindings: Sequence[str]) -> contextlib.AbstractContextManager[None]:
  """Makes a line of what gin raises inside."""
  return errors.reported(
      _PARSING_ERRORS, lambda error: _explain(error, bindings))


def _import_of(selector: str) -> config_parser.ImportStatement | None:
  """The import of a selector's first name: that of the files, else T5X's."""
  name = selector.partition(".")[0]
  for statement in gin.config._IMPORTS:
    if statement.bound_name() == name:
      return statement
  module = _T5X_MODULES.get(name, f"t5x.{name}")
  in_full = re.match(r"t5x\.[a-z\d_.]+(?=\.)", selector)
  if in_full:  # What follows is a class or a function of a module.
    module = in_full[0]
  with contextlib.suppress(ImportError, ValueError):
    if importlib.util.find_spec(module) is not None:
      return config_parser.ImportStatement(
          module, is_from="." in module and not in_full, alias=None,
          location=None)
  return None


def _register_named(bindings: Sequence[str]) -> None:
  """Registers what a command line names and no gin file has named before.

  In a gin file the imports say what `decoding` is; a command line has none,
  so its names mean what the files' imports say, else T5X's modules.
  """
  registry = gin.config._REGISTRY
  for binding in bindings:
    bound = re.match(r"\s*(?:[\w/]+/)?(\w[\w.]*\.\w+)\.\w+\s*=", binding)
    value = binding.partition("=")[2]
    for selector in [*(bound.groups() if bound else ()), *re.findall(
        r"@(?:[\w/]+/)?(\w+(?:\.\w+)+)", value)]:
      statement = _import_of(selector)
      if registry.matching_selectors(selector) or statement is None:
        continue
      context = gin.config.ParseContext()
      context._enable_dynamic_registration()
      context.process_import(statement)
      # What the module does not have is reported when the binding is read.
      with contextlib.suppress(AttributeError):
        context.get_configurable(selector)


@contextlib.contextmanager
def _without_lookup_errors() -> Iterator[None]:
  """Gin logs an error for each folder that a file is not in, before it is."""
  before = logging.root.manager.disable
  logging.disable(logging.ERROR)
  try:
    yield
  finally:
    logging.disable(before)


def _check_macros(gin_bindings: Sequence[str], in_files: Iterable[str]) -> None:
  """Raises UserError for a macro on the command line that looks misspelt.

  One that nothing uses otherwise is warned of.
  """
  referred = {name for value in bindings().values()
              for name in re.findall(r"%(\w+)", value)}
  used = {*in_files, *referred}
  for binding in gin_bindings:
    name = binding.partition("=")[0].strip()
    if name in _MUST_BE_USED and name not in referred:
      raise errors.UserError(
          f"{name} is set, and nothing in these gin files uses it: it would "
          f"change nothing; {_MUST_BE_USED[name]}")
    if name in used or not re.fullmatch(r"\w+", name):
      continue
    _refuse_misspelt_macro(name, used)
    print(f"warning: {name} is set, and nothing in these gin files uses it: "
          "it changes nothing", file=sys.stderr)


def check_early(
    gin_files: Sequence[str], gin_bindings: Sequence[str],
    extra_search_paths: Sequence[str] = (),
    main_names: Sequence[str] | None = None) -> early_names.Text | None:
  """Checks what can be checked before anything large is imported.

  Args:
    gin_files: as in `parse`, also what follows.
    gin_bindings: on the command line.
    extra_search_paths: looked at first.
    main_names: what `main_module` will have; None looks at no names.

  Returns:
    What the files and bindings say; None where they do not say all.

  Raises:
    errors.UserError: a file does not exist or is not gin, a name is misspelt,
      a macro is not set, or one on the command line has a value that cannot
      work.
  """
  folders = _folders_of(gin_files, extra_search_paths)
  pairs = (binding.split("=", 1) for binding in gin_bindings if "=" in binding)
  gin_values.check({name.strip(): value.strip() for name, value in pairs})
  if main_names is None:
    return None
  text = early_names.Text()
  with _explained(gin_bindings):
    # Not all of them: a file that is elsewhere may say anything.
    complete = all([_read_early(name, folders, text) for name in gin_files])
    of_files = set(text.macros)
    list(early_names.read("\n".join(gin_bindings), text))
  if not all(
      name.selector.partition(".")[2] in main_names for name in text.names
      if name.statement and name.statement.module == "__main__"):
    return None  # Of another mode: who parses them knows which.
  for named in text.names:
    if line := early_names.mistake(named, text, _T5X_MODULES):
      raise errors.UserError(line)
  if not complete:
    return None
  known = of_files | text.used
  for name in text.macros:
    if name not in known:
      _refuse_misspelt_macro(name, known)
  _require_set(text.macros, early_names.REQUIRED)
  return text


def _read_early(
    name: str, folders: Sequence[str], text: early_names.Text,
    including: Sequence[str] = ()) -> bool:
  """Reads a gin file and what it includes; False if one was not found."""
  found = [*(pathlib.Path(folder, name) for folder in folders),
           *filter(None, [_embedded_path(name)])]
  path = next((path for path in found if path.is_file()), None)
  if path is None or name in including:
    if path is None and not early_names.is_resource(name):
      _check_file(name, folders)
    return False
  with open(path, encoding="utf-8") as file:
    return all([_read_early(included, folders, text, (*including, name))
                for included in early_names.read(file, text)])


def _refuse_misspelt_macro(name: str, known: Iterable[str]) -> None:
  known = [other for other in known if re.fullmatch(r"\w+", other)]
  if re.fullmatch(r"\w+", name) and (
      difflib.get_close_matches(name, known, cutoff=_MISSPELT)):
    raise errors.UserError(
        errors.unknown_name_message("gin macro", name, known))


def _require_set(macros: Mapping[str, Any], required: Any) -> None:
  """Raises UserError for macros that still are `%gin.REQUIRED`."""
  if missing := sorted(n for n, value in macros.items() if value == required):
    raise errors.UserError(
        f"gin macro{'s' if len(missing) > 1 else ''} not set: "
        f"{', '.join(missing)}; pass for instance --gin.{missing[0]}=VALUE "
        "(a string needs quotes: '\"...\"')")


def parse(
    gin_files: Sequence[str],
    gin_bindings: Sequence[str],
    extra_search_paths: Sequence[str] = (),
    skip_unknown: bool | Sequence[str] = False,
    stand_ins: Sequence[str] = ()) -> None:
  """Replaces gin's configuration by that of files and bindings.

  Args:
    gin_files: in the order of inclusion; later ones override.
    gin_bindings: such as `TRAIN_STEPS = 100`; override the files.
    extra_search_paths: looked at before the default ones.
    skip_unknown: as in `gin.parse_config`.
    stand_ins: bindings below `gin_bindings`, of what files may require and
      the caller does not need; files need not use them.

  Raises:
    errors.UserError: a file does not exist, a macro is not set or misspelt,
      or the text is not valid gin.
  """
  folders = _folders_of(gin_files, extra_search_paths)
  gin.clear_config()
  gin.config.register_file_reader(_open_remote, _remote_exists)
  # Gin only appends to its search path; a second run has its own.
  gin.config._LOCATION_PREFIXES[:] = ["", *folders]
  with _explained(gin_bindings), _without_lookup_errors():
    gin.parse_config_files_and_bindings(
        list(gin_files), [], finalize_config=False,
        skip_unknown=skip_unknown)
    in_files = [name for name in bindings() if re.fullmatch(r"\w+", name)]
    _register_named(gin_bindings)
    gin.parse_config([*stand_ins, *gin_bindings], skip_unknown)
  _check_macros(gin_bindings, in_files)
  _require_set(bindings(), "%gin.REQUIRED")
  gin_values.check(bindings())
  gin_types.check()
  with _explained(gin_bindings):
    gin.finalize()


def bindings() -> Mapping[str, str]:
  """All bindings of the current configuration, name -> value as text."""
  lines = gin.config_str(max_line_length=_LONG_LINE).splitlines()
  pairs = (line.split(" = ", 1) for line in lines
           if " = " in line and not line.startswith("#"))
  return {name.strip(): value.strip() for name, value in pairs}


def arguments_of(
    configurable: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
  """What gin gives a function for some of its arguments, and makes no other.

  Args:
    configurable: registered with gin.
    names: of arguments; what is not bound is left out.
  """
  bound = gin.get_bindings(configurable, resolve_references=False)
  # References are resolved by being copied.
  return {name: copy.deepcopy(bound[name]) for name in names if name in bound}


def make_folders_absolute() -> None:
  """Folders of the configuration get their paths from the root.

  Orbax refuses others, and what a run records of where it began is read from
  another working folder.
  """
  def absolute(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
      return type(value)(map(absolute, value))
    return (locations.absolute(locations.initial_checkpoint(value))
            if isinstance(value, str) and value else value)

  config = gin.config._CONFIG
  for (scope, selector), arguments in config.items():
    for name, value in arguments.items():
      if _FOLDERS.fullmatch(
          scope if selector == "gin.macro" else f"{selector}.{name}"):
        arguments[name] = absolute(value)


def missing_entry_point(error: errors.UserError) -> str:
  """The mode's function that files of another mode name, or "".

  Run files say `import __main__ as train_script; train_script.train`, which is
  there in `t5x train` alone.

  Args:
    error: of `parse`.

  Returns:
    Such as "train_script.train".
  """
  missing = re.search(r"unknown gin configurable '(\w+_script\.\w+)'",
                      str(error))
  return missing[1] if missing else ""


@contextlib.contextmanager
def main_module(**attributes: Any) -> Iterator[None]:
  """Lets gin files say `import __main__ as train_script; train_script.train`.

  Args:
    **attributes: set in `__main__` for the duration, then taken away again.
  """
  main = sys.modules["__main__"]
  absent = object()
  before = {name: getattr(main, name, absent) for name in attributes}
  for name, value in attributes.items():
    setattr(main, name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is absent:
        delattr(main, name)
      else:
        setattr(main, name, value)
