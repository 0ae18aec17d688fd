"""The real programs of a gin file, compiled for chips that are not here.

The gin file is parsed as for `t5x train`, so the model, the trainer, the
partitioner and the shapes are those of the run. Records and vocabularies are
not needed: only shapes matter.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
import signal
import sys
import threading
import time
import types
from typing import Any

from stepdistill_jax.plan import chips, flops as flops_lib, gpus
from stepdistill_jax.util import devices as devices_lib, errors

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # Programs for absent chips can be written to the cache, not read.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # Asks no cloud for what machine this is.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # No lock: it drives no chip.
    # Without these libtpu complains that this is not a TPU VM.
    "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "TPU_MIN_LOG_LEVEL": "3",
}
# What `train` requires of the user for its files, and a plan does not.
STAYS_OPEN = ("MODEL_DIR = 'none'", "TOKENIZER = 'none'",
              "INITIAL_CHECKPOINT_PATH = None")
# XLA's effort to make the program fast, from -1 to 1.
_QUICK = {"exec_time_optimization_effort": -1.0}


def libtpu_path() -> str | None:
  """Where libtpu is, or None; `$TPU_LIBRARY_PATH` comes first."""
  configured = os.environ.get("TPU_LIBRARY_PATH")
  if configured:
    return configured if os.path.isfile(configured) else None
  spec = importlib.util.find_spec("libtpu")
  if spec is None or not spec.submodule_search_locations:
    return None
  path = pathlib.Path(list(spec.submodule_search_locations)[0]) / "libtpu.so"
  return str(path) if path.exists() else None


def prepare_process(
    topology: chips.Topology, engine: str | None = "embedded") -> None:
  """Starts JAX on the CPU, which traces, for the compiler of other devices.

  Called before JAX is imported.

  Args:
    topology: the slice that is planned for.
    engine: what `import t5x` gives from now on, see `t5x_finder.install`.

  Raises:
    errors.UserError: the compiler is not installed.
  """
  _set_environment(topology)
  from stepdistill_jax.util import runtime, t5x_finder
  runtime.configure()
  if "t5x" not in sys.modules:
    t5x_finder.install(engine)
  devices_lib.start()
  runtime.import_tensorflow()


def _set_environment(topology: chips.Topology) -> None:
  """Sets what the compiler and JAX read when they are imported.

  Raises:
    errors.UserError: the compiler is not installed.
  """
  os.environ.update(_ENVIRONMENT)
  if topology.chip.kind == "GPU":
    missing = [package for package, module in (
        ("jax-cuda12-plugin", "jax_cuda12_plugin"),
        ("jax-cuda12-pjrt", "jax_plugins.xla_cuda12"),
        ("nvidia-cuda-nvcc-cu12", "nvidia.cuda_nvcc"))
               if not _is_there(module)]
    if missing:
      raise errors.UserError(
          f"`stepdistill plan` for GPUs needs {', '.join(missing)}, XLA's "
          "compiler for them, which also runs without GPUs; install it: pip "
          "install 'stepdistill_jax[plan-gpu]'")
    # To time kernels, a GPU would have to be there. XLA's own matrix products
    # want the tiles that are found so; cuBLAS has them for any shape.
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [
        os.environ.get("XLA_FLAGS"), "--xla_gpu_autotune_level=0",
        "--xla_gpu_enable_triton_gemm=false"]))
    return
  path = libtpu_path()
  if path is None:
    configured = os.environ.get("TPU_LIBRARY_PATH")
    raise errors.UserError(
        "`stepdistill plan` needs libtpu, the TPU compiler, which also runs "
        "without TPUs; " + (
            f"TPU_LIBRARY_PATH={configured} is not a file: unset it, and "
            if configured else "")
        + "install it: pip install 'stepdistill_jax[tpu]'")
  os.environ.update({**_LIBTPU_ENVIRONMENT, "TPU_LIBRARY_PATH": path})


def _is_there(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # Of the package that it is in.
    return False


def devices_of(topology: chips.Topology) -> Sequence[Any]:
  """Devices to compile for; nothing can run on them.

  Raises:
    errors.UserError: the compiler knows no such slice.
  """
  from jax.experimental import topologies
  chip = topology.chip
  if chip.kind == "GPU":
    # Loaded, the compiler speaks of drivers that it does not need.
    with devices_lib.native_stderr_held_back():
      # Partitions, hosts and GPUs of each.
      return topologies.get_topology_desc(
          chip.name, "cuda", target_config=gpus.TARGETS[chip.name].config(),
          topology=f"1x{topology.slices}x{topology.shape[0]}").devices
  options = {}
  if chip.cores == 2:
    options["chip_config_name"] = "megacore"  # One device a chip, as on TPUs.
  if topology.num_chips < 4:
    options["chips_per_host_bounds"] = [*topology.shape, 1][:3]
  if topology.slices > 1:
    options["num_slices"] = topology.slices
  try:
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology.slice_name,
        **options).devices
  except Exception as error:  # JAX raises its own runtime errors.
    raise errors.UserError(
        f"{os.environ.get('TPU_LIBRARY_PATH', 'libtpu')} cannot compile for "
        f"{topology.name}: {str(error).splitlines()[0][:200]}") from error
  finally:
    # libtpu prints its stack on SIGTERM: no news to who sent it.
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _capture(**kwargs) -> Mapping[str, Any]:
  """Stands in for T5X's `train`: gives back what gin binds."""
  return kwargs


