"""What a training step carries: parameters, optimizer state, step.

Two classes with one interface. `FlaxOptimTrainState` trains;
`InferenceState` leaves the optimizer out. Both are pytrees, and both can be
turned into a tree of logical axis names of the same shape
(`as_logical_axes`), from which a partitioner derives shardings.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import flax.core
from flax.linen import partitioning as flax_partitioning
import flax.struct
import jax
import jax.numpy as jnp

from stepdistill_jax.util import errors

EMPTY_DICT = flax.core.freeze({})
FrozenDict = flax.core.FrozenDict
FrozenVariableDict = flax.core.FrozenDict[str, Any]
MutableVariableDict = VariableDict = Mapping[str, Any]


def _axis_names(axes) -> FrozenVariableDict:
  return flax_partitioning.get_axis_names(axes or EMPTY_DICT)


def _check_axes_complete(axes, variables) -> None:
  """Raises ValueError unless every variable has axis names."""
  unnamed = (set(traverse_util.flatten_dict(variables, sep="/"))
             - set(traverse_util.flatten_dict(_axis_names(axes), sep="/")))
  if unnamed:
    names = ", ".join(map(repr, sorted(unnamed)))
    raise ValueError(f"Missing axis names for parameters: {{{names}}}")


def _split_variables(model_variables) -> tuple[Any, dict[str, Any]]:
  """Splits a flax variable dict: (params, the other fields of a state).

  The axes of a collection `c` are those in the collection `c_axes`.
  """
  rest = dict(flax.core.unfreeze(model_variables))
  axes = {k.removesuffix("_axes"): rest.pop(k)
          for k in list(rest) if k.endswith("_axes")}
  for name, collection_axes in axes.items():
    _check_axes_complete(collection_axes, rest[name])
  freeze = flax.core.freeze
  params, params_axes = rest.pop("params"), axes.pop("params", None)
  return freeze(params), {
      "params_axes": None if params_axes is None else freeze(params_axes),
      "flax_mutables": freeze(rest),
      "flax_mutables_axes": freeze(axes) if axes else None}


class TrainState(abc.ABC):
  """What both states offer, besides `step` and `params`."""

  @abc.abstractmethod
  def state_dict(self) -> Mapping[str, Any]:
    """A nested dict: `target`, `state`, and `flax_mutables` if any."""

  @abc.abstractmethod
  def restore_state(self, state_dict: Mapping[str, Any]) -> TrainState:
    """The inverse of `state_dict`."""

  @abc.abstractmethod
  def as_logical_axes(self) -> TrainState:
    """The same tree with axis names (or None) in the place of arrays."""

  def replace_flax_mutables(self, flax_mutables) -> TrainState:
    return self.replace(flax_mutables=flax_mutables)

  def _with_mutables(self, state_dict):
    if self.flax_mutables:
      state_dict["flax_mutables"] = flax.core.unfreeze(self.flax_mutables)
    return state_dict


def _mutables_of(state_dict):
  return flax.core.freeze(state_dict.get("flax_mutables", {}))


class FlaxOptimTrainState(flax.struct.PyTreeNode, TrainState):
  """Parameters with the state of their optimizer."""

  _optimizer: Any
  params_axes: FrozenVariableDict | None = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: FrozenVariableDict | None = None

  @classmethod
  def create(cls, optimizer_def, model_variables) -> FlaxOptimTrainState:
    """Makes the state of step 0.

    Args:
      optimizer_def: an `optimizers.OptimizerDef`. One with `set_param_axes`
        (Adafactor) gets the axis names before its state is made.
    """
    params, others = _split_variables(model_variables)
    if not hasattr(optimizer_def, "create"):
      raise errors.InvalidValue(
          f"OPTIMIZER is a {type(optimizer_def).__name__}, no optimizer "
          "definition; take optax's from t5x.optimizers, such as "
          "@optimizers.adamw(), or wrap it in @optimizers.OptaxWrapper()")
    if hasattr(optimizer_def, "set_param_axes"):
      if others["params_axes"] is None:
        raise ValueError(
            f"{type(optimizer_def).__name__} factors parameters by their axis "
            "names, but the model emits no `params_axes`")
      optimizer_def.set_param_axes(_axis_names(others["params_axes"]))
    return cls(optimizer_def.create(params), **others)

  @property
  def step(self):
    return self._optimizer.state.step

  @property
  def params(self):
    return self._optimizer.target

  @property
  def param_states(self):
    return self._optimizer.state.param_states

  def state_dict(self):
    return self._with_mutables(self._optimizer.state_dict())

  def restore_state(self, state_dict):
    return self.replace(_optimizer=self._optimizer.restore_state(state_dict),
                        flax_mutables=_mutables_of(state_dict))

  def apply_gradient(self, grads, learning_rate, flax_mutables=EMPTY_DICT):
    """One optimizer update; increments `step`."""
    optimizer = self._optimizer.apply_gradient(
        grads, learning_rate=learning_rate)
    return self.replace(_optimizer=optimizer, flax_mutables=flax_mutables)

  def replace_params(self, params):
    return self.replace(_optimizer=self._optimizer.replace(target=params))

  def replace_step(self, step):
    state_dict = self.state_dict()
    state_dict["state"]["step"] = step
    return self.restore_state(state_dict)

  def as_logical_axes(self):
    optimizer_def = self._optimizer.optimizer_def
    if not hasattr(optimizer_def, "derive_logical_axes"):
      raise ValueError(
          f"{type(optimizer_def).__name__} has no `derive_logical_axes`, so "
          "its state cannot be sharded by axis names")
    return FlaxOptimTrainState(
        optimizer_def.derive_logical_axes(
            self._optimizer, _axis_names(self.params_axes)),
        flax_mutables=_axis_names(self.flax_mutables_axes))


class InferenceState(flax.struct.PyTreeNode, TrainState):
  """Parameters without an optimizer, for evaluation and inference."""

  step: jax.Array | None
  params: FrozenVariableDict
  params_axes: FrozenVariableDict | None = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: FrozenVariableDict | None = None

  @classmethod
  def create(cls, model_variables) -> InferenceState:
    params, others = _split_variables(model_variables)
    return cls(step=jnp.array(0), params=params, **others)

  @property
  def param_states(self):
    """Not there, as there is no optimizer."""
    raise NotImplementedError("an InferenceState has no optimizer's state")

  def apply_gradient(self, *args, **kwargs):
    """Not there, as there is no optimizer."""
    raise NotImplementedError("an InferenceState cannot be trained")

  def state_dict(self):
    return self._with_mutables({
        "target": flax.core.unfreeze(self.params),
        "state": {"step": self.step}})

  def restore_state(self, state_dict):
    return self.replace(params=flax.core.freeze(state_dict["target"]),
                        step=state_dict["state"]["step"],
                        flax_mutables=_mutables_of(state_dict))

  def replace_params(self, params):
    return self.replace(params=params)

  def replace_step(self, step):
    return self.replace(step=step)

  def as_logical_axes(self):
    return InferenceState(
        step=None,  # A scalar: replicated.
        params=_axis_names(self.params_axes),
        flax_mutables=_axis_names(self.flax_mutables_axes))
