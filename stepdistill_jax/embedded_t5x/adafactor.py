"""Adafactor as T5 is trained with it (https://arxiv.org/abs/1804.04235).

The second moments of a matrix are kept as the means of its rows and columns,
so that the optimizer needs hardly any memory. Steps are scaled by the
parameter's own size.

Which axes are "row" and which "column" matters for parameters of more than
two axes and for stacked layers. *Factor rules* say which: a `FactorDim`
for each axis, given by logical axis names (`logical_factor_rules`) or by
parameter names (`factor_map`). Matrices and vectors fall back on the
heuristic that T5 was trained with: the two largest axes, if large enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import enum
import re
from typing import Any

from flax import struct
from flax.core import frozen_dict
import jax
import jax.numpy as jnp
import numpy as np

from stepdistill_jax.embedded_t5x import optimizers
from stepdistill_jax.util import errors

Array = Any
PyTree = Any
OptimizerState = optimizers.OptimizerState
_flat, _unflat = optimizers.flatten, optimizers.nest_like


class FactorDim(enum.Enum):
  """An axis' part in the factored second moments."""

  NONE = None  # Not factored.
  BATCH = 1  # Slices are parameters of their own, never averaged over.
  ROW = 2
  COLUMN = 3


class HeuristicRule(enum.Enum):
  token = 1


HEURISTIC_RULE = HeuristicRule.token
FactorRule = HeuristicRule | tuple[FactorDim, ...]

_FACTOR_DIM_NAMES = {
    "row": FactorDim.ROW, "col": FactorDim.COLUMN, "column": FactorDim.COLUMN,
    "batch": FactorDim.BATCH, "none": FactorDim.NONE,
    "unfactorized": FactorDim.NONE}


def factor_name_to_factordim(name: str | FactorDim | None) -> FactorDim:
  """A `FactorDim` from its name as gin files write it."""
  if not isinstance(name, str):
    return name
  errors.require_known("factor", name.lower(), _FACTOR_DIM_NAMES)
  return _FACTOR_DIM_NAMES[name.lower()]


def standard_logical_factor_rules() -> Mapping[str, FactorDim]:
  """Factor rules for the logical axes of T5's and similar networks."""
  column = (
      "vocab", "mlp", "heads", "kv", "joined_kv", "q_wi_fused", "o_wo_fused",
      "multiquery_heads", "kv_fused", "mlp_activations")
  return frozen_dict.freeze({
      "embed": FactorDim.ROW,
      "layers": FactorDim.BATCH,  # Of scanned layers.
      "stack": FactorDim.BATCH,  # Of stacked parameters.
      "relpos_buckets": FactorDim.NONE,
      "layer_norm_scale": FactorDim.NONE,
      **{name: FactorDim.COLUMN for name in column},
  })


class NoRuleError(errors.UserError, KeyError):
  """A parameter or axis has no rule, where T5X raises KeyError."""

  __str__ = Exception.__str__  # KeyError's shows quotes.


class HParamMap:
  """Values by parameter name: the first rule whose pattern is found in it.

      HParamMap([(".*bias", False), (".*", True)])["encoder/bias"] is False
  """

  def __init__(self, rules: Sequence[tuple[str, Any]]):
    self._rules = [(re.compile(pattern), value) for pattern, value in rules]

  def __getitem__(self, key: str) -> Any:
    for pattern, value in self._rules:
      if pattern.search(key):
        return value
    raise NoRuleError(
        f"no rule matches the parameter {key}; add (\".*\", DEFAULT) as the "
        "last rule")

  def __call__(self, params: PyTree) -> PyTree:
    """The tree of `params` with values in place of leaves."""
    return _unflat(
        params, {path: self["/".join(path)] for path in _flat(params)})


@struct.dataclass
class _AdafactorParamState:
  """Second moments (factored or not) and momentum; `[1]` where unused."""

  v_row: Array
  v_col: Array
  v: Array
  m: Array


# The axes averaged over for a parameter's scale, and (row axes, column axes)
# or None where the second moments are not factored.
_Axes = tuple[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]] | None]