@contextlib.contextmanager
def _without_records(vocabulary: Any) -> Iterator[None]:
  """Gives tasks a vocabulary without their records: only shapes matter."""
  from stepdistill_jax.data import task_registry
  feature = types.SimpleNamespace(vocabulary=vocabulary)
  features = collections.defaultdict(lambda: feature)
  require = task_registry.require_task
  task_registry.require_task = lambda unused_name: types.SimpleNamespace(
      output_features=features)
  try:
    yield
  finally:
    task_registry.require_task = require


@contextlib.contextmanager
def parsed(
    gin_files: Sequence[str], gin_bindings: Sequence[str],
    devices: Sequence[Any], search_paths: Sequence[str] = ()
) -> Iterator[Mapping[str, Any]]:
  """Parses a run's gin files with a slice's devices in place of this host's.

  Gives the arguments of `train`, made by gin.

  Args:
    gin_files: as for `t5x train`.
    gin_bindings: the same.
    devices: from `devices_of`.
    search_paths: where gin files are looked for first.

  Raises:
    errors.UserError: a mistake in the files, or no training run in them.
  """
  import gin
  import jax
  import seqio

  from stepdistill_jax.config import gin_config
  from stepdistill_jax.distributed import device_mesh
  from stepdistill_jax.embedded_t5x import utils

  # Only the ids of EOS and padding reach a program.
  vocabulary = seqio.PassThroughVocabulary(32128, eos_id=1)
  with (gin_config.main_module(train=_capture), _without_records(vocabulary),
        device_mesh.fake_devices(devices)):
    no_training = errors.UserError(
        f"{', '.join(gin_files)}: no training run (train_script.train has "
        "no model, data or partitioner); give the files of `t5x train`")
    try:
      gin_config.parse(
          gin_files, gin_bindings, search_paths, stand_ins=STAYS_OPEN)
    except errors.UserError as error:
      if gin_config.missing_entry_point(error):
        raise no_training from error
      raise
    try:
      arguments = gin.get_configurable(_capture)()
    except errors.UserError as error:
      line = str(error).split(errors.GIN_CALL)[0]
      raise errors.UserError(line) from error
    if not {"model", "train_dataset_cfg", "partitioner"} <= set(arguments):
      raise no_training
    model = arguments["model"]
    for name in ("_input_vocabulary", "_output_vocabulary"):
      if hasattr(model, name):
        setattr(model, name, vocabulary)
    # As `t5x train` has them; Google's T5X binds False.
    with jax.default_prng_impl(utils.random_bits(
        arguments.get("use_hardware_rng", False),
        arguments.get("random_seed", 0))):
      yield arguments


