"""How models are run by the eval binary."""

from __future__ import annotations

import dataclasses

from stepdistill_jax import errors

MODES = ("generate", "score", "both")
AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """How checkpoints and Hugging Face students are asked. Gin: `ModelConfig`.

  Attributes:
    batch_size: examples at a time; `auto` goes by the length of the inputs.
    beam: width of the beam; 1 is greedy.
    mode: `generate` the label as the papers do, `score` the likelihood of
      each choice, or `both`.
    prefix: what stands before each question; `auto` is what the run was
      trained with (`predict: ` for step-by-step, else nothing).
    rationales: `yes`, `no`, or `auto`: where the run was trained on them.
    label_length: most tokens of a label, EOS included; None: the benchmark's.
    rationale_length: likewise of a rationale.
    num_partitions: devices that share one copy of the parameters.
    compute_dtype: of activations; in float32 answers do not depend on the
      batch size.
    parameter_dtype: that parameters are restored to.
  """

  batch_size: int | str = AUTO
  beam: int = 1
  mode: str = "generate"
  prefix: str = AUTO
  rationales: str = AUTO
  label_length: int | None = None
  rationale_length: int = 256  # The papers' target length.
  num_partitions: int = 1
  compute_dtype: str = "float32"
  parameter_dtype: str = "float32"

  def __post_init__(self):
    if self.mode not in MODES:
      raise errors.UserError(
          errors.unknown_name_message("mode", self.mode, MODES))
    if self.rationales not in (AUTO, "yes", "no"):
      raise errors.UserError(errors.unknown_name_message(
          "value of --rationales", self.rationales, (AUTO, "yes", "no")))
    if self.batch_size != AUTO:
      try:
        object.__setattr__(self, "batch_size", int(self.batch_size))
      except ValueError:
        raise errors.UserError(
            f"--batch_size must be a number or auto, got {self.batch_size!r}"
        ) from None
      if self.batch_size < 1:
        raise errors.UserError(
            f"--batch_size must be at least 1, got {self.batch_size}")
    if self.beam < 1:
      raise errors.UserError(f"--beam must be at least 1, got {self.beam}")

  @property
  def modes(self) -> tuple[str, ...]:
    return ("generate", "score") if self.mode == "both" else (self.mode,)
