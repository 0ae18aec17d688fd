"""Values in gin files against what the functions that get them expect.

A literal of the wrong kind, such as `num_partitions = "2"`, is reported by its
name; a minute later it would be an error of Python or XLA without one.
The annotations of this package's functions decide, and in doubt a value
passes; those of other packages are not always kept by their own authors.
"""

import collections.abc
import dataclasses
import inspect
import os
import types
import typing
from typing import Any

import gin

from stepdistill_jax.util import errors

_NONE = type(None)
_NUMBERS = (int, float)
_LITERALS = (bool, int, float, str, list, tuple, dict)
_PACKAGE = __name__.partition(".")[0]
_WORDS = {int: "a whole number", float: "a number", bool: "True or False",
          str: "a text", _NONE: "None"}


def _members(hint: Any) -> tuple[Any, ...]:
  """The alternatives of a union; any other hint is its own only one."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return tuple(m for arg in typing.get_args(hint) for m in _members(arg))
  return (hint,)


def _fits_one(value: Any, hint: Any) -> bool:
  """Whether a literal, not None, may be meant for one alternative."""
  kind = typing.get_origin(hint) or hint
  if kind in (_NONE, collections.abc.Callable):
    return False
  if kind is int:  # T5X's users write 1e4 steps.
    return isinstance(value, int) or (
        isinstance(value, float) and value.is_integer())
  if kind is float:
    return isinstance(value, _NUMBERS)
  if kind is bool:  # "False" would be true.
    return not isinstance(value, (str, float))
  if kind is str:
    return isinstance(value, (str, os.PathLike))
  if not isinstance(kind, type):
    return True
  of = typing.get_args(hint)
  if issubclass(kind, collections.abc.Mapping):
    return isinstance(value, dict) and (len(of) != 2 or all(
        fits(k, of[0]) and fits(v, of[1]) for k, v in value.items()))
  if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
    if isinstance(value, str):  # Some take one for a list of one.
      return not of or str in _members(of[0])
    # tuple[int, float] has a hint for each item; those are not looked at.
    return isinstance(value, (list, tuple)) and (
        not (len(of) == 1 or len(of) == 2 and of[1] is ...)
        or all(fits(v, of[0]) for v in value))
  return True


def fits(value: Any, hint: Any) -> bool:
  """Whether a value of gin may be meant for an annotation."""
  if not isinstance(value, _LITERALS):
    # Many a default is None that its annotation does not have. What a
    # reference gives is known when it is called.
    return True
  return any(_fits_one(value, member) for member in _members(hint))


def expected(hint: Any) -> str:
  """An annotation in words, as a message has them."""
  def words(member: Any) -> str:
    kind = typing.get_origin(member) or member
    if kind in _WORDS:
      return _WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, collections.abc.Mapping):
      of = typing.get_args(member)
      return "a dict" + (f" of name to {expected(of[1])}" if len(of) == 2
                         else "")
    if kind is collections.abc.Callable:
      return "a reference such as @name"
    return "a list"
  return " or ".join(dict.fromkeys(map(words, _members(hint))))


def _is_ours(owner: Any) -> bool:
  module = getattr(owner, "__module__", None) or ""
  return module.partition(".")[0] == _PACKAGE


def hints(configurable: Any) -> typing.Mapping[str, Any]:
  """Annotations of what our own classes and functions are called with.

  Those that a class of ours inherits from another package are left out.

  Raises:
    NameError: an annotation uses a name that its module does not have.
  """
  if not _is_ours(configurable):
    return {}
  is_class = isinstance(configurable, type)
  is_dataclass = is_class and dataclasses.is_dataclass(configurable)
  owners = (configurable.__mro__[::-1] if is_dataclass else
            (configurable.__init__ if is_class else configurable,))
  found: dict[str, Any] = {}
  for owner in filter(_is_ours, owners):
    try:
      found |= inspect.get_annotations(owner, eval_str=True)
    except Exception as error:
      error.add_note(f"in the annotations of {owner.__module__}."
                     f"{owner.__qualname__}")
      raise
  return found


def check() -> None:
  """Checks all bindings of gin's configuration.

  Raises:
    errors.UserError: a literal that the function bound to cannot work with.
  """
  config = gin.config._CONFIG
  registry = gin.config._REGISTRY
  for (scope, selector), arguments in config.items():
    if selector == "gin.macro":
      continue
    annotations = hints(registry[selector].wrapped)
    for name, value in arguments.items():
      where = f"{scope}/{selector}".lstrip("/") + f".{name}"
      while getattr(value, "config_key", ("", ""))[1] == "gin.macro" and (
          value.config_key in config):
        macro = value.config_key[0]
        value, where = config[value.config_key]["value"], macro
      if name in annotations and not fits(value, annotations[name]):
        raise errors.UserError(
            f"gin config: {where} must be {expected(annotations[name])}; "
            f"got {value!r}")
