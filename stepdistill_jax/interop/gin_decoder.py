"""The gin files that go with an imported decoder."""

from __future__ import annotations

import dataclasses
import pathlib

from stepdistill_jax.interop import architecture, gin_model

_MODEL = """\
# {title}
#
# Written with the checkpoint beside it: the model, without a method of ours.
#
# Required to be set: STUDENT_TASK_WEIGHTS, by gin/methods/*.gin
from __gin__ import dynamic_registration

include 'gin/models/decoder.gin'
include '{student}'
"""

_STUDENT = """\
# {title}
#
# Sets the network's dimensions, its tokenizer and the checkpoint to begin
# from, so that it can follow a whole recipe of a decoder:
#
#   t5x train --gin_file=gin/recipes/gsm8k_step_by_step_{recipe}.gin \\
#     --gin_file={file} --gin.MODEL_DIR='"..."'
#
# Commonly overridden options:
# - CHAT: prompts by the checkpoint's chat template
from __gin__ import dynamic_registration

from stepdistill_jax.models.llama import network
from t5x import utils

INITIAL_CHECKPOINT_PATH = {checkpoint!r}
TOKENIZER = {tokenizer!r}

network.LlamaConfig:
"""


def recipe_size(arch: architecture.DecoderArchitecture) -> str:
  """The decoder in recipes' names whose size is nearest."""
  del arch
  return "smollm2_135m"


def dimensions(arch: architecture.DecoderArchitecture) -> str:
  """Gin lines that set all of a network's dimensions."""
  return "".join(
      f"  {field.name} = {getattr(arch, field.name)!r}\n"
      for field in dataclasses.fields(arch))


def write(
    folder: pathlib.Path, arch: architecture.DecoderArchitecture, *,
    checkpoint: pathlib.Path, title: str,
    tokenizer: pathlib.Path) -> pathlib.Path:
  """Writes the gin files beside a checkpoint; returns the model's."""
  model = (folder / gin_model.MODEL_FILE).absolute()
  student = (folder / gin_model.STUDENT_FILE).absolute()
  student.write_text(_STUDENT.format(
      title=title, file=student, recipe=recipe_size(arch),
      checkpoint=str(checkpoint.absolute()), tokenizer=str(tokenizer))
                     + dimensions(arch) + gin_model.RESTORE, encoding="utf-8")
  model.write_text(_MODEL.format(title=title, student=student),
                   encoding="utf-8")
  return model
