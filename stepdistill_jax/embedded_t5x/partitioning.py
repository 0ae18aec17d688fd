"""Logical axis names to shardings, and functions compiled with them.

A model names the axes of its parameters and activations (`embed`, `heads`,
...). Rules map a name to an axis of the device mesh, `data` or `model`, or to
None. The partitioner applies the rules to a train state and compiles
functions with `jax.jit` and `NamedSharding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from stepdistill_jax.distributed import device_mesh, local_chunks
from stepdistill_jax.distributed.device_mesh import *  # noqa: F403
from stepdistill_jax.distributed.local_chunks import *  # noqa: F403
from stepdistill_jax.util import errors

LogicalAxisRules = Sequence[tuple[str, str | None]]
JaxDevice = jax.Device
default_mesh = device_mesh.make_mesh
PartitionedCallable = CompiledPartitionedCallable = Callable[..., Any]


class AxisNames(tuple):
  """Names of an array's axes: to JAX's trees a leaf, unlike a tuple."""

  def __new__(cls, *names: str | None):
    return super().__new__(cls, names)

  def __repr__(self):
    return f"AxisNames{super().__repr__()}"


def global_mesh_defined() -> bool:
  """Whether code runs inside a partitioned function."""
  return not jax.sharding.get_abstract_mesh().empty


def with_sharding_constraint(x, axis_resources):
  """`jax.lax.with_sharding_constraint`; x itself where there is no mesh."""
  if not global_mesh_defined():
    return x
  return jax.lax.with_sharding_constraint(x, axis_resources)


def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
    additional_rules: LogicalAxisRules | None = None) -> LogicalAxisRules:
  """The rules for T5 models.

  Args:
    activation_partitioning_dims: 2 also shards the `embed` axis of activations
      over `model`.
    parameter_partitioning_dims: 2 also shards the `embed` axis of parameters
      over `data` (as ZeRO-3 does).
    additional_rules: appended; the first rule that fits wins.

  Returns:
    (logical axis, mesh axis or None) pairs in order of priority.
  """
  for name, dims in [("activation", activation_partitioning_dims),
                     ("parameter", parameter_partitioning_dims)]:
    if dims not in (1, 2):
      raise errors.InvalidValue(
          f"`{name}_partitioning_dims` = {dims} is not supported; "
          "expected 1 or 2")
  # An array that uses `model` for another axis falls through to `data`.
  embed = []
  if activation_partitioning_dims == 2:
    embed.append(("embed", "model"))
  if parameter_partitioning_dims == 2:
    embed.append(("embed", "data"))
  return [
      ("batch", "data"), ("vocab", "model"), ("mlp", "model"),
      ("heads", "model"),
      ("joined_kv", "model"),  # heads and kv in one axis, as in T5's kernels
      *(embed or [("embed", None)]),
      *((name, None) for name in (
          "kv", "relpos_buckets", "abspos_buckets", "length", "layers",
          "stack", "mlp_activations")),
      *(additional_rules or ()),
  ]


class PjittedFnWithContext:
  """A jitted function that runs inside a mesh and its axis rules."""

  def __init__(self, pjitted_fn, partition_mesh: Mesh,
               logical_axis_rules: LogicalAxisRules = ()):
    self._jitted = pjitted_fn
    self._mesh, self._rules = partition_mesh, logical_axis_rules

  def _call(self, function, *args, **kwargs):
    with jax.set_mesh(self._mesh), flax_partitioning.axis_rules(self._rules):
      return function(*args, **kwargs)

  def __call__(self, *args, **kwargs):
    return self._call(self._jitted, *args, **kwargs)

  def lower(self, *args, **kwargs):
    return self._call(self._jitted.lower, *args, **kwargs)

  def trace(self, *args, **kwargs):
    return self._call(self._jitted.trace, *args, **kwargs)


def _spec(spec: PartitionSpec | None) -> PartitionSpec:
  return PartitionSpec() if spec is None else spec


def _is_spec(x) -> bool:
  return x is None or isinstance(x, PartitionSpec)


class PjitPartitioner:
  """Spreads computations over devices: `jax.jit` and axis names by rules."""

  def __init__(
      self, num_partitions: int | None = None,
      model_parallel_submesh: device_mesh.HardwareMesh | None = None,
      params_on_devices: bool = True, backend: str | None = None,
      ici_mesh_shape: device_mesh.HardwareMesh | None = None,
      dcn_mesh_shape: device_mesh.HardwareMesh | None = None,
      logical_axis_rules: LogicalAxisRules | None = None):
    """Initializes; see `device_mesh.make_mesh`.

    Args:
      model_parallel_submesh: a tile of the hardware; if set, it counts and
        `num_partitions` (which run gin files set to 1) does not.
    """
    if not num_partitions and not model_parallel_submesh:
      raise errors.InvalidValue(
          "PjitPartitioner needs `num_partitions` or `model_parallel_submesh`")
    if not model_parallel_submesh and not (ici_mesh_shape or dcn_mesh_shape):
      ici_mesh_shape, dcn_mesh_shape = device_mesh.shapes_over_slices(
          num_partitions, device_mesh.devices_here(backend)) or (None, None)
    # T5X's names of what a subclass reads.
    self._num_partitions = num_partitions
    self._model_parallel_submesh = model_parallel_submesh
    self._backend = backend
    self._ici_mesh_shape = ici_mesh_shape
    self._dcn_mesh_shape = dcn_mesh_shape
    self.params_on_devices = params_on_devices
    rules = tuple(logical_axis_rules or standard_logical_axis_rules())
    if ici_mesh_shape is not None and dcn_mesh_shape is not None:
      rules = tuple((name, ("replica", "data") if name == "batch" else axis)
                    for name, axis in rules)
    self._logical_axis_rules: LogicalAxisRules = rules

  @property
  def logical_axis_rules(self) -> LogicalAxisRules:
    return self._logical_axis_rules

  @property
  def data_partition_spec(self) -> PartitionSpec:
    """How the first axis of a batch is split; subclasses may override it."""
    return flax_partitioning.logical_to_mesh_axes(
        ["batch"], self._logical_axis_rules)

  @property
  def _data_axes(self) -> tuple[str, ...]:
    (axis,) = self.data_partition_spec
    return (axis,) if isinstance(axis, str) else tuple(axis or ())

  @functools.cached_property
  def mesh(self) -> Mesh:
    return device_mesh.make_mesh(
        self._num_partitions, self._model_parallel_submesh, self._backend,
        self._ici_mesh_shape, self._dcn_mesh_shape)

  @functools.cached_property
  def _local_chunker(self) -> local_chunks.LocalChunker:
    return local_chunks.LocalChunker(self.mesh)

  @functools.cached_property  # For each feature of each batch.
  def data_sharding(self) -> NamedSharding:
    return NamedSharding(self.mesh, self.data_partition_spec)

  @property
  def data_mesh_size(self) -> int:
    """Number of parts that a batch is split into."""
    return math.prod(self.mesh.shape[axis] for axis in self._data_axes)

  def get_data_layout(self, batch_size: int | None = None,
                      host_index: int | None = None) -> device_mesh.DataLayout:
    """This host's share of a global batch of `batch_size` examples."""
    if host_index is None:
      host_index = jax.process_index()
    return device_mesh.data_layout(
        self.mesh, self._data_axes, batch_size, host_index)

  @property
  def data_shards(self) -> int:
    return self.get_data_layout().num_shards

  @property
  def data_shard_id(self) -> int:
    return self.get_data_layout().shard_id

  def get_local_chunk_info(
      self, global_shape: tuple[int, ...], mesh_axes: Sequence[str | None]
  ) -> local_chunks.LocalChunkInfo:
    """This host's part of an array; see `LocalChunker`."""
    return self._local_chunker.get_local_chunk_info(global_shape, mesh_axes)

  def shardings(self, resources):
    """A tree of PartitionSpecs, None meaning replicated, as shardings."""
    return jax.tree.map(
        lambda spec: NamedSharding(self.mesh, _spec(spec)), resources,
        is_leaf=_is_spec)

  def shard_batch(self, batch):
    """Puts this host's share of a batch on its devices.

    Args:
      batch: tree of numpy arrays [batch / num_shards, ...].

    Returns:
      The tree of global arrays [batch, ...].
    """
    num_shards = self.get_data_layout().num_shards
    # To the train loop's guard a transfer to a part of the mesh is implicit.
    with jax.transfer_guard_host_to_device("allow"):
      return jax.tree.map(
          lambda x: jax.make_array_from_process_local_data(
              self.data_sharding, np.asarray(x),
              (x.shape[0] * num_shards, *x.shape[1:])), batch)

  def move_params_to_devices(self, train_state, train_state_axes):
    """Puts a train state of host arrays on the devices."""
    return jax.device_put(train_state, self.shardings(train_state_axes))

  def get_logical_axes(self, train_state):
    """The train state with axis names or None as leaves."""
    return train_state.as_logical_axes()

  def get_mesh_axes(self, train_state):
    """The train state with PartitionSpecs or None as leaves."""
    logical_axes = self.get_logical_axes(train_state)

    def to_mesh_axes(name, axes):
      if axes is None or axes is traverse_util.empty_node:
        return axes
      try:
        return flax_partitioning.logical_to_mesh_axes(
            axes, self.logical_axis_rules)
      except ValueError as error:
        raise errors.InvalidValue(
            f"No mesh axes for {name} with axes {axes}; add rules for them to "
            "PjitPartitioner.logical_axis_rules") from error

    flat = traverse_util.flatten_dict(
        logical_axes.state_dict(), keep_empty_nodes=True, sep="/")
    flat = {name: to_mesh_axes(name, axes) for name, axes in flat.items()}
    return logical_axes.restore_state(
        traverse_util.unflatten_dict(flat, sep="/"))

  def partition(
      self, fn: Callable[..., Any], in_axis_resources, out_axis_resources,
      static_argnums=(), donate_argnums=()) -> PartitionedCallable:
    """Returns `fn` compiled for this mesh.

    Args:
      in_axis_resources: a PartitionSpec, None (replicated), or a tree prefix
        of them, for each argument.
      donate_argnums: arguments whose buffers may be overwritten.
    """
    jitted = jax.jit(
        fn, in_shardings=self.shardings(in_axis_resources),
        out_shardings=self.shardings(out_axis_resources),
        static_argnums=static_argnums, donate_argnums=donate_argnums)
    return PjittedFnWithContext(jitted, self.mesh, self.logical_axis_rules)

  def compile(self, partitioned_fn: PartitionedCallable, *args):
    """Compiles ahead of time for arguments of these shapes."""
    return partitioned_fn.lower(*args).compile()


def host_local_array_to_global_array(arr_tree, mesh: Mesh, pspecs):
  """Global arrays of what each host has; None in `pspecs` is replicated."""
  return multihost_utils.host_local_array_to_global_array(
      arr_tree, mesh, jax.tree.map(_spec, pspecs, is_leaf=_is_spec))


# T5X's names of the base classes; here the one class is all of them.
BasePartitioner = BasePjitPartitioner = PjitPartitioner
