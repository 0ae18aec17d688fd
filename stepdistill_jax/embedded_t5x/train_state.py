"""What a training step carries: parameters, optimizer state, step.

Two classes with one interface. `FlaxOptimTrainState` trains;
`InferenceState` leaves the optimizer out. Both are pytrees, and both can be
turned into a tree of logical axis names of the same shape
(`as_logical_axes`), from which a partitioner derives shardings.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Protocol, runtime_checkable

import flax.core
import flax.struct
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp

EMPTY_DICT = flax.core.freeze({})
FrozenDict = flax.core.FrozenDict
FrozenVariableDict = flax.core.FrozenDict[str, Any]


@runtime_checkable
class TrainState(Protocol):
  """What both states offer."""

  step: jax.Array
  params: FrozenVariableDict
  param_states: FrozenVariableDict
  flax_mutables: FrozenVariableDict

  def state_dict(self) -> Mapping[str, Any]:
    """A nested dict: `target`, `state`, and `flax_mutables` if any."""
    ...

  def restore_state(self, state_dict: Mapping[str, Any]) -> "TrainState":
    """The inverse of `state_dict`."""
    ...

  def replace_params(self, params) -> "TrainState":
    ...

  def replace_flax_mutables(self, flax_mutables) -> "TrainState":
    ...

  def replace_step(self, step) -> "TrainState":
    ...

  def apply_gradient(self, grads, learning_rate, flax_mutables=EMPTY_DICT):
    """One optimizer update; increments `step`."""
    ...

  def as_logical_axes(self) -> "TrainState":
    """The same tree with axis names (or None) in the place of arrays."""
    ...


def _check_axes_complete(axes, variables):
  """Raises ValueError unless every variable has axis names."""
  named = traverse_util.flatten_dict(
      flax_partitioning.get_axis_names(axes), sep="/")
  unnamed = set(traverse_util.flatten_dict(variables, sep="/")) - set(named)
  if unnamed:
    raise ValueError(f"Parameters without axis names: {sorted(unnamed)}")


def _split_variables(model_variables):
  """Splits a flax variable dict.

  Returns:
    (params, params_axes or None, mutables, mutables_axes or None). The axes of
    a collection `c` are those in the collection `c_axes`.
  """
  rest = dict(flax.core.unfreeze(model_variables))
  params = rest.pop("params")
  params_axes = rest.pop("params_axes", None)
  if params_axes is not None:
    _check_axes_complete(params_axes, params)
  axes = {k.removesuffix("_axes"): rest.pop(k)
          for k in list(rest) if k.endswith("_axes")}
  for name, collection_axes in axes.items():
    _check_axes_complete(collection_axes, rest[name])
  freeze = flax.core.freeze
  return (freeze(params),
          None if params_axes is None else freeze(params_axes),
          freeze(rest), freeze(axes) if axes else None)


def _mutables_of(state_dict):
  return flax.core.freeze(state_dict.get("flax_mutables", {}))


class FlaxOptimTrainState(flax.struct.PyTreeNode):
  """Parameters with the state of their optimizer."""

  _optimizer: Any
  params_axes: Optional[FrozenVariableDict] = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: Optional[FrozenVariableDict] = None

  @classmethod
  def create(cls, optimizer_def, model_variables) -> "FlaxOptimTrainState":
    """Makes the state of step 0.

    Args:
      optimizer_def: an `optimizers.OptimizerDef`. One with `set_param_axes`
        (Adafactor) is told the axis names before its state is made.
      model_variables: what `Module.init` returned.
    """
    params, params_axes, mutables, mutables_axes = _split_variables(
        model_variables)
    if hasattr(optimizer_def, "set_param_axes"):
      if params_axes is None:
        raise ValueError(
            f"{type(optimizer_def).__name__} factors parameters by their axis "
            "names, but the model emits no `params_axes`")
      optimizer_def.set_param_axes(
          flax_partitioning.get_axis_names(params_axes))
    return cls(optimizer_def.create(params), params_axes=params_axes,
               flax_mutables=mutables, flax_mutables_axes=mutables_axes)

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
    state_dict = self._optimizer.state_dict()
    if self.flax_mutables:
      state_dict["flax_mutables"] = flax.core.unfreeze(self.flax_mutables)
    return state_dict

  def restore_state(self, state_dict):
    return self.replace(_optimizer=self._optimizer.restore_state(state_dict),
                        flax_mutables=_mutables_of(state_dict))

  def apply_gradient(self, grads, learning_rate, flax_mutables=EMPTY_DICT):
    optimizer = self._optimizer.apply_gradient(
        grads, learning_rate=learning_rate)
    return self.replace(_optimizer=optimizer, flax_mutables=flax_mutables)

  def replace_params(self, params):
    return self.replace(_optimizer=self._optimizer.replace(target=params))

  def replace_flax_mutables(self, flax_mutables):
    return self.replace(flax_mutables=flax_mutables)

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
        _optimizer=optimizer_def.derive_logical_axes(
            self._optimizer,
            flax_partitioning.get_axis_names(self.params_axes)),
        flax_mutables=flax_partitioning.get_axis_names(
            self.flax_mutables_axes or EMPTY_DICT))


class InferenceState(flax.struct.PyTreeNode):
  """Parameters without an optimizer, for evaluation and inference."""

  step: Optional[jax.Array]
  params: FrozenVariableDict
  params_axes: Optional[FrozenVariableDict] = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: Optional[FrozenVariableDict] = None

  @classmethod
  def create(cls, model_variables) -> "InferenceState":
    params, params_axes, mutables, mutables_axes = _split_variables(
        model_variables)
    return cls(step=jnp.array(0), params=params, params_axes=params_axes,
               flax_mutables=mutables, flax_mutables_axes=mutables_axes)

  @property
  def param_states(self):
    raise NotImplementedError("An InferenceState has no optimizer state")

  def apply_gradient(self, *args, **kwargs):
    raise NotImplementedError("An InferenceState cannot be trained")

  def state_dict(self):
    state_dict = {"target": flax.core.unfreeze(self.params),
                  "state": {"step": self.step}}
    if self.flax_mutables:
      state_dict["flax_mutables"] = flax.core.unfreeze(self.flax_mutables)
    return state_dict

  def restore_state(self, state_dict):
    return self.replace(params=flax.core.freeze(state_dict["target"]),
                        step=state_dict["state"]["step"],
                        flax_mutables=_mutables_of(state_dict))

  def replace_params(self, params):
    return self.replace(params=params)

  def replace_flax_mutables(self, flax_mutables):
    return self.replace(flax_mutables=flax_mutables)

  def replace_step(self, step):
    return self.replace(step=step)

  def as_logical_axes(self):
    return InferenceState(
        step=None,  # A scalar: replicated.
        params=flax_partitioning.get_axis_names(self.params_axes),
        flax_mutables=flax_partitioning.get_axis_names(
            self.flax_mutables_axes or EMPTY_DICT))
