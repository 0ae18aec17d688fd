"""Rotary position embeddings, plain and scaled to longer contexts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

SCALINGS = ("none", "linear", "llama3")


def frequencies(
    head_dim: int, theta: float, *, scaling: str = "none",
    factor: float = 1.0, low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0, original_length: int = 8192) -> np.ndarray:
  """Radians by which each pair of a head's dimensions turns per position.

  f_i = theta^(−2i/head_dim) (arXiv 2104.09864). `linear` divides all by
  `factor`. `llama3`, Llama 3.1's, divides those whose wavelength 2π/f is more
  than `original_length / low_freq_factor`, leaves those below
  `original_length / high_freq_factor`, and goes smoothly from one to the
  other between.

  >>> frequencies(4, 100.0).tolist()
  [1.0, 0.10000000149011612]

  Args:
    head_dim: width of a head; even.
    theta: the base.
    scaling: one of SCALINGS.
    factor: by which contexts are longer.
    low_freq_factor: of `llama3`.
    high_freq_factor: of `llama3`.
    original_length: of `llama3`: positions that the model was first trained
      with.

  Returns:
    float32 `[head_dim / 2]`.

  Raises:
    ValueError: an unknown scaling.
  """
  exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
  plain = np.asarray(1.0 / np.float32(theta) ** exponents, np.float32)
  if scaling == "none":
    return plain
  if scaling == "linear":
    return plain / np.float32(factor)
  if scaling != "llama3":
    raise ValueError(
        f"unknown scaling {scaling!r} of rotary positions; known: "
        f"{', '.join(SCALINGS)}")
  turns = original_length * plain / np.float32(2 * math.pi)
  kept = np.clip(
      (turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
  return np.asarray(
      (1 - kept) * plain / factor + kept * plain, dtype=np.float32)


def rotate(
    heads: jax.Array, positions: jax.Array, radians: np.ndarray) -> jax.Array:
  """Turns heads by their positions.

  Dimension i of a head makes a pair with dimension i + head_dim / 2.

  Args:
    heads: `[batch, length, heads, head_dim]` float.
    positions: `[batch, length]` int32.
    radians: float32 `[head_dim / 2]`, see `frequencies`.

  Returns:
    Heads of the same shape and dtype.
  """
  angles = positions[..., None].astype(jnp.float32) * radians
  # [batch, length, head_dim / 2] -> [batch, length, 1, head_dim / 2]
  cos = jnp.cos(angles)[:, :, None].astype(heads.dtype)
  sin = jnp.sin(angles)[:, :, None].astype(heads.dtype)
  first, second = jnp.split(heads, 2, axis=-1)
  return jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)
