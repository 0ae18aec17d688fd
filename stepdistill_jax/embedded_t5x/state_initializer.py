"""Train states from scratch or from checkpoints, already sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import os
from typing import Any

from absl import logging
from etils import epath
from flax import traverse_util
import flax.core
import jax

from stepdistill_jax.embedded_t5x import (
  checkpoint_config,
  partitioning,
  train_state as train_state_lib,
)
from stepdistill_jax.util import equations, errors


class TrainStateInitializer:
  """Makes train states of one model on one partitioner.

  Attributes:
    global_train_state_shape: the state with `jax.ShapeDtypeStruct` leaves.
    train_state_axes: the state with PartitionSpec or None leaves.
  """

  def __init__(
      self, optimizer_def, init_fn: Callable[..., Mapping[str, Any]],
      input_shapes: Mapping[str, tuple[int, ...]], partitioner,
      input_types: Mapping[str, Any] | None = None):
    """Initializes.

    Args:
      input_shapes: of a global batch, by feature.
      input_types: dtypes by feature; float32 where not given.
    """

    def initialize(rng: jax.Array):
      variables = flax.core.freeze(init_fn(
          rng=rng, input_shapes=input_shapes, input_types=input_types))
      if optimizer_def:
        return train_state_lib.FlaxOptimTrainState.create(
            optimizer_def, variables)
      return train_state_lib.InferenceState.create(variables)

    self._partitioner = partitioner
    self._initialize = initialize
    # A function of its own: what JAX remembers of PRNGKey may be from a run
    # with other random bits.
    key_shape = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    shape_of = functools.partial(jax.eval_shape, initialize)
    # In the context of `from_scratch`, for which JAX has it traced then.
    self.global_train_state_shape = (
        self._on_one_device(shape_of) or shape_of)(key_shape)
    self.train_state_axes = partitioner.get_mesh_axes(
        self.global_train_state_shape)
    # Scanned layers ask for the parameters' shardings inside the scan.
    model = getattr(init_fn, "__self__", None)
    module = getattr(model, "module", None)
    if getattr(module, "scan_layers", False) and hasattr(
        module, "spmd_annotations"):
      model.module = module.clone(
          parent=None, spmd_annotations=self.train_state_axes.params)

  def _on_one_device(
      self, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function in the context of a mesh of one device, if it is one."""
    mesh = getattr(self._partitioner, "mesh", None)
    if mesh is None or mesh.size > 1:
      return None
    return partitioning.PjittedFnWithContext(
        function, mesh, self._partitioner.logical_axis_rules)

  def from_scratch(self, init_rng: jax.Array):
    """Initializes, each device making its own shards.

    One device alone takes the computation apart: parameters of a shape then
    share a program that is compiled once, and all of a network's make no
    program as large as a step's. The values are the same, but for rounding.
    """
    initialize = self._on_one_device(equations.one_by_one(self._initialize))
    if initialize is not None:
      return self._partitioner.move_params_to_devices(
          initialize(init_rng), self.train_state_axes)
    return self._partitioner.partition(
        self._initialize, in_axis_resources=None,
        out_axis_resources=self.train_state_axes)(init_rng)

  def restore(
      self, restore_cfg: checkpoint_config.RestoreCheckpointConfig, path: str,
      ds_iter=None, init_rng: jax.Array | None = None):
    """Restores one checkpoint as the config says."""
    fallback_state = get_fallback_state(
        restore_cfg, lambda rng: self.from_scratch(rng).state_dict(), init_rng)
    manager = create_orbax_checkpoint_manager(
        restore_cfg=restore_cfg, train_state=self.global_train_state_shape,
        partitioner=self._partitioner, ds_iter=ds_iter,
        model_dir=os.path.dirname(path.rstrip("/")))
    return restore(manager, [path], restore_cfg, fallback_state)

  def from_checkpoints(
      self, restore_cfgs: Sequence[checkpoint_config.RestoreCheckpointConfig],
      ds_iter=None, init_rng: jax.Array | None = None
  ) -> Iterable[tuple[Any, str]]:
    """Yields (state, path) for the first config with checkpoints."""
    cfg, paths = checkpoint_config.get_first_valid_restore_config_and_paths(
        restore_cfgs)
    for path in paths:
      yield self.restore(cfg, path, ds_iter, init_rng), path

  def from_checkpoint(
      self, ckpt_cfgs, *, ds_iter=None, init_rng: jax.Array | None = None):
    """The state of the only checkpoint, or None."""
    states = [s for s, _ in self.from_checkpoints(ckpt_cfgs, ds_iter, init_rng)]
    if len(states) > 1:
      raise ValueError(
          f"Expected at most 1 checkpoint, {len(states)} fit: {ckpt_cfgs}")
    return states[0] if states else None

  def from_checkpoint_or_scratch(
      self, ckpt_cfgs, *, init_rng: jax.Array, ds_iter=None):
    state = self.from_checkpoint(ckpt_cfgs, ds_iter=ds_iter, init_rng=init_rng)
    return self.from_scratch(init_rng) if state is None else state


