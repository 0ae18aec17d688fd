"""Gin bindings of base classes, for subclasses that are used in their place.

A gin file that says `trainer.Trainer.num_microbatches = 4` means the trainer
of the run, also when a subclass of it runs. Gin itself would leave the
subclass alone, and the user would not notice.
"""

from collections.abc import Callable, Iterator, Sequence
import copy
import functools
import inspect
import types
from typing import Any

import gin

from stepdistill_jax.util import errors


def of(configurable: Callable[..., Any]) -> dict[str, Any]:
  """What gin binds to a class, method or function; references as they are."""
  try:
    return dict(gin.get_bindings(configurable, resolve_references=False))
  except ValueError:  # Nothing was ever bound to it.
    return {}


def argument(cls: Any, name: str) -> Any:
  """What gin gives an argument of a class that follows its bases, or None."""
  for owner in getattr(cls, "__mro__", ()):
    if name in (bound := of(owner)):
      return copy.deepcopy(bound[name])  # Resolves gin's references.
  return None


def followed_by_class(cls: type) -> type:
  """Makes bindings of a class's bases, and of their methods, count for it.

  A class decorator. What is bound to the class itself, or given by who calls,
  counts more; of the bases the nearer one. What the class has no argument for
  raises a UserError.
  """
  for name, bases in _inherited(cls):
    method = _follow(getattr(cls, name), bases, cls.__qualname__)
    # Gin finds methods by their names, those that only bases have too.
    method.__module__ = cls.__module__
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    setattr(cls, name, method)
  return cls


def followed_by_function(
    base: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
  """The same for a function that is used in place of another: a decorator."""
  return lambda function: _follow(function, [base], function.__name__)


def _inherited(cls: type) -> Iterator[tuple[str, Sequence[Any]]]:
  """Methods that bases have too: (name, what gin binds theirs to)."""
  bases = [base for base in cls.__mro__[1:] if base is not object]
  for name in {name for base in bases for name in vars(base)}:
    if isinstance(inspect.getattr_static(cls, name), types.FunctionType):
      if name == "__init__":
        yield name, bases
      elif not name.startswith("_"):
        yield name, [vars(base)[name] for base in bases if name in vars(base)]


def _follow(function: Callable[..., Any], bases: Sequence[Any],
            owner: str) -> Callable[..., Any]:
  """Calls a function with what is bound to others, where it is not given."""
  signature = inspect.signature(function)
  takes_any = any(p.kind is p.VAR_KEYWORD
                  for p in signature.parameters.values())

  @functools.wraps(function)
  def follower(*args: Any, **kwargs: Any) -> Any:
    bound: dict[str, tuple[Any, Any]] = {}
    for base in reversed(bases):
      bound |= {name: (value, base) for name, value in of(base).items()}
    if bound:
      given = {*signature.bind_partial(*args, **kwargs).arguments, *kwargs}
      for name, (value, base) in bound.items():
        if name not in given:
          if not takes_any and name not in signature.parameters:
            raise errors.UserError(
                f"gin config: {base.__qualname__}.{name} is bound, but the run "
                f"uses {owner}, which has no such argument; it has "
                f"{', '.join(n for n in signature.parameters if n != 'self')}")
          kwargs[name] = copy.deepcopy(value)  # Resolves gin's references.
    return function(*args, **kwargs)

  vars(follower)["__signature__"] = signature  # Gin looks at it.
  return follower
