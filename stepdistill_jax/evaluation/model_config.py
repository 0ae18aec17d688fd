"""How models are run by the eval binary, and what they give back."""

import dataclasses

from stepdistill_jax.config import setting_checks
from stepdistill_jax.util import errors

MODES = ("generate", "score", "both")
DTYPES = ("float32", "bfloat16", "float16")
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
    latency: so many questions are asked once more, one at a time, to measure
      how long one answer takes; 0 for none.
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
  latency: int = 0

  def __post_init__(self):
    setting_checks.one_of("mode", self.mode, MODES)
    setting_checks.one_of(
        "value of --rationales", self.rationales, (AUTO, "yes", "no"))
    setting_checks.text("--prefix", self.prefix)
    if self.batch_size != AUTO:
      object.__setattr__(self, "batch_size", _batch_size(self.batch_size))
    setting_checks.whole_number("--beam", self.beam)
    for name in ("label_length", "rationale_length", "num_partitions"):
      value = getattr(self, name)
      if value is not None or name != "label_length":
        setting_checks.whole_number(f"ModelConfig.{name}", value)
    setting_checks.whole_number("--latency", self.latency, least=0)
    for name in ("compute_dtype", "parameter_dtype"):
      setting_checks.one_of(name, getattr(self, name), DTYPES)

  @property
  def modes(self) -> tuple[str, ...]:
    return ("generate", "score") if self.mode == "both" else (self.mode,)


def _batch_size(value) -> int:
  """A flag's text or gin's number as rows."""
  if isinstance(value, str):
    with errors.reported(
        ValueError, f"--batch_size must be a number or auto, got {value!r}"):
      value = int(value)
  return setting_checks.whole_number("--batch_size", value)


@dataclasses.dataclass
class Timing:
  """Seconds of device work, without compilation, and what came out."""

  seconds: float = 0.0
  compile_seconds: float = 0.0
  examples: int = 0
  tokens: int = 0

  @property
  def examples_per_second(self) -> float | None:
    return self.examples / self.seconds if self.seconds else None


@dataclasses.dataclass(frozen=True)
class Decoded:
  """One decoded sequence.

  Attributes:
    tokens: without what follows the EOS; with the EOS if there is one.
    log_prob: natural log of the model's probability of these tokens.
  """

  tokens: tuple[int, ...]
  log_prob: float
