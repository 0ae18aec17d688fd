"""The mesh of devices, and which part of a batch each host loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh
import numpy as np

from stepdistill_jax.util import devices as devices_lib, errors, progress

# (x, y, z, core) on a TPU, (host, device of the host) elsewhere.
HardwareMesh = tuple[int, ...]


_fake: Sequence[jax.Device] | None = None


@contextlib.contextmanager
def fake_devices(devices: Sequence[jax.Device]) -> Iterator[None]:
  """Makes meshes of other devices than this host's, to compile for them."""
  global _fake
  before, _fake = _fake, devices
  try:
    yield
  finally:
    _fake = before


def get_coords(
    device: jax.Device, devices_per_host: int | None = None) -> HardwareMesh:
  """Where a device is in the hardware's mesh.

  Args:
    devices_per_host: where there are no TPUs; None asks JAX.
  """
  if hasattr(device, "coords"):
    return (*device.coords, device.core_on_chip)
  return (device.process_index,
          device.id % (devices_per_host or jax.local_device_count()))


def bounds_from_last_device(last_device: jax.Device) -> HardwareMesh:
  """The extent of the hardware's mesh."""
  if len(getattr(last_device, "coords", ())) == 3:
    return tuple(x + 1 for x in get_coords(last_device))
  return jax.process_count(), jax.local_device_count()


