"""Meshes and hosts' shares, on devices that are only described."""

import dataclasses

import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x import partitioning
from stepdistill_jax.util import errors


@dataclasses.dataclass(frozen=True)
class TpuDevice:
  """As much of a TPU core as a mesh looks at."""

  id: int
  process_index: int
  coords: tuple[int, int, int]
  core_on_chip: int = 0
  platform: str = "tpu"
  device_kind: str = "TPU v5 lite"
  slice_index: int = 0


def tpu(x, y, z, host_extent=(2, 2, 1)):
  """The devices of an x * y * z slice, a host for each `host_extent`."""
  hosts = {}
  devices = []
  for k in range(z):
    for j in range(y):
      for i in range(x):
        block = tuple(c // e for c, e in zip((i, j, k), host_extent))
        host = hosts.setdefault(block, len(hosts))
        devices.append(TpuDevice(len(devices), host, (i, j, k)))
  return devices


def test_submesh_rows_are_tiles_of_the_hardware():
  grid = device_mesh.submesh_grid((2, 1, 1, 1), tpu(4, 2, 1))
  assert grid.shape == (4, 2)  # [data, model]
  for row in grid:
    assert row[0].coords[1:] == row[1].coords[1:]
    assert row[1].coords[0] == row[0].coords[0] + 1
  assert len({d.id for d in grid.ravel()}) == 8


def test_submesh_that_does_not_tile_is_refused():
  with pytest.raises(errors.UserError, match="does not tile"):
    device_mesh.submesh_grid((3, 1, 1, 1), tpu(4, 2, 1))


@pytest.mark.parametrize("submesh,num_shards,sharing", [
    ((1, 1, 1, 1), 4, 1),  # Each of 4 hosts loads its own quarter.
    ((2, 2, 1, 1), 4, 1),  # The model fills a host.
    ((4, 2, 1, 1), 2, 2),  # The model spans two hosts: both load the same.
    ((4, 4, 1, 1), 1, 4),
])
def test_hosts_share_of_the_batch(submesh, num_shards, sharing):
  devices = tpu(4, 4, 1)
  mesh = Mesh(device_mesh.submesh_grid(submesh, devices), ("data", "model"))
  layouts = [device_mesh.data_layout(mesh, ("data",), 16, host)
             for host in range(4)]
  assert {layout.num_shards for layout in layouts} == {num_shards}
  shards = [layout.shard_id for layout in layouts]
  assert all(shards.count(s) == sharing for s in range(num_shards))
  # Of the hosts with the same data exactly one writes its checkpoint.
  assert sum(layout.is_first_host_in_replica_set
             for layout in layouts) == num_shards


def test_batch_must_split_evenly():
  mesh = Mesh(device_mesh.submesh_grid((1, 1, 1, 1), tpu(4, 2, 1)),
              ("data", "model"))
  with pytest.raises(errors.UserError, match="batch size 12 .* 8 data"):
    device_mesh.data_layout(mesh, ("data",), 12, 0)
  assert device_mesh.data_layout(mesh, ("data",), None, 0).batch_size == 8


def test_overlapping_shares_are_refused():
  devices = np.array(tpu(4, 2, 1)).reshape(4, 2)
  odd = devices.ravel()[[0, 1, 2, 4, 5, 3, 6, 7]].reshape(4, 2)
  with pytest.raises(ValueError, match="unevenly"):
    device_mesh.data_layout(Mesh(odd, ("data", "model")), ("data",), 8, 0)


def test_num_partitions_is_honoured_on_a_cpu():
  mesh = device_mesh.make_mesh(num_partitions=1)
  assert dict(mesh.shape) == {"data": jax.device_count(), "model": 1}


def slices(count):
  """The devices of several 4 * 2 slices of two hosts each."""
  return [dataclasses.replace(
      device, id=100 * index + device.id, slice_index=index,
      process_index=2 * index + device.process_index)
          for index in range(count) for device in tpu(4, 2, 1)]


def test_several_slices_have_the_parameters_each_and_share_the_batch():
  with device_mesh.fake_devices(slices(2)):
    partitioner = partitioning.PjitPartitioner(
        num_partitions=2,
        logical_axis_rules=partitioning.standard_logical_axis_rules(
            parameter_partitioning_dims=2))
    mesh = partitioner.mesh
    assert dict(mesh.shape) == {"replica": 2, "data": 4, "model": 2}
    for index in range(2):
      assert {d.slice_index for d in mesh.devices[index].ravel()} == {index}
    assert partitioner.data_partition_spec == PartitionSpec(("replica", "data"))
    assert dict(partitioner.logical_axis_rules)["embed"] == "data"
    shards = [partitioner.get_data_layout(16, host).shard_id
              for host in range(4)]
    assert sorted(shards) == [0, 1, 2, 3]


def test_the_model_axis_stays_inside_of_a_slice():
  with pytest.raises(errors.UserError, match="8 chips of each of the 2 slices"):
    device_mesh.shapes_over_slices(16, slices(2))
  assert device_mesh.shapes_over_slices(2, tpu(4, 2, 1)) is None
  assert device_mesh.shapes_over_slices(1, jax.devices()) is None