@dataclasses.dataclass
class Adafactor(optimizers.OptimizerDef):
  """Adafactor; it is its own `hyper_params`.

  With G the gradient, R and C the running means of G² + epsilon1 over the
  column and row axes:

      V = R Cᵀ / mean(R)
      U = G / sqrt(V), divided by max(1, rms(U) / clipping_threshold)
      parameter -= learning_rate · max(epsilon2, rms(parameter)) · U

  Attributes:
    learning_rate: relative step size; the trainer overrides it each step.
    factored: False keeps all second moments, as Adam does.
    multiply_by_parameter_scale: whether steps are relative to the
      parameter's root mean square; may differ by name (`HParamMap`).
    decay_rate: second moments decay with 1 - step^-decay_rate.
    step_offset: the step at which fine-tuning starts: restarts the decay.
    clipping_threshold: of the update's root mean square, or None.
    weight_decay_rate: share of a parameter taken away each step, or None.
    min_dim_size_to_factor: matrices with a smaller side are not factored.
    logical_factor_rules: factor rules by logical axis name; take the place
      of `factor_map` where the model names its axes.
    weight_decay_rate_lr_exponent: multiplies the weight decay by
      learning_rate to this power, or None.
    global_norm_clip_threshold: of the gradient's norm over all parameters,
      or None.
    skip_nan_updates: keeps what an update would turn into NaN.
  """

  learning_rate: float | None = None
  factored: bool = True
  multiply_by_parameter_scale: bool | HParamMap = True
  beta1: float | None = None
  decay_rate: float = 0.8
  step_offset: int = 0
  clipping_threshold: float | None = 1.0
  weight_decay_rate: float | None = None
  min_dim_size_to_factor: int = 128
  epsilon1: float = 1e-30
  epsilon2: float = 1e-3
  dtype_momentum: Any = jnp.float32
  factor_map: HParamMap | Mapping[str, FactorRule] | None = None
  logical_factor_rules: Mapping[str, FactorDim] | None = None
  weight_decay_rate_lr_exponent: float | None = None
  global_norm_clip_threshold: float | None = None
  max_parameter_scale: float | None = None
  skip_nan_updates: bool | None = False

  def __post_init__(self):
    if not self.factored and self.factor_map is not None:
      raise errors.InvalidValue(
          "Adafactor: factor_map was given with factored=False")
    if not isinstance(self.multiply_by_parameter_scale, (bool, HParamMap)):
      raise TypeError(
          "Adafactor: multiply_by_parameter_scale must be a bool or an "
          f"HParamMap, got {type(self.multiply_by_parameter_scale).__name__}")
    if not isinstance(self.factor_map, (type(None), HParamMap)):
      raise TypeError(
          "Adafactor: factor_map must be None or an HParamMap, got "
          f"{type(self.factor_map).__name__}")
    self.dtype_momentum = jax.dtypes.canonicalize_dtype(self.dtype_momentum)

  def __hash__(self) -> int:
    return id(self)

  @property
  def hyper_params(self) -> Adafactor:
    return self

  def replace(self, **changes) -> Adafactor:
    new = copy.copy(self)
    vars(new).update(changes)
    return new

  def init_state(self, params):
    states = {
        path: self.init_param_state(param, "/".join(path))
        for path, param in _flat(params).items()}
    return OptimizerState(jnp.asarray(0, jnp.int32), _unflat(params, states))

  def init_param_state(self, param: Array, path: str) -> _AdafactorParamState:
    unused = jnp.zeros((1,))
    state = _AdafactorParamState(v_row=unused, v_col=unused, v=unused, m=unused)
    _, factored = self._axes(param.shape, path)
    if factored is None:
      state = state.replace(v=jnp.zeros(param.shape, jnp.float32))
    else:
      rows, columns = factored
      state = state.replace(
          v_row=jnp.zeros(np.delete(param.shape, columns), jnp.float32),
          v_col=jnp.zeros(np.delete(param.shape, rows), jnp.float32))
    if self.beta1 is not None:
      state = state.replace(m=jnp.zeros(param.shape, self.dtype_momentum))
    return state

  def apply_gradient(self, hyper_params, params, state, grads):
    flat_params, flat_grads = _flat(params), _flat(grads)
    flat_states = _flat(state.param_states)
    limit = hyper_params.global_norm_clip_threshold
    if limit:
      squares = [jnp.sum(jnp.square(flat_grads[p])) for p in flat_params]
      norm = jnp.sqrt(jnp.sum(jnp.array(squares)))
      scale = limit * jnp.minimum(1.0 / limit, 1.0 / norm)
      flat_grads = {path: g * scale for path, g in flat_grads.items()}
    new_params, new_states = {}, {}
    for path, param in flat_params.items():
      new_params[path], new_states[path] = hyper_params.apply_param_gradient(
          state.step, param, flat_states[path], flat_grads[path],
          "/".join(path))
    return _unflat(params, new_params), OptimizerState(
        state.step + 1, _unflat(params, new_states))

  def apply_param_gradient(
      self, step: Array, param: Array, state: _AdafactorParamState,
      grad: Array, path: str) -> tuple[Array, _AdafactorParamState]:
    """One parameter's step; see the class for the equations."""
    if self.learning_rate is None:
      raise errors.InvalidValue(
          "Adafactor has no learning rate; set trainer.Trainer."
          "learning_rate_fn, or Adafactor.learning_rate")
    averaged, factored = self._axes(param.shape, path)
    step_size = self.learning_rate
    relative = self.multiply_by_parameter_scale
    if isinstance(relative, HParamMap):
      relative = relative[path]
    if relative:
      scale = jnp.maximum(_root_mean_square(param, averaged), self.epsilon2)
      if self.max_parameter_scale is not None:
        scale = jnp.minimum(scale, self.max_parameter_scale)
      step_size = step_size * scale

    new_state, update = self._precondition(
        step, factored, state, grad.astype(jnp.float32))
    if self.clipping_threshold is not None:
      update = update / jnp.maximum(
          1.0, _root_mean_square(update, averaged) / self.clipping_threshold)
    update = step_size * update
    if self.beta1 is not None:
      update = self.beta1 * state.m + (1.0 - self.beta1) * update
      new_state = new_state.replace(m=update.astype(self.dtype_momentum))

    decay = self.weight_decay_rate
    if self.weight_decay_rate_lr_exponent:
      decay = (decay or 1.0) * (
          self.learning_rate ** self.weight_decay_rate_lr_exponent)
    new_param = (param if decay is None else (1.0 - decay) * param) - update
    if self.skip_nan_updates:
      new_state, new_param = jax.tree.map(
          lambda new, old: jnp.where(jnp.isnan(new), old, new),
          (new_state, new_param), (state, param))
    return new_param.astype(param.dtype), new_state

  def _precondition(
      self, step: Array, factored, state: _AdafactorParamState, grad: Array
  ) -> tuple[_AdafactorParamState, Array]:
    """New second moments, and the gradient over their root."""
    # Steps count from 1, so that the first replaces all.
    count = jnp.array(step - self.step_offset, jnp.float32) + 1.0
    decay_rate = 1.0 - count ** (-self.decay_rate)
    mixing_rate = 1.0 - decay_rate
    unused = jnp.zeros((1,))
    state = state.replace(m=unused)
    square = grad * grad + self.epsilon1
    if factored is None:
      v = decay_rate * state.v + mixing_rate * square
      return state.replace(v_row=unused, v_col=unused, v=v), grad * v ** -0.5
    rows, columns = factored
    v_row = decay_rate * state.v_row + mixing_rate * jnp.mean(square, columns)
    v_col = decay_rate * state.v_col + mixing_rate * jnp.mean(square, rows)
    # The row axes as v_row counts them, its column axes being gone.
    rows_left = tuple(r - sum(c < r for c in columns) for r in rows)
    row_mean = jnp.mean(v_row, rows_left, keepdims=True)
    row_factor = jnp.expand_dims((v_row / row_mean) ** -0.5, columns)
    col_factor = jnp.expand_dims(v_col ** -0.5, rows)
    state = state.replace(v_row=v_row, v_col=v_col, v=unused)
    return state, grad * row_factor * col_factor

  def _axes(self, shape: Sequence[int], path: str) -> _Axes:
    """The axes to average over, and those to factor along."""
    every = tuple(range(len(shape)))
    if not self.factored:
      return every, None
    rule = self.factor_map[path] if self.factor_map else HEURISTIC_RULE
    if rule is None:
      return every, None
    if rule is HEURISTIC_RULE:
      if len(shape) > 2:
        raise errors.InvalidValue(
            f"Adafactor needs a factor rule for {path}, which has shape "
            f"{tuple(shape)}; bind Adafactor.logical_factor_rules = "
            "@adafactor.standard_logical_factor_rules()")
      return every, self._largest_axes(shape)
    if len(rule) != len(shape):
      raise errors.InvalidValue(
          f"Adafactor's factor rule {rule} does not fit {path}, which has "
          f"shape {tuple(shape)}")
    of = lambda dim: tuple(i for i, d in enumerate(rule) if d == dim)
    if len(shape) <= 2 and FactorDim.BATCH not in rule:
      # Whatever the rule says: as the public T5 checkpoints were trained.
      return every, self._largest_axes(shape)
    averaged = tuple(i for i in every if i not in of(FactorDim.BATCH))
    factored = of(FactorDim.ROW), of(FactorDim.COLUMN)
    return averaged, factored if any(factored) else None

  def _largest_axes(self, shape):
    """The heuristic: the largest axis is the column, the next the row."""
    if len(shape) < 2:
      return None
    order = np.argsort(shape)  # Its order of equal sizes is T5X's too.
    if shape[order[-2]] < self.min_dim_size_to_factor:
      return None
    return (int(order[-2]),), (int(order[-1]),)

  def set_param_axes(self, param_logical_axes: PyTree) -> None:
    """Turns `logical_factor_rules` into rules for these parameters."""
    names = self.logical_factor_rules
    if names is None:
      return

    def rule(path, axes):
      for axis in axes:
        if axis not in names:
          raise NoRuleError(
              f"Adafactor.logical_factor_rules have none for the axis {axis!r} "
              f"of {path}; add for instance {axis!r}: 'none'")
      dims = tuple(factor_name_to_factordim(names[axis]) for axis in axes)
      if {FactorDim.ROW, FactorDim.COLUMN} <= set(dims):
        if FactorDim.NONE in dims:
          raise errors.InvalidValue(
              f"Adafactor's logical_factor_rules leave an axis of {path} "
              f"unfactored beside rows and columns: {tuple(axes)} -> {dims}")
        return dims
      # Rows without columns don't factor; stacked layers stay apart.
      return tuple(
          d if d is FactorDim.BATCH else FactorDim.NONE for d in dims)

    self.factor_map = {
        "/".join(path): rule("/".join(path), axes)
        for path, axes in _flat(param_logical_axes).items()}

  def derive_logical_axes(
      self, optimizer_state: optimizers.Optimizer, param_logical_axes: PyTree
  ) -> optimizers.Optimizer:
    """The optimizer with logical axes in place of arrays.

    Full second moments and momentum are laid out like their parameter;
    row and column means are small and replicated (None).
    """
    states = {}
    for path, state in _flat(optimizer_state.state.param_states).items():
      axes = _flat(param_logical_axes)[path]
      states[path] = _AdafactorParamState(
          v_row=None, v_col=None, v=axes if state.v.shape != (1,) else None,
          m=axes if self.beta1 else None)
    return optimizer_state.replace(
        state=OptimizerState(None, _unflat(param_logical_axes, states)),
        target=param_logical_axes)


_AdafactorHyperParams = Adafactor  # T5X's name, which its users' tests take.


def _root_mean_square(x: Array, axes: tuple[int, ...]) -> Array:
  return jnp.sqrt(jnp.mean(x * x, axis=axes, keepdims=True))
