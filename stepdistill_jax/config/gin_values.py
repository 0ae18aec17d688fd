"""Values of the macros that users set, checked before anything else.

T5X's gin files name the same macros everywhere. A value that cannot work is
reported here in a line that names the macro; a few minutes later it would be
XLA's message, or none at all.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

from stepdistill_jax.config import setting_checks
from stepdistill_jax.util import errors

# `@name`, `@scope/name()` or `%NAME`, and nothing else.
_REFERENCE = re.compile(r"@[A-Za-z_][\w./]*(\(\))?|%[A-Za-z_]\w*")
# Of gin/runs/paper.gin, see `models.optimization`.
SCHEDULES = ("linear", "cosine", "constant", "rsqrt")
OPTIMIZERS = ("adamw", "adafactor", "lion", "sgd")
LABELS = ("gold", "teacher")  # See `records.task_names`.
_is_whole = setting_checks.is_whole_number


def _is_number(value: Any) -> bool:
  return (isinstance(value, (int, float)) and not isinstance(value, bool)
          and math.isfinite(value))


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a macro's literal value must be."""

  expected: str
  allows: Callable[[Any], bool]
  example: str  # As it is given on a command line, such as `100`.
  is_text: bool = False


def _one_of(names: Sequence[str]) -> Rule:
  return Rule(f"one of {', '.join(names)}", lambda value: value in names,
              f"'\"{names[1]}\"'", is_text=True)


def _or_none(rule: Rule) -> Rule:
  return dataclasses.replace(
      rule, expected=f"{rule.expected}, or None",
      allows=lambda value: value is None or rule.allows(value))


_COUNT = Rule("a whole number above 0", _is_whole, "100")
_NOT_NEGATIVE = Rule(
    "a whole number of at least 0", lambda v: _is_whole(v, 0), "100")
_PERIOD = _or_none(dataclasses.replace(
    _NOT_NEGATIVE, expected=f"{_NOT_NEGATIVE.expected} (0: no period)"))
_FOLDER = Rule(
    "a folder's path", lambda v: isinstance(v, str) and bool(v.strip()),
    "'\"/tmp/run\"'", is_text=True)
_PATH_OR_NONE = Rule(
    "a checkpoint's path, or None",
    lambda v: (v is None or isinstance(v, (list, tuple))
               or isinstance(v, str) and bool(v.strip())),
    "'\"/tmp/run/checkpoint_400\"'", is_text=True)

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("TRAIN_STEPS", "MAX_INPUTS", "MAX_LABEL",
                     "MAX_RATIONALE", "MAX_SINGLE"), _COUNT),
    # None of an export: any size.
    **dict.fromkeys(("BATCH_SIZE", "EVAL_STEPS"), _or_none(_COUNT)),
    **dict.fromkeys(("EVAL_PERIOD", "CHECKPOINT_PERIOD"), _PERIOD),
    **dict.fromkeys(
        ("MODEL_DIR", "EVAL_OUTPUT_DIR", "INFER_OUTPUT_DIR"), _FOLDER),
    **dict.fromkeys(
        ("CHECKPOINT_PATH", "INITIAL_CHECKPOINT_PATH"), _PATH_OR_NONE),
    "RANDOM_SEED": _or_none(
        Rule("a whole number", lambda v: _is_whole(v, 0), "0")),
    "LEARNING_RATE": Rule(
        "a number of at least 0", lambda v: _is_number(v) and v >= 0, "1e-3"),
    "PACK": Rule("True, False, 'pairs' or None", lambda v: (
        v in (None, "pairs") or isinstance(v, bool)), "True"),
    "LABELS": _one_of(LABELS),
    "EVAL_LABELS": _one_of(LABELS),
    "LEARNING_RATE_SCHEDULE": _one_of(SCHEDULES),
    "WARMUP_STEPS": _NOT_NEGATIVE,
    "OPTIMIZER": _one_of(OPTIMIZERS),
    "DROPOUT_RATE": Rule(
        "a number from 0 to below 1",
        lambda v: _is_number(v) and 0 <= v < 1, "0.1"),
    "TRAIN_SHARE": Rule(
        "a number above 0, up to 1", lambda v: _is_number(v) and 0 < v <= 1,
        "0.25"),
    "ALPHA": Rule(
        "a number from 0 to 1, or a schedule such as @students.linear()",
        lambda v: _is_number(v) and 0 <= v <= 1, "0.5"),
}


def _check_references(name: str, value: Any) -> None:
  """Raises UserError for a reference in quotes, which gin takes for a text."""
  if isinstance(value, (list, tuple, dict)):
    for item in (value.values() if isinstance(value, dict) else value):
      _check_references(name, item)
  if isinstance(value, str) and _REFERENCE.fullmatch(value):
    raise errors.UserError(
        f"{name} is the text {value!r}: a reference has no quotes of its own; "
        f"pass --gin.{name}={value}, with quotes around all of it in a shell: "
        f"'--gin.{name}={value}'")


def check(bindings: Mapping[str, str]) -> None:
  """Checks the literal values of known macros.

  Args:
    bindings: name -> value as gin text. Macros (`%X`) and references (`@f`)
      have their values later and pass.

  Raises:
    errors.UserError: a value that cannot work, or a reference in quotes.
  """
  for name, text in bindings.items():
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      continue
    _check_references(name, value)
    rule = RULES.get(name)
    if rule is not None and not rule.allows(value):
      raise errors.UserError(
          f"{name} must be {rule.expected}; got {value!r}: pass for instance "
          f"--gin.{name}={rule.example}")
