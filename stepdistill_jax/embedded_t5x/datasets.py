"""SeqIO tasks as batches: for training, for teacher-forced evaluation.

The order of training batches is a function of the data set's seed alone, so
that the batch of any step can be found again (`train_iterator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import importlib
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.config import setting_checks
from stepdistill_jax.data import dataset_providers, pipelines, truncation
from stepdistill_jax.util import errors


@dataclasses.dataclass
class DatasetConfig:
  """Which data, how long, how many at a time.

  Attributes:
    mixture_or_task_name: registered name, or the task or mixture itself.
    task_feature_lengths: feature -> length in tokens; None means the longest
      of the data.
    seed: of the shuffle and of random preprocessing; None takes a new one.
    pack: as T5X has it. In training, 'pairs' and None are choices of
      `data.pair_rows`.
    use_cached: read what `seqio_cache_tasks` wrote.
    use_custom_packing_ops: pack with tensor2tensor's compiled operation.
    module: imported first, for its registrations; T5X deprecates it.
  """

  mixture_or_task_name: str | seqio.Task | seqio.Mixture
  task_feature_lengths: Mapping[str, int] | None
  split: str
  batch_size: int
  shuffle: bool
  seed: int | None
  use_cached: bool = False
  pack: bool | str | None = False
  use_custom_packing_ops: bool = False
  module: str | None = None
  use_memory_cache: bool = True
  trim_output_features: bool = True
  runtime_preprocessors: Sequence[Any] | None = None
  num_prefetch_threads: int | None = None
  num_workers: int | None = 0


def import_module(module: str) -> None:
  """Imports a module for what it registers."""
  importlib.import_module(module)


def shared_time_seed() -> int:
  """A new seed, the same on all hosts."""
  return int(multihost_utils.broadcast_one_to_all(
      np.int32(int(time.time()) & 0x7FFFFFFF)))


def get_dataset(
    cfg: DatasetConfig, shard_id: int, num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None, continue_from_last_checkpoint: bool = False
) -> tf.data.Dataset:
  """The batches of one share of a data set.

  Args:
    num_epochs: None repeats forever.

  Returns:
    A dataset of feature -> [batch_size / num_shards, ...].
  """
  if continue_from_last_checkpoint:
    raise ValueError("continue_from_last_checkpoint=True is not supported")
  dataset_providers.check_divisible(cfg.batch_size, num_shards)
  return get_dataset_inner(
      cfg, seqio.ShardInfo(index=shard_id, num_shards=num_shards),
      feature_converter_cls,
      shared_time_seed() if cfg.seed is None else cfg.seed, num_epochs)


def get_dataset_inner(
    cfg: DatasetConfig, shard_info: seqio.ShardInfo,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    seed: int | None = None, num_epochs: int | None = None) -> tf.data.Dataset:
  """`get_dataset` with a given seed."""
  make = functools.partial(
      seqio.get_dataset,
      mixture_or_task_name=dataset_providers.find_task(cfg),
      task_feature_lengths=cfg.task_feature_lengths,
      dataset_split=cfg.split,
      shuffle=cfg.shuffle,
      num_epochs=num_epochs,
      feature_converter=feature_converter_cls(
          pack=cfg.pack, use_custom_packing_ops=cfg.use_custom_packing_ops),
      shard_info=shard_info,
      use_cached=cfg.use_cached,
      seed=seed,
      trim_output_features=cfg.trim_output_features,
      batch_size=cfg.batch_size // shard_info.num_shards,
      verbose=False)
  with dataset_providers.lengths_explained(cfg), truncation.in_rows(cfg.pack):
    # SeqIO's packing loops.
    return make() if cfg.pack else pipelines.build(make)


def get_training_eval_datasets(
    cfg: DatasetConfig, shard_id: int, num_shards: int, eval_steps: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    deterministic: bool = False, model_dir: str | None = None,
    start_step: int = 0) -> Mapping[str, tf.data.Dataset]:
  """`eval_steps` batches of each task of a mixture and of the mixture.

  Every host reads all examples and takes its share of them, so that shares
  are even. Tasks without the split are left out.

  `deterministic`, `model_dir` and `start_step` are T5X's, for its
  deterministic tasks.
  """
  del deterministic, model_dir, start_step
  dataset_providers.check_divisible(cfg.batch_size, num_shards)
  provider = dataset_providers.find_task(cfg)
  parts = [task for task in seqio.get_subtasks(provider)
           if cfg.split in task.splits]
  if isinstance(provider, seqio.Mixture) and parts:
    parts.append(provider)

  def batches(part) -> tf.data.Dataset:
    examples = get_dataset(
        dataclasses.replace(cfg, mixture_or_task_name=part, batch_size=1),
        shard_id=0, num_shards=1, feature_converter_cls=feature_converter_cls,
        # Finite, so that a split whose examples are all filtered ends.
        num_epochs=eval_steps * cfg.batch_size)
    ds = (examples.unbatch().repeat().shard(num_shards, shard_id)
          .batch(cfg.batch_size // num_shards, drop_remainder=True)
          .take(eval_steps))
    return ds.cache() if cfg.use_memory_cache else ds

  return {part.name: batches(part) for part in parts}


def get_vocabulary(
    cfg: DatasetConfig) -> tuple[seqio.Vocabulary, seqio.Vocabulary]:
  """The vocabularies of `inputs` and `targets`.

  Where a task has no features of those names, all its features (those with a
  PassThroughVocabulary apart) must agree, and theirs is returned twice.
  """
  features = dataset_providers.find_task(cfg).output_features
  if "inputs" in features and "targets" in features:
    return features["inputs"].vocabulary, features["targets"].vocabulary
  vocabularies = [f.vocabulary for f in features.values()]
  vocabularies = [
      v for v in vocabularies
      if not isinstance(v, seqio.PassThroughVocabulary)] or vocabularies
  if not vocabularies or any(v != vocabularies[0] for v in vocabularies):
    raise errors.InvalidValue(
        f"{cfg.mixture_or_task_name} has no `inputs` and `targets`, and its "
        f"features {sorted(features)} have no or different vocabularies")
  return vocabularies[0], vocabularies[0]


def verify_matching_vocabs(cfg: DatasetConfig, model) -> None:
  """Raises UserError unless task and model share their vocabularies."""
  of_task = get_vocabulary(cfg)
  of_model = (model.input_vocabulary, model.output_vocabulary)
  if of_task != of_model:
    raise errors.InvalidValue(
        f"the vocabularies of task {cfg.mixture_or_task_name} {of_task} are "
        f"not those of the model {of_model}; set VOCABULARY to the task's")
  setting_checks.vocabulary_fits(model, str(cfg.mixture_or_task_name))


def get_zeros_batch_like_spec(batch_spec: Mapping[str, jax.ShapeDtypeStruct]):
  """A batch of zeros: feature -> array."""
  return {k: np.zeros(s.shape, s.dtype) for k, s in batch_spec.items()}


def get_zeros_batch_like_dataset(
    dataset: tf.data.Dataset, batch_size: int | None = None):
  """A batch of zeros with the shapes of a data set's."""
  return get_zeros_batch_like_spec({
      name: jax.ShapeDtypeStruct(
          (batch_size or x.shape[0], *x.shape[1:]),
          getattr(x.dtype, "as_numpy_dtype", x.dtype))
      for name, x in dataset.element_spec.items()})


def numpy_iterators(datasets: Mapping[str, Any]) -> Mapping[str, Any]:
  """Iterators of numpy batches; what is not a tf.data.Dataset as it is."""
  return {name: ds.as_numpy_iterator() if isinstance(ds, tf.data.Dataset)
          else ds for name, ds in datasets.items()}


def round_vocab_size_to_multiple(
    vocabulary: seqio.Vocabulary, divisor: int = 128) -> int:
  """The vocabulary's size, rounded up, as matrix units like it."""
  return -(-vocabulary.vocab_size // divisor) * divisor
