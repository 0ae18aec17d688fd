"""The gin file that goes with an imported checkpoint, and back again."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
import pathlib
import shlex
from typing import Any

from stepdistill_jax.config import early_names
from stepdistill_jax.embedded_t5x import examples
from stepdistill_jax.interop import architecture, text_templates, tokenizers
from stepdistill_jax.util import errors

MODEL_FILE = "model.gin"
STUDENT_FILE = "student.gin"
# T5X's folders of sizes; their smallest are nobody's.
_FAMILIES = ("t5_1_0", "t5_1_1", "mt5", "byt5")


@functools.cache
def published_sizes() -> Mapping[str, architecture.Architecture]:
  """The published sizes -> T5X's files for them, such as `t5_1_1/base`."""
  names = [f.name for f in dataclasses.fields(architecture.Architecture)
           if f.name != "dropout_rate"]
  found = {}
  for family in _FAMILIES:
    folder = pathlib.Path(examples.__file__).parent / "t5" / family
    for file in folder.glob("*.gin"):
      literals = {**read_literals(folder / "base.gin"), **read_literals(file)}
      if file.stem != "tiny":
        found[f"{family}/{file.stem}"] = architecture.Architecture(
            **{name: literals[f"T5Config.{name}"] for name in names})
  return found


def known_file(arch: architecture.Architecture) -> str | None:
  """T5X's gin file for an architecture, or None.

  >>> known_file(architecture.Architecture(
  ...     32128, 768, 12, 64, 2048, 12, 12, ("gelu", "linear"), False))
  't5x/examples/t5/t5_1_1/base.gin'
  """
  for name, known in published_sizes().items():
    if dataclasses.replace(known, dropout_rate=arch.dropout_rate) == arch:
      return f"t5x/examples/t5/{name}.gin"
  return None


def recipe_size(arch: architecture.Architecture) -> str:
  """The size in recipes' names that is nearest, by the stacks' parameters.

  >>> recipe_size(architecture.Architecture(
  ...     250112, 768, 12, 64, 2048, 12, 12, ("gelu", "linear"), False))
  'base'
  """
  def stacks(arch: architecture.Architecture) -> int:
    return sum(math.prod(shape) for name, shape in
               architecture.parameter_shapes(arch).items() if "layers_" in name)

  distance = {
      name.removeprefix("t5_1_1/"): abs(math.log(stacks(arch) / stacks(known)))
      for name, known in published_sizes().items()
      if name.startswith("t5_1_1/")}
  return min(distance, key=distance.__getitem__)


