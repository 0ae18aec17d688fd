"""Schedules equal their formulas."""

import math

import jax
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import learning_rate
from stepdistill_jax.util import errors

W, B = 10, 0.5
# factors -> the formula, in plain Python.
FORMULAS = {
    "constant": lambda s: B,
    "constant * linear_warmup": lambda s: B * min(1, s / W),
    "linear_decay": lambda s: B * min(s / W, 1 + 0.01 * (W - s)),
    "constant * rsqrt_decay": lambda s: B / math.sqrt(max(s, W)),
    "constant * rsqrt_normalized_decay":
        lambda s: B * math.sqrt(W / max(s, W)),
    "constant*decay_every": lambda s: B * 0.01 ** (s // 20),
    "constant * cosine_decay":
        lambda s: B / 2 * (1 + math.cos(math.pi * (max(0, s - W) / 40 % 1))),
}


@pytest.mark.parametrize("factors", FORMULAS)
def test_formulas(factors):
  schedule = jax.jit(learning_rate.create_learning_rate_scheduler(
      factors, base_learning_rate=B, warmup_steps=W, decay_factor=0.01,
      steps_per_decay=20, steps_per_cycle=40, step_offset=5))
  steps = [0, 1, 5, 9, 15, 16, 24, 25, 40, 60, 104, 10_000]
  expected = [max(FORMULAS[factors](max(0, s - 5)), 1e-8) for s in steps]
  rates = [schedule(s) for s in steps]
  # float32 arithmetic; the cosine's zero is only as good as float32's pi.
  np.testing.assert_allclose(rates, expected, rtol=2e-6, atol=1e-7)
  assert rates[0].dtype == np.float32


@pytest.mark.parametrize("factors, rate", [
    ("constant * linear_warmup", B), ("linear_decay", B)])
def test_no_warmup_is_over_at_step_0(factors, rate):
  schedule = learning_rate.create_learning_rate_scheduler(
      factors, base_learning_rate=B, warmup_steps=0, decay_factor=0.01)
  assert schedule(0) == rate


def test_unknown_factor_lists_near_ones():
  with pytest.raises(errors.UserError, match="rsqrt_decay"):
    learning_rate.create_learning_rate_scheduler("constant * rsqrt_decy")