def initializer_for(
    initializer_cls: Callable[..., TrainStateInitializer], model, partitioner,
    batch: Mapping[str, Any], optimizer_def=None) -> TrainStateInitializer:
  """Makes the initializer of a model for batches like one.

  Args:
    batch: feature -> array of a global batch, or its shape and dtype.
    optimizer_def: None restores parameters only.
  """
  return initializer_cls(
      optimizer_def=optimizer_def, init_fn=model.get_initial_variables,
      input_shapes={name: x.shape for name, x in batch.items()},
      input_types={name: x.dtype for name, x in batch.items()},
      partitioner=partitioner)


def get_fallback_state(
    restore_cfg: checkpoint_config.RestoreCheckpointConfig | None,
    init_fn: Callable[[jax.Array], Mapping[str, Any]],
    init_rng: jax.Array | None) -> Mapping[str, Any] | None:
  """What fills in for what a checkpoint lacks, if the config says so.

  Args:
    init_fn: makes a state dict of a key.

  Raises:
    ValueError: it does, and there is no key.
  """
  if restore_cfg is None or not restore_cfg.fallback_to_scratch:
    return None
  if init_rng is None:
    raise errors.InvalidValue(
        "`fallback_to_scratch` needs an `init_rng`; bind for instance "
        "eval_script.evaluate.fallback_init_rng = 0")
  return init_fn(init_rng)


def restore(
    checkpoint_manager, paths: Sequence[str] | None,
    restore_cfg: checkpoint_config.RestoreCheckpointConfig | None,
    fallback_state: Mapping[str, Any] | None = None):
  """Restores by a manager: the state of the only path, or a list of states."""
  if restore_cfg is None or paths is None:
    return None
  states = []
  for path in paths:
    if epath.Path(path + ".index").exists():  # TensorFlow's.
      if restore_cfg.state_transformation_fns:
        raise errors.InvalidValue(
            f"{path} is a TensorFlow checkpoint, which cannot be renamed: "
            "give neither `assignment_map` nor `state_transformation_fns`")
      return checkpoint_manager.restore_from_tf_checkpoint(
          path, strict=restore_cfg.strict)
    states.append(checkpoint_manager.restore(
        path=path, fallback_state=fallback_state,
        state_transformation_fns=restore_cfg.state_transformation_fns))
  return states[0] if len(states) == 1 else states


def create_orbax_checkpoint_manager(
    *, save_cfg: checkpoint_config.SaveCheckpointConfig | None = None,
    restore_cfg: checkpoint_config.RestoreCheckpointConfig | None = None,
    train_state, partitioner, ds_iter=None, model_dir: str | None = None):
  """The manager that two configs ask for.

  Args:
    train_state: the state's shapes.
    ds_iter: training data whose position is saved and restored, if a config
      says so.

  Raises:
    ValueError: the configs name different classes.
  """
  save = save_cfg
  if save and restore_cfg and (
      save.checkpoint_manager_cls is not restore_cfg.checkpoint_manager_cls):
    raise errors.InvalidValue(
        "SaveCheckpointConfig and RestoreCheckpointConfig must have the same "
        "checkpoint_manager_cls")
  options = {}
  if save is not None:
    # Gin files ask for the best checkpoints by this class's arguments.
    options = {"save_dtype": save.dtype, "keep": save.keep,
               "period": save.period, **save.checkpointer_cls(
                   train_state, partitioner, model_dir).manager_options}
  if restore_cfg is not None:
    options["restore_dtype"] = restore_cfg.dtype
  with_data = (save and save.save_dataset) or (
      restore_cfg and restore_cfg.restore_dataset)
  return (save or restore_cfg).checkpoint_manager_cls(
      model_dir, train_state, partitioner,
      dataset_iterator=ds_iter if with_data else None, **options)


