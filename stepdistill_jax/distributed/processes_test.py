"""Who is who among several processes, from flags and launchers' variables."""

import pytest

from stepdistill_jax.distributed import processes
from stepdistill_jax.util import errors


def _alone() -> int:
  return 1


@pytest.mark.parametrize("environ, expected", [
    ({}, None),
    ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1",
      "JAX_COORDINATOR_ADDRESS": "h:1"},
     processes.Cluster("JAX_NUM_PROCESSES", "h:1", 2, 1)),
    ({"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]",
      "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
     processes.Cluster("SLURM", method="slurm")),
    # A batch script without srun is one process, whatever was asked for.
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
    ({"SLURM_STEP_NODELIST": "node1", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1"},
     processes.Cluster("Open MPI", method="ompi")),
    ({"OMPI_COMM_WORLD_SIZE": "4"},
     processes.Cluster("Open MPI", method="mpi4py")),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"},
     processes.Cluster("GKE")),
    ({"TPU_WORKER_HOSTNAMES": "a"}, None),
])
def test_launchers_are_recognized(environ, expected):
  assert processes.from_environment(environ, _alone) == expected


def test_a_slice_of_several_tpu_vms_is_recognized_but_not_on_cpus():
  assert processes.from_environment({}, lambda: 4).kind == "TPU VM"
  assert processes.from_environment(
      {"JAX_PLATFORMS": "cpu"}, lambda: 4) is None


def test_flags_come_before_the_environment():
  environ = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_TASKS": "2"}
  assert processes.find(False, "h:1", 3, 2, environ) == processes.Cluster(
      "flags", "h:1", 3, 2)
  assert processes.find(True, environ=environ).kind == "SLURM"


@pytest.mark.parametrize("flags, words", [
    (("h:1", 2, None), "--process_index missing"),
    ((None, 2, None), "--coordinator_address and --process_index missing"),
    (("h", 2, 0), "expected HOST:PORT"),
    (("h:1", 2, 2), "--process_index=2 of --process_count=2"),
    (("h:1", 0, 0), "--process_count=0"),
])
def test_mistakes_in_flags_are_reported(flags, words):
  with pytest.raises(errors.UserError, match=words):
    processes.find(False, *flags, environ={})


def test_multiprocess_without_any_sign_of_others_is_reported():
  with pytest.raises(errors.UserError, match="--multiprocess_gpu"):
    processes.find(True, environ={"JAX_PLATFORMS": "cpu"})
  with pytest.raises(errors.UserError, match="not a whole number"):
    processes.from_environment({"JAX_NUM_PROCESSES": "two"}, _alone)


def test_a_lost_peer_is_distinguished_from_a_mistake():
  class JaxRuntimeError(Exception):
    pass

  assert processes.is_lost_peer(JaxRuntimeError(
      "FAILED_PRECONDITION: Gloo AllReduce failed: Connection reset by peer"))
  assert not processes.is_lost_peer(JaxRuntimeError(
      "INVALID_ARGUMENT: shapes differ"))
  assert not processes.is_lost_peer(ConnectionResetError("by peer"))