def why_no_recipe(arch: architecture.Architecture, pieces: int | None) -> str:
  """Why no recipe can train a checkpoint; "" if one can, or may.

  The tasks of recipes have the pieces of a SentencePiece model and T5's 100
  sentinels.

  >>> mt5 = architecture.Architecture(
  ...     250112, 768, 12, 64, 2048, 12, 12, ("gelu", "linear"), False)
  >>> why_no_recipe(mt5, 250100).partition("; ")[2]
  'import it by `import-hf --pad_vocabulary=512`'

  Args:
    arch: the model's.
    pieces: of its SentencePiece model; 0 if its tokens are bytes, None if that
      is not known.
  """
  if pieces is None:  # A published size tells.
    family = (known_file(arch) or "").split("/")[-2:][0]
    pieces = {"byt5": 0, "mt5": 250_100}.get(family)
  if pieces == 0:
    return ("its tokens are bytes, and those of the recipes' tasks pieces of a "
            "SentencePiece model")
  needed, multiple = (pieces or 0) + tokenizers.T5_EXTRA_IDS, 128
  if needed <= arch.vocab_size:
    return ""
  while -(-arch.vocab_size // multiple) * multiple < needed:
    multiple *= 2
  return (f"its {arch.vocab_size:,} rows have no place for {pieces:,} pieces "
          f"and the {tokenizers.T5_EXTRA_IDS} sentinels of the recipes' tasks; "
          f"import it by `import-hf --pad_vocabulary={multiple}`")


def sentencepiece_vocabulary(model_file: str, extra_ids: int) -> str:
  """Gin lines for a SentencePiece model with sentinels after its pieces."""
  return ("\nVOCABULARY = @seqio.SentencePieceVocabulary()\n"
          "seqio.SentencePieceVocabulary:\n"
          f"  sentencepiece_model_file = {model_file!r}\n"
          f"  extra_ids = {extra_ids}\n")


def byte_vocabulary(extra_ids: int) -> str:
  """Gin lines for ByT5's vocabulary."""
  return ("\nVOCABULARY = @seqio.ByteVocabulary()\n"
          f"seqio.ByteVocabulary.extra_ids = {extra_ids}\n")


def dimensions(arch: architecture.AnyArchitecture) -> str:
  """Gin lines that set all of a network's dimensions."""
  return "".join(f"  {field.name} = {getattr(arch, field.name)!r}\n"
                 for field in dataclasses.fields(arch)
                 if field.name != "dropout_rate")


def model_text(
    arch: architecture.Architecture, *, title: str, file: str,
    checkpoint: str, vocabulary: str = "",
    optimizer_state: bool = False) -> str:
  """Returns the gin file of a model, to stand where T5X's would.

  Args:
    arch: the model's.
    title: first line of the file's comment.
    file: where it will be.
    checkpoint: that it is for.
    vocabulary: gin lines that set VOCABULARY; empty for the known file's own.
    optimizer_state: whether the checkpoint has an optimizer's state.
  """
  known = known_file(arch)
  if not known:
    vocabulary = vocabulary or "\nVOCABULARY = %gin.REQUIRED\n"
  return text_templates.render(
      "t5_model.gin.jinja", known=known, title=title, file=file,
      checkpoint=checkpoint, vocabulary=vocabulary,
      dimensions=dimensions(arch), optimizer_state=optimizer_state)


def environment(spiece: pathlib.Path | None) -> str:
  """Has a command's tasks read a checkpoint's own SentencePiece model."""
  return ("" if spiece is None
          else f"STEPDISTILL_VOCAB={shlex.quote(str(spiece))} ")


def write(folder: pathlib.Path, arch: architecture.Architecture, *,
          title: str, checkpoint: pathlib.Path, vocabulary: str = "",
          spiece: pathlib.Path | None = None, no_recipe: str = "",
          optimizer_state: bool = False) -> pathlib.Path:
  """Writes the gin files beside a checkpoint; returns the model's.

  Where `no_recipe` can follow, there is none of a student.
  """
  common = {"title": title, "checkpoint": str(checkpoint.absolute()),
            "optimizer_state": optimizer_state}
  model, student = folder / MODEL_FILE, folder / STUDENT_FILE
  model.write_text(model_text(
      arch, file=str(model), vocabulary=vocabulary, **common),
                   encoding="utf-8")
  if no_recipe:
    student.unlink(missing_ok=True)
  else:
    student.write_text(
        text_templates.render(
            "t5_student.gin.jinja", file=student, size=recipe_size(arch),
            environment=environment(spiece), dimensions=dimensions(arch),
            **common), encoding="utf-8")
  return model


def read_literals(file: pathlib.Path) -> Mapping[str, Any]:
  """Reads the literal bindings of a run's `config.gin`; runs nothing.

  Args:
    file: an operative config, or any gin file (includes are not followed).

  Returns:
    `T5Config.emb_dim`-like names (the configurable's last component and the
    parameter; a macro by its name) -> values; references and macros as text,
    `@seqio.ByteVocabulary()` and `%DROPOUT_RATE`, but those in lists and dicts.

  Raises:
    errors.UserError: it is not a gin file.
  """
  text = early_names.Text()
  with errors.reported(
      (SyntaxError, ValueError), lambda error: (
          f"{file} is no gin file: {error}")):
    list(early_names.read(file.read_text(encoding="utf-8"), text))
  return {
      ".".join(name.rpartition("/")[2].split(".")[-2:]):
      str(value) if isinstance(
          value, (early_names.Macro, early_names.Reference)) else value
      for name, value in {**text.macros, **text.arguments}.items()}
