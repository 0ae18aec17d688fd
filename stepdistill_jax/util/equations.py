"""A function's equations, each compiled by itself instead of all as one.

Where many are alike, as those that initialize parameters, they share a program
that is compiled once; all of them make one as large as a training step's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, its equations computed one by one, those in vain left out."""

  def call(*args: Any) -> Any:
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    needed = set(filter(_is_variable, closed.jaxpr.outvars))
    equations = []
    for equation in reversed(closed.jaxpr.eqns):
      if not needed.isdisjoint(equation.outvars):
        equations.append(equation)
        needed.update(filter(_is_variable, equation.invars))
    values = core.jaxpr_as_fun(core.ClosedJaxpr(
        closed.jaxpr.replace(eqns=equations[::-1]), closed.consts))(
            *jax.tree.leaves(args))
    # Each has a buffer of its own, as a step overwrites all of them.
    buffers: set[int] = set()
    for i, value in enumerate(values):
      if not isinstance(value, jax.Array):  # A constant.
        value = jnp.array(value)
      buffer = value.unsafe_buffer_pointer()
      values[i] = jnp.copy(value) if buffer in buffers else value
      buffers.add(buffer)
    return jax.tree.unflatten(jax.tree.structure(shape), values)

  return call


def _is_variable(atom: Any) -> bool:
  return isinstance(atom, core.Var)
