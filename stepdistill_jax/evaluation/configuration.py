"""Flags and gin files of `stepdistill-eval`, brought together."""

import argparse
from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import gin

from stepdistill_jax.config import gin_config
from stepdistill_jax.evaluation import (
  evaluate,
  model_config as model_config_lib,
  systems as systems_lib,
)
from stepdistill_jax.records import records
from stepdistill_jax.util import argument_parser, errors

_EvalConfig = gin.external_configurable(evaluate.EvalConfig, "EvalConfig")
_ModelConfig = gin.external_configurable(
    model_config_lib.ModelConfig, "ModelConfig")


def from_flags(
    args: argparse.Namespace,
) -> tuple[evaluate.EvalConfig, model_config_lib.ModelConfig]:
  """Reads gin files and bindings, then lays the flags that were given on top.

  Gin's state is empty afterwards: a checkpoint's own configuration is parsed
  into it later.
  """
  try:
    gin_config.parse(args.gin_file, args.gin_bindings)
    return (_EvalConfig(**_given(args, evaluate.EvalConfig)),
            _ModelConfig(**_given(args, model_config_lib.ModelConfig)))
  except (TypeError, ValueError, errors.UserError) as error:
    # Gin adds lines that name its configurable.
    raise errors.UserError(errors.first_line(error)) from error
  finally:
    gin.clear_config()


def _given(args: argparse.Namespace, config_class: type) -> dict[str, Any]:
  names = [field.name for field in dataclasses.fields(config_class)]
  return {name: getattr(args, name) for name in names
          if getattr(args, name, None) is not None}


def make_systems(
    args: argparse.Namespace, model_config: model_config_lib.ModelConfig,
    records_dir: pathlib.Path, rules: str = "strict",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[systems_lib.System]:
  """Makes the systems of a call, in the order checkpoint to teacher.

  Everything that can be wrong with a file or folder is found here, before any
  model is built.
  """
  systems: list[systems_lib.System] = []
  split = argument_parser.split_name
  for name, path in map(split, args.checkpoint):
    from stepdistill_jax.evaluation import checkpoints

    systems.append(checkpoints.Checkpoint(
        path, model_config, name=name, records_dir=records_dir,
        progress=progress, strict=args.strict))
  for name, path in map(split, args.hf):
    from stepdistill_jax.evaluation import hugging_face

    systems.append(hugging_face.HuggingFaceStudent(
        path, model_config, name=name, progress=progress))
  for name, path in map(split, args.predictions):
    systems.append(systems_lib.PredictionsFile(
        path, name=name, free_text=args.free_text))
  for name, teacher in map(split, args.teacher):
    if "/" in teacher or pathlib.Path(teacher).is_dir():
      from stepdistill_jax.evaluation import teacher_cache

      systems.append(teacher_cache.TeacherCache(teacher, rules, name=name))
      continue
    errors.require_known(
        "teacher", teacher, {t for _, t in records.list_records(records_dir)},
        f"(records under {records_dir})")
    systems.append(systems_lib.TeacherRecords(
        teacher, records_dir, name=name, rules=rules))
  return systems