def batch_spec(
    model, cfg, paired: bool,
    lengths: Mapping[str, int] | None = None) -> Mapping[str, Any]:
  """Shapes of a global batch, from the run's own feature converter.

  Args:
    model: of the run.
    cfg: a `DatasetConfig`.
    paired: whether the task has two targets a record.
    lengths: of features in tokens, where `cfg` leaves them to the data.

  Returns:
    feature -> `jax.ShapeDtypeStruct`.
  """
  import jax
  import tensorflow as tf
  lengths = dict(cfg.task_feature_lengths or lengths or {})
  if "inputs" not in lengths or "targets" not in lengths or None in (
      lengths["inputs"], lengths["targets"]):
    raise errors.UserError(
        f"TASK_FEATURE_LENGTHS={lengths}: a plan needs the lengths of inputs "
        "and targets in tokens")
  prefixes = ("", "rationale_") if paired else ("",)
  # A short record: it fits a packed row whatever its lengths.
  record = {prefix + side: [3, 1] for prefix in prefixes
            for side in ("inputs", "targets")}
  ds = tf.data.Dataset.from_tensors(
      {k: tf.constant(v, tf.int32) for k, v in record.items()})
  converter = model.FEATURE_CONVERTER_CLS(pack=cfg.pack)
  names = set(converter.TASK_FEATURES) | set(record)
  ds = converter(ds, {k: v for k, v in lengths.items() if k in names})
  row = next(iter(ds.as_numpy_iterator()))
  return {k: jax.ShapeDtypeStruct((cfg.batch_size, *x.shape), x.dtype)
          for k, x in row.items()}


@dataclasses.dataclass
class Compiled:
  """A compiled program.

  Attributes:
    name: `train`, `eval` or `decode`.
    executable: JAX's.
    batch: feature -> shape and dtype.
    seconds: of lowering and compiling.
    traced_flops: of its matrix products with what is computed again and
      gradients of embeddings, on all devices; None where the length of a loop
      is not known.
  """

  name: str
  executable: Any
  batch: Mapping[str, Any]
  seconds: float
  traced_flops: int | None = None


@dataclasses.dataclass
class Programs:
  """A run's programs for a slice, to be compiled one by one.

  Attributes:
    arguments: of `train`, as the gin file has them.
    initializer: has the train state's shapes and shardings.
    trainer: has the steps.
    train_batch: of the global batch.
    eval_batch: the same in evaluations.
    rows: what is said of the global batch's rows, or "".
  """

  arguments: Mapping[str, Any]
  initializer: Any
  trainer: Any
  train_batch: Mapping[str, Any]
  eval_batch: Mapping[str, Any]
  rows: str = ""

  @property
  def partitioner(self):
    return self.arguments["partitioner"]

  def compile(self, name: str, quick: bool = False) -> Compiled:
    """Compiles `train`, `eval` or `decode`.

    Args:
      name: of the program.
      quick: XLA takes a few times less time, by searching less for the fastest
        code; shardings and collectives are the same, memory nearly.

    Raises:
      OutOfMemory: the program needs more memory than a device has.
    """
    import jax
    state = self.initializer.global_train_state_shape
    batch, start = self.train_batch, time.monotonic()
    if name == "train":
      step, arguments = self.trainer._partitioned_train_step, (state, batch)
    elif name == "eval":
      batch = self.eval_batch
      step, arguments = self.trainer._partitioned_eval_step, (state, batch)
    else:
      from stepdistill_jax.embedded_t5x import inference
      model = self.arguments["model"]
      batch = batch_spec(
          model, self.arguments["infer_eval_dataset_cfg"], paired=False,
          lengths=self.arguments["train_dataset_cfg"].task_feature_lengths)
      axes = self.initializer.train_state_axes
      step = self.partitioner.partition(
          inference._as_uniform_step(model.predict_batch),
          in_axis_resources=(
              axes.params, self.partitioner.data_partition_spec, None,
              axes.flax_mutables),
          out_axis_resources=None)
      rng = jax.eval_shape(lambda: jax.random.PRNGKey(0))
      arguments = (state.params, batch, rng, state.flax_mutables)
    try:
      executable = step.lower(*arguments).compile(
          compiler_options=_QUICK if quick else None)
    except Exception as error:  # JAX raises its own runtime errors.
      if "RESOURCE_EXHAUSTED" in str(error):
        raise OutOfMemory(str(error), time.monotonic() - start) from error
      raise
    seconds = time.monotonic() - start
    traced = None
    if name != "decode" and hasattr(step, "trace"):
      traced = flops_lib.program_flops(step.trace(*arguments).jaxpr)
    return Compiled(name, executable, batch, seconds, traced)