def submesh_grid(
    submesh: HardwareMesh, devices: Sequence[jax.Device]) -> np.ndarray:
  """Tiles the hardware with a model-parallel submesh.

  Args:
    submesh: the extent of a tile, one number for each hardware dimension.

  Returns:
    [data, model] array of devices; a row is one tile.
  """
  per_host = len([d for d in devices if d.process_index == 0])
  coordinates = [get_coords(d, per_host) for d in devices]
  extent = tuple(max(c) + 1 for c in zip(*coordinates))
  if len(submesh) != len(extent):
    # (x, y, z, core) names two trivial dimensions on hosts without TPUs.
    submesh = (1,) * len(extent) if math.prod(submesh) == 1 else submesh
  if len(submesh) != len(extent) or any(
      e % s for e, s in zip(extent, submesh)):
    raise errors.InvalidValue(
        f"model_parallel_submesh={tuple(submesh)} does not tile the hardware "
        f"mesh {extent}: each dimension must divide the hardware's")
  grid = np.empty(extent, dtype=object)
  for device, position in zip(devices, coordinates):
    grid[position] = device
  # [x, y, ...] -> [x/sx, sx, y/sy, sy, ...] -> [x/sx, y/sy, ..., sx, sy, ...]
  grid = grid.reshape([n for e, s in zip(extent, submesh) for n in (e // s, s)])
  rank = len(extent)
  grid = grid.transpose([*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)])
  return grid.reshape(-1, math.prod(submesh))


def devices_here(backend: str | None = None) -> Sequence[jax.Device]:
  """All devices of the run, or the fake ones."""
  if _fake is not None:
    return _fake
  if backend is None:
    return devices_lib.start()
  try:
    return jax.devices(backend)
  except RuntimeError as error:
    raise errors.InvalidValue(
        f"PjitPartitioner.backend = {backend!r}: {error}; None takes what the "
        "machine has") from error


def on_accelerators() -> bool:
  """Whether the run's devices are no CPUs."""
  return devices_here()[0].platform != "cpu"


def on_one_accelerator() -> bool:
  """Whether the run has one device, no CPU: nothing is cut over several."""
  return on_accelerators() and len(devices_here()) == 1


def shapes_over_slices(
    num_partitions: int | None, devices: Sequence[jax.Device]
) -> tuple[HardwareMesh, HardwareMesh] | None:
  """(replica, data, model) shapes inside of a slice, and between slices.

  The slow network between slices carries gradients alone: parameters are
  sharded inside of a slice, and each slice has all of them.

  Args:
    num_partitions: the size of `model`.
    devices: all of them.

  Returns:
    None where the devices are no TPUs, or in one slice.

  Raises:
    errors.UserError: a slice cannot hold `model`.
  """
  if devices[0].platform != "tpu" or not num_partitions:
    return None
  slices = len({getattr(d, "slice_index", 0) for d in devices})
  in_slice = len(devices) // slices
  if slices == 1:
    return None
  if in_slice % num_partitions:
    raise errors.InvalidValue(
        f"num_partitions={num_partitions} does not divide the {in_slice} chips "
        f"of each of the {slices} slices; set PjitPartitioner.num_partitions "
        "to a divisor: the model axis stays inside of a slice")
  return (1, in_slice // num_partitions, num_partitions), (slices, 1, 1)


def _two_core_submesh(num_partitions: int) -> HardwareMesh:
  """T5X's tile of TPU v2 and v3: cores first, then chips of the same host."""
  tile = [1, 1, 1, 1]
  for dimension in (3, 0, 1, 0):
    if math.prod(tile) < num_partitions:
      tile[dimension] *= 2
  return tuple(tile)


def make_mesh(
    num_partitions: int | None = None,
    model_parallel_submesh: HardwareMesh | None = None,
    backend: str | None = None, ici_mesh_shape: HardwareMesh | None = None,
    dcn_mesh_shape: HardwareMesh | None = None) -> Mesh:
  """Makes the mesh with the axes `data` and `model`.

  Args:
    num_partitions: the size of `model`; JAX chooses which devices.
    model_parallel_submesh: instead, the tile of hardware that makes `model`.
    ici_mesh_shape: with `dcn_mesh_shape`, the (replica, data, model) shape
      inside a slice; the mesh then has those three axes.
    dcn_mesh_shape: the same between slices.
  """
  devices = devices_here(backend)
  if ici_mesh_shape is not None and dcn_mesh_shape is not None:
    grid = mesh_utils.create_hybrid_device_mesh(
        ici_mesh_shape, dcn_mesh_shape, devices=devices,
        allow_split_physical_axes=True)
    return Mesh(grid, ("replica", "data", "model"))
  if not model_parallel_submesh and num_partitions in (1, 2, 4, 8, 16) and (
      devices[0].device_kind in ("TPU v2", "TPU v3")):
    model_parallel_submesh = _two_core_submesh(num_partitions)
  if model_parallel_submesh:
    return Mesh(submesh_grid(model_parallel_submesh, devices),
                ("data", "model"))
  if devices[0].platform == "cpu" and len(devices) == 1 < num_partitions:
    progress.say(f"num_partitions={num_partitions}: there is one device, a "
                 "CPU, and the model is in one part")
    num_partitions = 1
  if len(devices) % num_partitions:
    raise errors.InvalidValue(
        f"num_partitions={num_partitions} does not divide the number of "
        f"devices, {len(devices)} ({devices[0].platform}); "
        "set PjitPartitioner.num_partitions to a divisor")
  shape = (len(devices) // num_partitions, num_partitions)
  try:
    grid = mesh_utils.create_device_mesh(shape, devices=devices)
  except NotImplementedError:  # `model` is a part of a side of the torus.
    grid = mesh_utils.create_device_mesh(
        shape, devices=devices, allow_split_physical_axes=True)
  return Mesh(grid, ("data", "model"))


@dataclasses.dataclass
class DataLayout:
  """Which share of the global batch this host loads.

  Attributes:
    shard_id: this host's share, in [0, num_shards).
    is_first_host_in_replica_set: whether this host is the first of those that
      load this share; it alone writes the share's checkpoint.
  """

  batch_size: int
  shard_id: int
  num_shards: int
  is_first_host_in_replica_set: bool


def data_layout(
    mesh: Mesh, data_axes: tuple[str, ...], batch_size: int | None,
    process_index: int) -> DataLayout:
  """Derives a host's share from the rows of the mesh that it owns.

  Args:
    data_axes: the axes over which a batch is split.
    batch_size: of the global batch; None means one example a row.

  Raises:
    errors.UserError: the batch cannot be split evenly.
    ValueError: hosts own overlapping but different rows.
  """
  unknown = set(data_axes) - set(mesh.axis_names)
  if unknown:
    raise errors.InvalidValue(
        f"PjitPartitioner.logical_axis_rules map `batch` to {sorted(unknown)}; "
        f"the mesh has the axes {list(mesh.axis_names)}")
  data_first = [mesh.axis_names.index(a) for a in data_axes]
  others = [i for i in range(mesh.devices.ndim) if i not in data_first]
  rows_of_devices = mesh.devices.transpose(data_first + others)
  num_rows = math.prod(mesh.shape[a] for a in data_axes)
  rows_of_devices = rows_of_devices.reshape(num_rows, -1)
  rows = {}  # host -> the rows with at least one of its devices
  for row, devices in enumerate(rows_of_devices):
    for device in devices:
      rows.setdefault(device.process_index, set()).add(row)
  shares = sorted({tuple(sorted(r)) for r in rows.values()})
  if sum(len(share) for share in shares) != num_rows:
    raise errors.InvalidValue(
        f"Hosts share rows of the data axis unevenly: {rows}; choose a "
        "model-parallel submesh that divides or covers whole hosts")
  batch_size = batch_size or num_rows
  if batch_size % num_rows:
    raise errors.InvalidValue(
        f"batch size {batch_size} is not divisible by the {num_rows} "
        "data-parallel devices; set BATCH_SIZE to a multiple, or raise "
        "PjitPartitioner.num_partitions")
  share = tuple(sorted(rows[process_index]))
  sharing = [host for host, r in rows.items() if tuple(sorted(r)) == share]
  return DataLayout(
      batch_size=batch_size, shard_id=shares.index(share),
      num_shards=len(shares),
      is_first_host_in_replica_set=process_index == min(sharing))
