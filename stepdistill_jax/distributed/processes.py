"""Several processes as one run: who is who, and what if one is lost.

`join` finds out from T5X's flags or from the environment of SLURM, Open MPI,
GKE or a TPU VM whether this process is one of several, and connects them with
`jax.distributed`. `guard` turns the loss of a process into one line and an
exit: a lost process never leaves the others waiting for longer than
LOST_SECONDS.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import itertools
import os
import re
import sys
import traceback
from typing import Any
import urllib.request

from stepdistill_jax.distributed import peers
from stepdistill_jax.util import devices, errors

# Start all processes again: EX_TEMPFAIL, as after a saved preemption.
EXIT_START_AGAIN = 75
# A process that is silent for so long counts as lost.
_HEARTBEAT_SECONDS = 30
# Within this time all others have ended, with a message. Heartbeats are
# looked at in turns; most losses are seen at once, by a broken connection.
LOST_SECONDS = 2 * _HEARTBEAT_SECONDS
_CONNECT_SECONDS = 300
# For each other while all are alive: one may compile or read longer.
_WAIT_SECONDS = 1800
_METADATA = ("http://metadata.google.internal/computeMetadata/v1/instance/"
             "attributes/worker-network-endpoints")
_exchanges = itertools.count()
# What errors say when a peer or the coordinator has gone.
_LOST = re.compile(
    r"(connection (reset|closed|refused)|heartbeat|socket closed|broken pipe|"
    r"gloo|nccl|coordination (service|agent)|peer|another task died|"
    r"UNAVAILABLE|DEADLINE_EXCEEDED|preempted)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Cluster:
  """How this process joins the others.

  Attributes:
    kind: for people: who started the processes.
    coordinator: `host:port` of process 0; None lets JAX find it.
    count: number of processes; None lets JAX find it.
    index: of this process; None lets JAX find it.
    method: of JAX's detection; None where all is given, or for TPUs.
  """

  kind: str
  coordinator: str | None = None
  count: int | None = None
  index: int | None = None
  method: str | None = None


def _whole_number(name: str, text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise errors.UserError(
        f"{name}={text!r} is not a whole number") from None


def from_flags(
    coordinator_address: str | None, process_count: int | None,
    process_index: int | None, source: str = "flags") -> Cluster:
  """What T5X's flags say.

  Raises:
    errors.UserError: a flag is missing, or does not fit the others.
  """
  given = {"--coordinator_address": coordinator_address,
           "--process_count": process_count, "--process_index": process_index}
  missing = [name for name, value in given.items() if value is None]
  if missing:
    raise errors.UserError(
        f"{' and '.join(missing)} missing: give --coordinator_address=HOST:PORT"
        " of process 0, --process_count=N and --process_index=0 to N-1, or "
        "none of them where SLURM, Open MPI, GKE or a TPU VM starts the "
        "processes")
  if not re.fullmatch(r".+:\d+", coordinator_address):
    raise errors.UserError(
        f"--coordinator_address={coordinator_address}: expected HOST:PORT, "
        "such as 10.0.0.2:8476")
  if process_count < 1 or not 0 <= process_index < process_count:
    raise errors.UserError(
        f"--process_index={process_index} of --process_count={process_count}: "
        "the index counts from 0 to the count less one")
  return Cluster(source, coordinator_address, process_count, process_index)


def tpu_vm_workers() -> int:
  """Number of workers of the TPU VM's slice; 1 elsewhere."""
  if "tpu" not in devices.present():
    return 1
  request = urllib.request.Request(
      _METADATA, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode().count(",") + 1
  except OSError:
    return 1  # Chips without Google's metadata, as in a notebook's runtime.


def from_environment(
    environ: Mapping[str, str],
    count_tpu_workers: Callable[[], int] = tpu_vm_workers
) -> Cluster | None:
  """What a launcher left in the environment; None for a process alone.

  Args:
    environ: the environment.
    count_tpu_workers: asks a TPU VM for the size of its slice.
  """
  if environ.get("JAX_NUM_PROCESSES"):
    return from_flags(
        environ.get("JAX_COORDINATOR_ADDRESS"),
        _whole_number("JAX_NUM_PROCESSES", environ["JAX_NUM_PROCESSES"]),
        _whole_number("JAX_PROCESS_ID", environ.get("JAX_PROCESS_ID", "")),
        "JAX_NUM_PROCESSES")
  # A batch script has SLURM's variables too; only a step of srun has these.
  if "SLURM_STEP_NODELIST" in environ and _number(
      environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") > 1:
    return Cluster("SLURM", method="slurm")
  if _number(environ, "OMPI_COMM_WORLD_SIZE") > 1:
    if "OMPI_MCA_orte_hnp_uri" in environ:  # Up to Open MPI 4.
      return Cluster("Open MPI", method="ompi")
    return Cluster("Open MPI", method="mpi4py")
  if _number(environ, "PMI_SIZE") > 1:
    return Cluster("MPI", method="mpi4py")
  if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
    return Cluster("GKE")
  if environ.get("MEGASCALE_COORDINATOR_ADDRESS"):
    return Cluster("TPU slices")
  if (environ.get("JAX_PLATFORMS", "tpu").split(",")[0] in ("", "tpu")
      and count_tpu_workers() > 1):
    return Cluster("TPU VM")
  return None


def _number(environ: Mapping[str, str], *names: str) -> int:
  for name in names:
    if environ.get(name, "").isdigit():
      return int(environ[name])
  return 1


def find(
    multiprocess_gpu: bool = False,
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    environ: Mapping[str, str] = os.environ) -> Cluster | None:
  """This process's cluster by T5X's flags or the environment, or None.

  Raises:
    errors.UserError: the flags contradict each other, or
      `multiprocess_gpu` is set and there is no sign of other processes.
  """
  flags = (coordinator_address, process_count, process_index)
  if any(flag is not None for flag in flags):
    return from_flags(*flags)
  cluster = from_environment(environ)
  if cluster is None and multiprocess_gpu:
    raise errors.UserError(
        "--multiprocess_gpu, but neither --coordinator_address, "
        "--process_count and --process_index are given nor does the "
        "environment (SLURM, Open MPI, GKE, TPU VM) tell of other processes")
  return cluster


def join(cluster: Cluster | None) -> None:
  """Connects this process with the others; nothing to do where it is alone.

  Must run before JAX looks for devices.

  Raises:
    errors.UserError: the others cannot be reached within 5 minutes.
  """
  import jax
  if cluster is None or cluster.count == 1 or jax.distributed.is_initialized():
    return
  # CPUs need an implementation of collectives; other platforms have their own.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # A launcher's own file systems may be slow: connecting gets more time than
  # being lost later.
  try:
    jax.distributed.initialize(
        cluster.coordinator, cluster.count, cluster.index,
        # JAX would look at the environment for what is given already.
        cluster_detection_method=(
            "deactivate" if cluster.coordinator else cluster.method),
        initialization_timeout=_CONNECT_SECONDS,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=LOST_SECONDS)
  except Exception as error:  # JAX and its cluster classes raise anything.
    where = cluster.coordinator or "the coordinator"
    raise errors.UserError(
        f"{cluster.kind}: cannot join {where} within {_CONNECT_SECONDS} s "
        f"({errors.first_line(error)}); are all processes started, and is the "
        "port free and reachable?") from error


def is_lost_peer(error: BaseException) -> bool:
  """Whether an error means that another process has gone."""
  kind = type(error).__name__
  return kind in ("JaxRuntimeError", "XlaRuntimeError") and bool(
      _LOST.search(str(error)))


@contextlib.contextmanager
def guard(exit_now: Callable[[int], Any] = os._exit) -> Iterator[None]:
  """Ends this process with a line if another one is lost.

  An orderly end would wait for the lost one, in barriers: this one does not.
  A process that fails by a mistake of its own ends at once too, so that the
  others see it.

  Args:
    exit_now: takes the exit code, for tests.
  """
  import jax
  from jax.experimental import multihost_utils
  if not jax.distributed.is_initialized():
    yield
    return
  state = _state()  # JAX's own functions would start the devices.
  who = f"process {state.process_id} of {state.num_processes}"

  def lost_one(index: int, code: int | None) -> None:
    print(f"{who}: process {index} is lost; start all of them again: training "
          "goes on from the last checkpoint" if code is None else
          f"{who}: process {index} ended by an error, which it has printed",
          file=sys.stderr, flush=True)
    exit_now(EXIT_START_AGAIN if code is None else code)

  try:
    with _watched(lost_one):
      exchange("joined", "")
      # A process without its accelerator fails here, alone: the others wait
      # for its devices, and are ended by the watch.
      devices.start()
      # The first to need a connection between the devices of CPUs waits for
      # the others for 30 seconds only: all are brought together here, before
      # one of them reads or compiles longer.
      multihost_utils.sync_global_devices("joined")
      yield
  except errors.Preempted:
    raise  # All of them have saved, and end in order.
  except Exception as error:
    code = _exit_code(error)
    if code is None:
      lost = next(e for e in errors.chain(error) if is_lost_peer(e))
      text, code = (
          f"{who}: another process is lost ({errors.first_line(lost)}); start "
          "all of them again: training goes on from the last checkpoint",
          EXIT_START_AGAIN)
    elif isinstance(error, errors.UserError):
      text = f"{who}: error: {error}"
    else:
      text = f"{who}:\n{traceback.format_exc()}"
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    exit_now(code)


def _exit_code(error: BaseException) -> int | None:
  """0 for an orderly end; None where another process is lost."""
  if isinstance(error, errors.Preempted) or not isinstance(error, Exception):
    return 0
  if any(is_lost_peer(e) for e in errors.chain(error)):
    return None
  return (errors.USER_ERROR_EXIT_CODE if isinstance(error, errors.UserError)
          else 1)


def _state():
  """What JAX knows of the processes before it has devices."""
  from jax._src import distributed  #  # JAX has no public way to it.
  return distributed.global_state


def _watched(on_lost: Callable[[int, int | None], None]):
  """`peers.watched` by what JAX's coordination service knows."""
  state = _state()
  key = f"stepdistill/{next(_exchanges)}/peers"  # Each run has its own.
  return peers.watched(
      state.process_id, state.num_processes,
      state.coordinator_address.rsplit(":", 1)[0].strip("[]"),
      lambda port: state.client.key_value_set(key, port),
      lambda: state.client.blocking_key_value_get(key, LOST_SECONDS * 1000),
      on_lost, _exit_code)


def agree(name: str, value: str, what: str) -> None:
  """Raises UserError unless all processes have the same text.

  Args:
    name: of this comparison, the same on all.
    value: of this process.
    what: for the message: what differs if it does, and what to do.
  """
  values = exchange(name, value)
  if len(set(values)) > 1:
    raise errors.UserError(
        f"{what}; " + "; ".join(
            f"process {i}: {text}" for i, text in enumerate(values[:4])))


def exchange(name: str, value: str) -> list[str]:
  """The texts of all processes, by their index; waits for them.

  By the coordination service, not the devices: no shape must be agreed on,
  and nothing is compiled. All processes must call in the same order.
  """
  state = _state()
  if state.num_processes == 1:
    return [value]
  client = state.client
  # A second run in these processes must not read the first one's texts.
  key = f"stepdistill/{next(_exchanges)}/{name}"
  client.key_value_set(f"{key}/{state.process_id}", value)
  client.wait_at_barrier(f"{key}/set", _WAIT_SECONDS * 1000)
  values = [client.blocking_key_value_get(f"{key}/{i}", _WAIT_SECONDS * 1000)
            for i in range(state.num_processes)]
  client.wait_at_barrier(f"{key}/got", _WAIT_SECONDS * 1000)
  return values
