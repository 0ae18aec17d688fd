"""The gin files that go with an imported decoder."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import math
import pathlib
from typing import Any

from stepdistill_jax.interop import architecture, gin_model, text_templates
from stepdistill_jax.util import locations

# Sizes in the names of recipes, by their parameters in millions.
_SIZES = {"smollm2_135m": 135, "qwen2_5_0_5b": 494, "llama3_2_1b": 1236,
          "llama3_1_8b": 8030, "llama3_1_70b": 70554}


def recipe(arch: architecture.DecoderArchitecture) -> str:
  """A recipe for a decoder: of the size that is nearest.

  >>> recipe(architecture.DecoderArchitecture(
  ...     128384, 2048, 32, 8, 64, 8192, 16, logits_via_embedding=True))
  'gin/recipes/decoder/gsm8k_step_by_step_llama3_2_1b.gin'
  """
  size = sum(map(math.prod, architecture.parameter_shapes(arch).values())) / 1e6
  nearest = min(_SIZES, key=lambda name: abs(math.log(_SIZES[name] / size)))
  return f"gin/recipes/decoder/gsm8k_step_by_step_{nearest}.gin"


# What tells the published sizes apart, whatever a vocabulary was padded to.
_DIMENSIONS = ("emb_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
               "num_layers")


def known_file(dimensions: Mapping[str, Any]) -> str | None:
  """The gin file of a decoder's size, or None.

  >>> known_file({"emb_dim": 2048, "num_heads": 32, "num_kv_heads": 8,
  ...             "head_dim": 64, "mlp_dim": 8192, "num_layers": 16})
  'gin/models/llama3_2_1b.gin'

  Args:
    dimensions: values of `LlamaConfig` by name.
  """
  return _known_files().get(tuple(dimensions.get(n) for n in _DIMENSIONS))


@functools.cache
def _known_files() -> dict[tuple[Any, ...], str]:
  found = {}
  for file in sorted((locations.resource_root() / "gin/models").glob("*.gin")):
    literals = gin_model.read_literals(file)
    key = tuple(literals.get(f"LlamaConfig.{name}") for name in _DIMENSIONS)
    if None not in key:
      found[key] = f"gin/models/{file.name}"
  return found


def write(
    folder: pathlib.Path, arch: architecture.DecoderArchitecture, *,
    checkpoint: pathlib.Path, title: str,
    tokenizer: pathlib.Path) -> pathlib.Path:
  """Writes the gin files beside a checkpoint; returns the model's."""
  model = (folder / gin_model.MODEL_FILE).absolute()
  student = (folder / gin_model.STUDENT_FILE).absolute()
  student.write_text(text_templates.render(
      "decoder_student.gin.jinja", title=title, file=student,
      recipe=recipe(arch), checkpoint=str(checkpoint.absolute()),
      tokenizer=str(tokenizer), dimensions=gin_model.dimensions(arch)),
                     encoding="utf-8")
  model.write_text(text_templates.render(
      "decoder_model.gin.jinja", title=title, student=student),
                   encoding="utf-8")
  return model
