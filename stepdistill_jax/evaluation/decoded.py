"""What models give back, and how long it took; needs neither JAX nor torch."""

import dataclasses


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
