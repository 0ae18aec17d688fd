"""Optimizers: T5X's interface, optax inside.

An `OptimizerDef` knows the rule, an `Optimizer` is a pytree of parameters
(`target`) and state that carries its def along. State dicts have T5X's
layout, `{"target": ..., "state": {"step": ..., "param_states": ...}}`, so
that checkpoints are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any
import warnings

from flax import serialization, struct, traverse_util
from flax.core import frozen_dict
import jax
import jax.experimental.pjit
import jax.numpy as jnp
import optax

from stepdistill_jax.util import errors

PyTree = Any
Path = tuple[str, ...]
# Gin files of `MultiOptimizer` name flax's traversals, which still work.
warnings.filterwarnings(
    "ignore", "`flax.traverse_util.Traversal` will be deprecated",
    DeprecationWarning)


@struct.dataclass
class OptimizerState:
  """Steps taken, and the state of each parameter."""

  step: jax.Array
  param_states: PyTree


class OptimizerDef:
  """A rule that updates parameters.

  Attributes:
    hyper_params: has `replace`; its `learning_rate` is what the trainer
      overrides at each step.
  """

  def __init__(self, hyper_params: Any):
    self.hyper_params = hyper_params

  def init_state(self, params: PyTree) -> OptimizerState:
    raise NotImplementedError()

  def apply_gradient(
      self, hyper_params: Any, params: PyTree, state: OptimizerState,
      grads: PyTree) -> tuple[PyTree, OptimizerState]:
    """One step: the new parameters and the new state."""
    raise NotImplementedError()

  def update_hyper_params(self, **hyper_param_overrides) -> Any:
    """The hyper parameters with overrides; `hyper_params` replaces all."""
    new = hyper_param_overrides.pop("hyper_params", self.hyper_params)
    return new.replace(**hyper_param_overrides)

  def create(self, target: PyTree) -> Optimizer:
    return Optimizer(self, self.init_state(target), target)

  def state_dict(self, target: PyTree, state: OptimizerState) -> dict:
    """Nested dicts of arrays, for checkpoints.

    Checkpoints hold arrays: empty dicts (`optax.EmptyState`) would be lost in
    them, and are left out.
    """
    flat = traverse_util.flatten_dict(serialization.to_state_dict(state))
    return {"target": serialization.to_state_dict(target),
            "state": traverse_util.unflatten_dict(flat)}

  def restore_state(
      self, opt_target: PyTree, opt_state: OptimizerState,
      state_dict: Mapping[str, Any]) -> tuple[PyTree, OptimizerState]:
    """The inverse of `state_dict`; the first arguments give the structure."""
    wanted = traverse_util.flatten_dict(
        serialization.to_state_dict(opt_state), keep_empty_nodes=True)
    given = dict(traverse_util.flatten_dict(state_dict["state"]))
    for path, value in wanted.items():
      if value is traverse_util.empty_node:
        given.setdefault(path, value)
      elif path not in given:
        raise errors.InvalidValue(
            f"the optimizer state to restore has no {'/'.join(path)}; was it "
            "saved with another optimizer? To start with a fresh optimizer "
            "state, restore the parameters only")
    return (
        serialization.from_state_dict(opt_target, state_dict["target"]),
        serialization.from_state_dict(
            opt_state, traverse_util.unflatten_dict(given)))


class Optimizer(struct.PyTreeNode):
  """Parameters and optimizer state, with the rule that updates them."""

  optimizer_def: OptimizerDef = struct.field(pytree_node=False)
  state: OptimizerState
  target: PyTree

  def apply_gradient(self, grads: PyTree, **hyper_param_overrides) -> Optimizer:
    """One step; overrides as in `OptimizerDef.update_hyper_params`."""
    hyper_params = self.optimizer_def.update_hyper_params(
        **hyper_param_overrides)
    target, state = self.optimizer_def.apply_gradient(
        hyper_params, self.target, self.state, grads)
    return self.replace(target=target, state=state)

  def state_dict(self) -> dict:
    return self.optimizer_def.state_dict(self.target, self.state)

  def restore_state(self, state: Mapping[str, Any]) -> Optimizer:
    target, state = self.optimizer_def.restore_state(
        self.target, self.state, state)
    return self.replace(target=target, state=state)


OptimizerType = Optimizer
OptimizerStateType = OptimizerState | Mapping[str, Any]
OptimizerDefType = OptimizerDef


@struct.dataclass
class _OptaxHyperParams:
  # The trainer sets it; optax schedules its own learning rate.
  learning_rate: float | None = None


class OptaxWrapper(OptimizerDef):
  """An optax transformation as an `OptimizerDef`.

  Its learning rate is the one that optax was given, a number or a schedule;
  the trainer's schedule is not used.
  """

  def __init__(self, optax_optimizer: optax.GradientTransformation):
    self.optax_optimizer = optax_optimizer
    super().__init__(hyper_params=_OptaxHyperParams())

  def init_state(self, params):
    return OptimizerState(
        jnp.asarray(0, jnp.int32), self.optax_optimizer.init(params))

  def apply_gradient(self, hyper_params, params, state, grads):
    del hyper_params
    updates, param_states = self.optax_optimizer.update(
        grads, state.param_states, params)
    return optax.apply_updates(params, updates), OptimizerState(
        state.step + 1, param_states)

  def derive_logical_axes(
      self, optimizer: Optimizer, param_logical_axes: PyTree) -> Optimizer:
    """The optimizer with logical axes in place of arrays.

    A state array is laid out like the parameter whose path ends its own and
    whose shape it has (moments); all others (counts, factors) are replicated,
    which is None.
    """
    axes = flatten(param_logical_axes)
    shapes = {k: v.shape for k, v in flatten(optimizer.target).items()}

    def axes_of(key_path, leaf):
      keys = tuple(str(getattr(key, "key", getattr(key, "name", key)))
                   for key in key_path)
      return next(
          (axes[path] for path in (keys[i:] for i in range(len(keys)))
           if path in axes and shapes[path] == jnp.shape(leaf)), None)

    states = jax.tree_util.tree_map_with_path(
        axes_of, optimizer.state.param_states)
    return optimizer.replace(
        state=OptimizerState(None, states), target=param_logical_axes)


def wrap_optax_optimizer(
    optax_optimizer: Callable[..., optax.GradientTransformation]
) -> Callable[..., OptimizerDef]:
  """Turns an optax constructor into one of `OptaxWrapper`s.

  The signature stays, so that gin binds its arguments.
  """

  @functools.wraps(optax_optimizer)
  def wrapped_optimizer(*args, **kwargs) -> OptimizerDef:
    return OptaxWrapper(optax_optimizer(*args, **kwargs))

  return wrapped_optimizer


def _chain(transformations: Sequence[optax.GradientTransformation]
           ) -> optax.GradientTransformation:
  """`optax.chain` of a list: gin has no *args."""
  return optax.chain(*transformations)


def _amos(*args, **kwargs) -> optax.GradientTransformation:
  """Amos, of the package jestimator, which is not installed by default."""
  # jestimator 0.3.3 looks for it where JAX used to have it.
  jax.experimental.pjit.PartitionSpec = jax.sharding.PartitionSpec
  try:
    from jestimator import amos as jestimator_amos
  except ImportError as error:
    raise errors.InvalidValue(
        f"optimizers.amos needs the package jestimator ({error}); "
        "`pip install jestimator`") from error
  return jestimator_amos.amos(*args, **kwargs)


chain = wrap_optax_optimizer(_chain)
amos = wrap_optax_optimizer(_amos)
dpsgd = wrap_optax_optimizer(optax.contrib.dpsgd)
globals().update({name: wrap_optax_optimizer(getattr(optax, name)) for name in (
    "adabelief", "adagrad", "adam", "adamw", "fromage", "lars", "lamb", "lion",
    "noisy_sgd", "radam", "rmsprop", "sgd", "yogi")})


class MultiOptimizer(OptimizerDef):
  """Different optimizers for different parameters.

      kernels = ModelParamTraversal(lambda path, _: "kernel" in path)
      MultiOptimizer([(kernels, Adafactor(learning_rate=0.1))])

  Parameters that no traversal selects stay as they are. Optimizers whose
  state is one entry a parameter (Adafactor) fit; to mix optax optimizers,
  wrap `optax.multi_transform`.

  Attributes:
    hyper_params: a list, one entry for each of them.
  """

  def __init__(self, traversals_and_optimizers: Sequence[
      tuple[traverse_util.Traversal, OptimizerDef]]):
    self.traversals, self.sub_optimizers = zip(*traversals_and_optimizers)
    if any(isinstance(o, OptaxWrapper) for o in self.sub_optimizers):
      raise errors.InvalidValue(
          "MultiOptimizer cannot split an optax optimizer's state; use "
          "optimizers.chain with optax.multi_transform instead")
    super().__init__([o.hyper_params for o in self.sub_optimizers])

  def init_state(self, params):
    states = {}
    for paths, optimizer in self._parts(params):
      states |= flatten(
          optimizer.init_state(_subtree(params, paths)).param_states)
    return OptimizerState(jnp.asarray(0, jnp.int32), nest_like(params, states))

  def apply_gradient(self, hyper_params, params, state, grads):
    new_params, new_states = flatten(params), {}
    for (paths, optimizer), hyper in zip(self._parts(params), hyper_params):
      sub_state = OptimizerState(
          state.step, _subtree(state.param_states, paths))
      sub_params, sub_state = optimizer.apply_gradient(
          hyper, _subtree(params, paths), sub_state, _subtree(grads, paths))
      new_params |= flatten(sub_params)
      new_states |= flatten(sub_state.param_states)
    return nest_like(params, new_params), OptimizerState(
        state.step + 1, nest_like(params, new_states))

  def update_hyper_params(self, **hyper_param_overrides):
    """As the base's, applied to each optimizer's hyper parameters."""
    new = hyper_param_overrides.pop("hyper_params", self.hyper_params)
    return [hyper.replace(**hyper_param_overrides) for hyper in new]

  def set_param_axes(self, param_logical_axes: PyTree) -> None:
    for paths, optimizer in self._parts(param_logical_axes):
      if hasattr(optimizer, "set_param_axes"):
        optimizer.set_param_axes(_subtree(param_logical_axes, paths))

  def derive_logical_axes(
      self, optimizer: Optimizer, param_logical_axes: PyTree) -> Optimizer:
    states = {}
    for paths, sub in self._parts(param_logical_axes):
      state = OptimizerState(
          None, _subtree(optimizer.state.param_states, paths))
      part = sub.derive_logical_axes(
          Optimizer(sub, state, _subtree(optimizer.target, paths)),
          _subtree(param_logical_axes, paths))
      states |= flatten(part.state.param_states)
    return optimizer.replace(
        state=OptimizerState(None, nest_like(param_logical_axes, states)),
        target=param_logical_axes)

  def _parts(self, tree: PyTree) -> list[tuple[list[Path], OptimizerDef]]:
    """The paths that each traversal selects, with its optimizer."""
    paths = traverse_util.unflatten_dict({path: path for path in flatten(tree)})
    parts, owner = [], {}
    for i, traversal in enumerate(self.traversals):
      selected = list(traversal.iterate(paths))
      for path in selected:
        if owner.setdefault(path, i) != i:
          raise errors.InvalidValue(
              f"optimizers {owner[path]} and {i} of a MultiOptimizer both "
              f"select the parameter {'/'.join(path)}")
      parts.append((selected, self.sub_optimizers[i]))
    return parts


def flatten(tree: PyTree) -> dict[Path, Any]:
  """Path -> leaf, of nested dicts."""
  return traverse_util.flatten_dict(frozen_dict.unfreeze(tree))


def _subtree(tree: PyTree, paths: Sequence[Path]) -> PyTree:
  flat = flatten(tree)
  return traverse_util.unflatten_dict({path: flat[path] for path in paths})


def nest_like(tree: PyTree, flat: Mapping[Path, Any]) -> PyTree:
  """`flat` in the structure of `tree`, None for what it lacks."""
  nested = traverse_util.unflatten_dict(
      {path: flat.get(path) for path in flatten(tree)})
  if isinstance(tree, frozen_dict.FrozenDict):
    return frozen_dict.freeze(nested)
  return nested