class OutOfMemory(Exception):
  """A program does not fit a device, as XLA found.

  Attributes:
    needed: bytes that it would need at least, or None.
    usable: bytes that a device has for programs, or None.
    missing: the difference, or None.
    seconds: until XLA gave up.
  """

  def __init__(self, message: str, seconds: float = 0.0):
    super().__init__(message.splitlines()[0][:300])
    self.needed = self.usable = self.missing = None
    size = r"([\d.]+)([KMGT]?)\w*"
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    # Two of XLA's messages: of all of a program, and of its temporaries where
    # these alone are too large.
    match = re.search(rf"Used {size} of {size}", message) or re.search(
        rf"\({size}\) exceeds available \w+ \({size}\)", message)
    if match:
      self.needed, self.usable = (
          float(match[i]) * units[match[i + 1]] for i in (1, 3))
      self.missing = self.needed - self.usable
    self.seconds = seconds


def _shared_rows(arguments: Mapping[str, Any]) -> tuple[Any, str]:
  """Shapes of a batch whose pairs share rows, else None; what to say of it."""
  import jax
  import seqio
  import tensorflow as tf

  from stepdistill_jax.data import exact_order, pair_rows
  from stepdistill_jax.distributed import device_mesh
  model, cfg, partitioner, get_dataset_fn = (
      arguments.get(name) for name in (
          "model", "train_dataset_cfg", "partitioner", "get_dataset_fn"))
  if get_dataset_fn is None or not pair_rows.wanted(
      cfg, model, get_dataset_fn, device_mesh.on_accelerators()):
    return None, ""
  cfg = dataclasses.replace(pair_rows.with_bool(cfg), seed=cfg.seed or 0)
  try:
    known = exact_order.are_at_hand(
        seqio.get_mixture_or_task(cfg.mixture_or_task_name), cfg)
  except (ValueError, errors.UserError):  # No records, or no vocabulary.
    known = False
  if not known:
    return None, (
        "a run puts these pairs into rows that several share, whose shape "
        "follows from its records; they are not here, or not tokenized yet, so "
        "this is the plan of PACK = False, which needs more")
  layout = partitioner.get_data_layout(cfg.batch_size)
  dataset = pair_rows.fitted(
      get_dataset_fn,
      arguments.get("relative_steps") or arguments["total_steps"], partitioner,
      arguments["trainer_cls"])(
          cfg, layout.shard_id, layout.num_shards, model.FEATURE_CONVERTER_CLS)
  spec: Mapping[str, tf.TensorSpec] = dataset.element_spec
  return {k: jax.ShapeDtypeStruct(
      (dataset.rows.rows, *x.shape[1:]), x.dtype.as_numpy_dtype)
          for k, x in spec.items()}, dataset.batches.rows_in_words()


def build(arguments: Mapping[str, Any],
          batch: Mapping[str, Any] | None = None) -> Programs:
  """Makes the run's programs, nothing compiled yet.

  Args:
    arguments: of `train`, from `parsed`.
    batch: of training, if known: feature -> shape and dtype.

  Raises:
    errors.UserError: the batch does not divide by devices or microbatches.
  """
  import jax
  from t5x import utils

  from stepdistill_jax.data import pair_rows
  model, cfg, partitioner = (arguments[name] for name in (
      "model", "train_dataset_cfg", "partitioner"))
  cfg = pair_rows.with_bool(cfg)
  partitioner.get_data_layout(cfg.batch_size)  # Raises UserError.
  paired = len(getattr(model, "task_names", ("label",))) > 1 and (
      "_mix_" not in str(cfg.mixture_or_task_name))
  unpacked = batch_spec(model, cfg, paired)
  rows = ""
  if batch is None:
    batch, rows = _shared_rows(arguments)
  batch = batch or unpacked
  initializer = utils.TrainStateInitializer(
      model.optimizer_def, model.get_initial_variables,
      {k: x.shape for k, x in batch.items()}, partitioner,
      {k: x.dtype for k, x in batch.items()})
  trainer = arguments["trainer_cls"](
      model=model, train_state=initializer.global_train_state_shape,
      partitioner=partitioner, train_state_axes=initializer.train_state_axes,
      eval_names=(), summary_dir=None, rng=jax.random.PRNGKey(0))
  if hasattr(trainer, "check_batch_size"):  # Google's T5X has none.
    trainer.check_batch_size(next(iter(batch.values())).shape[0])
  return Programs(arguments, initializer, trainer, batch, unpacked, rows)
