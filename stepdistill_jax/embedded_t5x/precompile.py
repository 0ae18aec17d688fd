"""Compiles a train step and writes what XLA made of it; trains nothing."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import numpy as np

from stepdistill_jax.data import dataset_providers
from stepdistill_jax.embedded_t5x import trainer as trainer_lib, utils
from stepdistill_jax.util import progress


def precompile(
    *,
    model,
    train_dataset_cfg: utils.DatasetConfig,
    partitioner,
    model_dir: str,
    random_seed: int | None,
    get_dataset_fn: Callable[..., Any] = utils.get_dataset,
    verify_matching_vocabs_fn: Callable[..., None] | None = (
        utils.verify_matching_vocabs),
    trainer_cls: Callable[..., trainer_lib.BaseTrainer] = trainer_lib.Trainer,
) -> None:
  """Compiles the step that `train` would run with the same configuration.

  With the same trainer, seed and devices the program is the one that `train`
  then finds in JAX's compilation cache. Written to `model_dir`, by T5X's
  names: the program before and after XLA's optimizations, as text, and the
  mesh's device ids.
  """
  dataset_providers.check(train_dataset_cfg, partitioner)
  if verify_matching_vocabs_fn is not None:
    verify_matching_vocabs_fn(train_dataset_cfg, model)
  random_bits = functools.partial(
      jax.default_prng_impl, utils.random_bits(None, random_seed or 42))
  with random_bits():
    _, rng = jax.random.split(jax.random.PRNGKey(random_seed or 42))
  layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
  ds = get_dataset_fn(
      dataclasses.replace(train_dataset_cfg, seed=0), layout.shard_id,
      layout.num_shards, model.FEATURE_CONVERTER_CLS)
  batch = {
      k: jax.ShapeDtypeStruct((layout.batch_size, *x.shape[1:]), x.dtype)
      for k, x in utils.get_zeros_batch_like_dataset(ds).items()}
  initializer = utils.initializer_for(
      utils.TrainStateInitializer, model, partitioner, batch,
      model.optimizer_def)
  state = initializer.global_train_state_shape
  with random_bits(), trainer_cls(
      model=model, train_state=state, partitioner=partitioner, eval_names=(),
      summary_dir=None, train_state_axes=initializer.train_state_axes, rng=rng
  ) as trainer:
    trainer.check_batch_size(layout.batch_size)
    lowered = trainer._partitioned_train_step.lower(state, batch)
  folder = epath.Path(model_dir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "lowered_hlo_pre_optimization").write_text(lowered.as_text())
  compiled = lowered.compile()
  (folder / "lowered_hlo_post_optimization").write_text(compiled.as_text())
  with (folder / "assignment").open("wb") as file:
    np.save(file, partitioner.mesh.device_ids)
  memory = compiled.memory_analysis()
  progress.say(
      f"compiled for {partitioner.mesh.size} x "
      f"{partitioner.mesh.devices.flat[0].device_kind}: a device holds "
      f"{memory.argument_size_in_bytes / 2**30:.3f} GiB of state and batch "
      f"and {memory.temp_size_in_bytes / 2**30:.3f} GiB while it computes")
