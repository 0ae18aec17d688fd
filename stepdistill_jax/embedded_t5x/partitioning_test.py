"""Rules from axis names to mesh axes, and functions compiled with them."""

import functools

from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import partitioning
from stepdistill_jax.util import errors

# (activation dims, parameter dims) -> specs of a kernel, of an activation.
KERNEL, ACTIVATION = ("embed", "mlp"), ("batch", "length", "embed")
EXPECTED = {
    (1, 1): (P(None, "model"), P("data", None, None)),
    (2, 1): (P(None, "model"), P("data", None, "model")),
    (1, 2): (P("data", "model"), P("data", None, None)),
    (2, 2): (P("data", "model"), P("data", None, "model")),
}


@pytest.mark.parametrize("dims", EXPECTED)
def test_standard_rules(dims):
  rules = partitioning.standard_logical_axis_rules(*dims)
  specs = tuple(flax_partitioning.logical_to_mesh_axes(axes, rules)
                for axes in (KERNEL, ACTIVATION))
  assert specs == EXPECTED[dims]


def test_standard_rules_refuse_other_dims():
  with pytest.raises(ValueError, match="parameter_partitioning_dims. = 3"):
    partitioning.standard_logical_axis_rules(1, 3)


def test_additional_rules_come_last():
  rules = partitioning.standard_logical_axis_rules(
      additional_rules=[("expert", "data"), ("vocab", None)])
  assert flax_partitioning.logical_to_mesh_axes(
      ("expert", "vocab"), rules) == P("data", "model")


def test_partitioned_function_is_the_function():
  partitioner = partitioning.PjitPartitioner(num_partitions=1)

  def f(x, y):
    assert partitioning.global_mesh_defined()
    return {"sum": partitioning.with_sharding_constraint(x + y, P("data"))}

  batch = partitioner.shard_batch(np.arange(8.0).reshape(4, 2))
  compiled = partitioner.compile(
      partitioner.partition(f, (P("data"), None), None), batch, jnp.ones(2))
  np.testing.assert_array_equal(
      compiled(batch, jnp.ones(2))["sum"], np.arange(8.0).reshape(4, 2) + 1)
  assert not partitioning.global_mesh_defined()
  np.testing.assert_array_equal(  # Outside it constrains nothing.
      partitioning.with_sharding_constraint(np.ones(2), P("data")), np.ones(2))


def test_shardings_of_a_tree_with_none():
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  shardings = partitioner.shardings({"a": None, "b": P("data")})
  assert shardings["a"].spec == P() and shardings["b"].spec == P("data")


@pytest.mark.parametrize("arguments, expected", [
    (dict(backend="no_such"), r"backend = 'no_such': .*None takes"),
    (dict(logical_axis_rules=[("batch", "dta")]),
     r"map `batch` to \['dta'\]; the mesh has the axes \['data', 'model'\]"),
])
def test_what_the_machine_or_the_mesh_lacks_is_reported(arguments, expected):
  with pytest.raises(errors.UserError, match=expected):
    partitioning.PjitPartitioner(1, **arguments).get_data_layout(8)


def test_partitioner_needs_a_size():
  with pytest.raises(ValueError, match="num_partitions"):
    partitioning.PjitPartitioner()
  # As run gin files set num_partitions, a submesh overrides it.
  both = partitioning.PjitPartitioner(
      num_partitions=1, model_parallel_submesh=(1, 1, 1, 1))
  assert dict(both.mesh.shape)["model"] == 1


class _ExpertPartitioner(partitioning.PjitPartitioner):
  """A user's: another mesh, and batches split over two of its axes."""

  @property
  def data_partition_spec(self):
    return P(("expert", "data"))

  @functools.cached_property
  def mesh(self):
    mesh = partitioning.default_mesh(
        self._num_partitions, self._model_parallel_submesh, self._backend)
    return jax.sharding.Mesh(
        mesh.devices[:, None], ("data", "expert", "model"))


def test_a_subclass_has_a_mesh_of_its_own():
  partitioner = _ExpertPartitioner(
      num_partitions=1, logical_axis_rules=[("batch", "data")])
  assert partitioner.data_mesh_size == jax.device_count()
  assert partitioner._local_chunker.num_chunks["expert"] == 1
  assert partitioner.logical_axis_rules == (("batch", "data"),)
  batch = partitioner.shard_batch({"x": np.ones((8, 2))})
  assert batch["x"].sharding.spec == P(("expert", "data"))
  partitioner.params_on_devices = False
  assert not partitioner.params_on_devices