class LegacyCheckpointManager:
  """T5X's manager over `checkpointer_cls`; it waits for each checkpoint."""

  def __init__(self, *, save_cfg, restore_cfg, train_state_shape, partitioner,
               ds_iter=None, model_dir: str | None = None):
    arguments = dict(train_state=train_state_shape, partitioner=partitioner)
    self._saves = save_cfg and save_cfg.checkpointer_cls(
        **arguments, checkpoints_dir=model_dir, save_dtype=save_cfg.dtype,
        dataset_iterator=ds_iter if save_cfg.save_dataset else None,
        keep=save_cfg.keep,
        keep_dataset_checkpoints=save_cfg.keep_dataset_checkpoints)
    self._restores = restore_cfg and restore_cfg.checkpointer_cls(
        **arguments, checkpoints_dir="", restore_dtype=restore_cfg.dtype,
        dataset_iterator=ds_iter if restore_cfg.restore_dataset else None)

  def save(self, train_state, state_transformation_fns=()) -> None:
    if self._saves is None:
      raise errors.InvalidValue("there is no SaveCheckpointConfig to save by")
    self._saves.save(train_state, state_transformation_fns)

  def restore(self, paths, restore_cfg=None, fallback_state=None):
    """As the function `restore`."""
    return restore(self._restores, paths, restore_cfg, fallback_state)

  def wait_until_finished(self) -> None:
    """Returns at once: `save` has waited."""

  def close(self) -> None:
    """Does nothing."""


def key_of_seed(seed: int | None) -> jax.Array | None:
  return None if seed is None else jax.random.PRNGKey(seed)


def create_checkpoint_manager_and_restore(
    train_state_initializer: TrainStateInitializer, partitioner,
    restore_checkpoint_cfg: checkpoint_config.RestoreCheckpointConfig | None,
    restore_path: str | None, fallback_init_rng: jax.Array | None,
    save_checkpoint_cfg: checkpoint_config.SaveCheckpointConfig | None = None,
    model_dir: str | None = None, ds_iter=None, use_orbax: bool = True):
  """Makes the manager that saves, and restores if there is what to restore.

  Args:
    ds_iter: training data whose position is saved and restored.

  Returns:
    (train state or None, manager or None).
  """
  del use_orbax
  manager, state = None, None
  if save_checkpoint_cfg is not None and model_dir:
    manager = create_orbax_checkpoint_manager(
        save_cfg=save_checkpoint_cfg, partitioner=partitioner, ds_iter=ds_iter,
        train_state=train_state_initializer.global_train_state_shape,
        model_dir=model_dir)
  if restore_checkpoint_cfg is not None and restore_path:
    logging.info("restoring %s", restore_path)
    state = train_state_initializer.restore(
        restore_checkpoint_cfg, restore_path, ds_iter, fallback_init_rng)
  return state, manager


def log_model_info(log_file: str | None, full_train_state, partitioner) -> None:
  """Writes every array's name, size, axes and sharding to a file."""
  if jax.process_index() != 0 or log_file is None:
    return
  flatten = lambda tree: traverse_util.flatten_dict(
      tree.state_dict(), keep_empty_nodes=True, sep="/")
  arrays = {k: v for k, v in flatten(full_train_state).items()
            if hasattr(v, "shape")}
  axes = flatten(partitioner.get_logical_axes(full_train_state))
  specs = flatten(partitioner.get_mesh_axes(full_train_state))
  total = sum(v.size for k, v in arrays.items() if k.startswith("target/"))
  lines = []
  for name, array in arrays.items():
    names = axes.get(name)
    if names is None or len(names) != array.ndim:
      names = ["?"] * array.ndim
    shape = ", ".join(f"{n}={d}" for n, d in zip(names, array.shape))
    spec = specs.get(name)
    lines.append(f"Variable {name:<80} size {array.size:<12} shape "
                 f"({shape}) partition spec {spec and tuple(spec)}")
  path = epath.Path(log_file)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(
      [*lines, f"Total number of parameters: {total}"]) + "\n")
