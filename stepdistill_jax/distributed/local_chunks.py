"""Which part of a sharded array a host holds, and as which of its replicas."""

from __future__ import annotations

from collections.abc import Sequence, Set
import dataclasses

from jax.sharding import Mesh
import numpy as np


@dataclasses.dataclass
class LocalChunkInfo:
  """A host's part of an array.

  Attributes:
    slice: its index in the array.
    replica_id: number of this host among those that hold the same part.
  """

  slice: tuple[slice, ...]
  replica_id: int


class LocalChunker:
  """Divides arrays among the hosts of a mesh.

  Attributes:
    num_chunks: mesh axis -> into how many parts hosts divide it.
    chunk_ids: mesh axis -> the number of this host's part.
  """

  def __init__(self, global_mesh: Mesh):
    self.global_mesh = global_mesh
    local = global_mesh.local_mesh
    self.mesh_axes = list(global_mesh.shape)
    first = np.argwhere(global_mesh.devices == local.devices.flat[0])[0]
    self.num_chunks = {
        axis: size // local.shape[axis]
        for axis, size in global_mesh.shape.items()}
    self.chunk_ids = {
        axis: int(place) // local.shape[axis]
        for axis, place in zip(self.mesh_axes, first)}

  def get_local_chunk_info(
      self, global_shape: tuple[int, ...], mesh_axes: Sequence[str | None]
  ) -> LocalChunkInfo:
    """This host's part of an array.

    Args:
      mesh_axes: of each axis of the array; None where it is not sharded.
    """
    def part(size: int, axis: str | None) -> slice:
      if not axis:
        return slice(None)
      chunk = size // self.num_chunks[axis]
      begin = self.chunk_ids[axis] * chunk
      return slice(begin, begin + chunk)

    return LocalChunkInfo(
        tuple(map(part, global_shape, mesh_axes)),
        self.get_replica_id({axis for axis in mesh_axes if axis}))

  def _number(self, axes: Sequence[str]) -> int:
    number = 0
    for axis in axes:
      number = number * self.num_chunks[axis] + self.chunk_ids[axis]
    return number

  def get_shard_id(self, sharded_mesh_axes: str | Sequence[str]) -> int:
    """This host's number along the axes that an array is sharded over."""
    if isinstance(sharded_mesh_axes, str):
      sharded_mesh_axes = (sharded_mesh_axes,)
    return self._number(tuple(sharded_mesh_axes))

  def get_replica_id(
      self, sharded_mesh_axes: str | Set[str | None]) -> int:
    """This host's number along all other axes."""
    if isinstance(sharded_mesh_axes, str):
      sharded_mesh_axes = {sharded_mesh_axes}
    return self._number(
        [axis for axis in self.mesh_axes if axis not in sharded_mesh_axes])
