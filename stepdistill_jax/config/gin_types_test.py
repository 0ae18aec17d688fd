"""Literals of the wrong kind are reported by name; what may work passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

import gin
import pytest

import stepdistill_jax
from stepdistill_jax.config import gin_config, gin_types
from stepdistill_jax.util import errors


class _Unknown:
  pass


@dataclasses.dataclass
class Sizes:
  """Stands for a configuration class."""

  width: int = 1
  rate: float | None = None
  names: Sequence[str] = ()
  lengths: Mapping[str, int] | None = None
  fn: Callable[..., Any] | None = None
  shuffle: bool = True
  mesh: tuple[int, ...] | None = None
  path: str = ""
  either: float | _Unknown = 1.0
  anything: Any = None


gin.external_configurable(Sizes, "GinTypesSizes", module="gin_types_test")


def parse(*bindings):
  gin_config.parse(
      [], [b if "=" in b and b[0].isupper() else f"GinTypesSizes.{b}"
           for b in bindings])


@pytest.mark.parametrize("binding, expected", [
    ("width = '2'", "a whole number; got '2'"),
    ("width = 2.5", "a whole number; got 2.5"),
    ("width = [1]", r"a whole number; got \[1\]"),
    ("rate = 'x'", "a number or None; got 'x'"),
    ("names = 3", "a list; got 3"), ("names = [3]", r"a list; got \[3\]"),
    ("lengths = [16]", "a dict of name to a whole number or None; got"),
    ("lengths = {'inputs': '16'}", "a dict of name to a whole number or None"),
    ("fn = 'name'", "a reference such as @name or None; got 'name'"),
    ("shuffle = 'False'", "True or False; got 'False'"),
    ("mesh = (1, 'x')", "a list or None; got"), ("path = 3", "a text; got 3"),
])
def test_wrong_kinds_are_reported(binding, expected):
  name = binding.partition(" ")[0]
  with pytest.raises(errors.UserError, match=(
      rf"gin config: gin_types_test\.GinTypesSizes\.{name} must be "
      + expected)):
    parse(binding)


@pytest.mark.parametrize("binding", [
    "width = 1e4", "width = None", "rate = 1", "rate = None", "names = 'one'",
    "names = ('a', 'b')", "lengths = {'inputs': 16}", "lengths = None",
    "fn = @GinTypesSizes", "shuffle = 0", "mesh = [1, 2]", "either = 'x'",
    "anything = 'x'", "width = @GinTypesSizes()",
])
def test_what_may_work_passes(binding):
  parse(binding)


def test_a_macro_is_reported_by_its_own_name():
  with pytest.raises(errors.UserError, match="gin config: WIDTH must be a who"):
    parse("WIDTH = 'wide'", "MACRO = %WIDTH", "width = %MACRO")


def own_callables(module):
  """The classes and functions that a module defines, methods included."""
  for value in vars(module).values():
    value = getattr(value, "__wrapped__", value)
    if getattr(value, "__module__", None) != module.__name__:
      continue
    if isinstance(value, type):
      yield value  # Its fields, or its `__init__`.
      yield from (method for name, method in vars(value).items()
                  if inspect.isfunction(method) and name != "__init__")
    elif inspect.isfunction(value):
      yield value


def test_all_of_our_annotations_have_their_names():
  # Gin's dynamic registration makes any function of ours a configurable.
  checked = set()
  for info in pkgutil.walk_packages(
      stepdistill_jax.__path__, "stepdistill_jax."):
    if info.name.endswith(("_test", ".conftest")):
      continue
    module = importlib.import_module(info.name)
    for value in own_callables(module):
      gin_types.hints(value)
      checked.add(value.__qualname__)
  assert {"StepDistillModel", "PjitPartitioner", "devices_here",
          "task_name"} <= checked


def misspelled(rate=1.0):
  return rate


misspelled.__annotations__["rate"] = "Flaot"


def test_a_name_that_an_annotation_lacks_is_an_error_of_ours_alone(
    monkeypatch):
  with pytest.raises(NameError, match="Flaot") as caught:
    gin_types.hints(misspelled)
  assert "gin_types_test.misspelled" in caught.value.__notes__[0]
  monkeypatch.setattr(misspelled, "__module__", "their.module")
  assert gin_types.hints(misspelled) == {}
