"""Training batches whose order is a function of seed and step alone.

`get_dataset` stands in for `t5x.utils.get_dataset` (gin:
`train_script.train.get_dataset_fn`), on either engine. SeqIO's own pipeline
shuffles in a window over the border of two epochs and must replay what was
read to go on; it also shuffles each host's share for itself. This one

* gives every example exactly once per epoch,
* starts at any step at once,
* gives the same global batches whatever the number of hosts.

A task's preprocessing runs once, before the first batch, and its token ids are
read from files (`preparation`); a random preprocessor would give the same in
every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import fractions
import math
from typing import Any

import gin
import seqio
from t5x import utils
import tensorflow as tf

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.data import (
  dataset_providers,
  example_batches,
  example_store,
  feature_converter,
  pair_rows as pair_rows_lib,
  pipelines,
  preparation,
  selection,
  truncation,
)
from stepdistill_jax.util import errors

# A mixture's rates are rounded to whole numbers of which the largest is at
# most this times the smallest.
_FINEST_RATE = 1000


@dataclasses.dataclass
class _Start:
  """The step that a pipeline begins at, once it is read."""

  step: int
  is_taken: bool = False

  def take(self) -> int:
    self.is_taken = True
    return self.step


def _integer_rates(rates: Sequence[float]) -> list[int]:
  """Rates as the smallest whole numbers of the same proportions."""
  parts = [fractions.Fraction(rate / min(rates)).limit_denominator(
      _FINEST_RATE) for rate in rates]
  factor = math.lcm(*(part.denominator for part in parts))
  if factor > _FINEST_RATE:
    return [max(1, round(_FINEST_RATE * rate / max(rates))) for rate in rates]
  return [int(part * factor) for part in parts]


def _examples(cfg: utils.DatasetConfig, provider: Any
              ) -> tuple[example_store.ExampleStore, list[int]]:
  """(all examples, rates of the parts) of a task or mixture."""
  tasks = _tasks(provider, cfg)
  rates = [1] if len(tasks) == 1 else _integer_rates(
      [provider.get_rate(task) for task in tasks])
  datasets = [None if _keeps_tokens(task, cfg) else truncation.read(task, cfg)
              for task in tasks]
  specs = [preparation.spec_of(task) if dataset is None
           else dataset.element_spec for task, dataset in zip(tasks, datasets)]
  shared = set.intersection(*map(set, specs))
  spec = {
      key: spec for key, spec in specs[0].items()
      if key in shared and spec.dtype != tf.string
      and spec.shape.rank == 1 and key != truncation.TOKENS_CUT}
  return example_store.ExampleStore([
      _prepared_part(task, cfg) if dataset is None
      else _streamed_part(task, cfg, dataset, list(spec))
      for task, dataset in zip(tasks, datasets)], spec), rates


def _keeps_tokens(task: seqio.Task, cfg: utils.DatasetConfig) -> bool:
  return bool(truncation.texts_of(task) and not cfg.use_cached
              and preparation.first_step_of(task))


def _prepared_part(task: seqio.Task, cfg: utils.DatasetConfig, **says: bool
                   ) -> example_store.Part:
  """The examples of a task, of prepared tokens."""
  texts = truncation.texts_of(task)
  assert texts is not None
  with truncation.in_rows(cfg.pack):
    fit = texts.fit(task.output_features, cfg.task_feature_lengths)
  return example_store.Part(
      lambda: preparation.prepared(task, cfg.split), fit,
      truncation.Judge.of(task, cfg, **says),
      lambda: selection.left_out_of(task.source))


def _streamed_part(task: seqio.Task, cfg: utils.DatasetConfig,
                   dataset: tf.data.Dataset, keys: list[str]
                   ) -> example_store.Part:
  """The examples of a task, as SeqIO reads them."""
  judge = truncation.Judge.of(task, cfg)
  if judge is not None:
    keys = [*keys, truncation.TOKENS_CUT]
  return example_store.Part(
      lambda: preparation.streamed(
          task.name, dataset, keys, task.source.num_input_examples(cfg.split)),
      judge=judge)


def judge_all(provider: Any, cfg: utils.DatasetConfig, says: bool) -> bool:
  """Says what a run's lengths will cut, where all tokens are soon at hand.

  Args:
    provider: the task or mixture.
    cfg: of the run.
    says: False where the run says it itself, so that refusals are left.

  Returns:
    Whether all examples were looked at.

  Raises:
    errors.UserError: as a `truncation.Judge` does.
  """
  return are_at_hand(provider, cfg) and all(
      _prepared_part(task, cfg, says=says).cut
      for task in _tasks(provider, cfg))


def are_at_hand(provider: Any, cfg: utils.DatasetConfig) -> bool:
  """Whether all tokens of a task or mixture are there, or soon made."""
  return bool(cfg.task_feature_lengths) and all(
      _keeps_tokens(task, cfg) and preparation.is_at_hand(task, cfg.split)
      for task in _tasks(provider, cfg))


def _tasks(provider: Any, cfg: utils.DatasetConfig) -> list[seqio.Task]:
  return [task for task in seqio.get_subtasks(provider)
          if cfg.split in task.splits]


@gin.configurable(module="stepdistill_jax.data.exact_order")
@inherited_bindings.followed_by_function(utils.get_dataset)
def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    pair_rows: pair_rows_lib.Request | None = None) -> tf.data.Dataset:
  """The batches of one share of a data set, without end.

  Args:
    cfg: the data set, with a seed.
    shard_id: which share.
    num_shards: number of shares.
    feature_converter_cls: makes model features of task features.
    num_epochs: must be None; T5X's interface has it.
    continue_from_last_checkpoint: must be False; T5X's interface has it.
    pair_rows: puts the same pairs into rows that several share; the dataset
      then ends with the run, and its `rows` is the global batch's shape.

  Returns:
    A dataset of feature -> [batch_size / num_shards, ...]. Its attribute
    `starting_at(step)` gives the dataset that begins with the batch of a step:
    this one, moved there, if nobody has begun to read it, as building it takes
    a second. `batches` says which examples are where, `cut()` what they have
    lost, once they are read; `same_on_any_hosts` is true.
  """
  if num_epochs is not None or continue_from_last_checkpoint:
    raise errors.InvalidValue(
        "num_epochs and continue_from_last_checkpoint (of utils.get_dataset) "
        "are not supported: training ends after its steps")
  pair_rows_lib.require_bool(cfg)
  dataset_providers.check_divisible(cfg.batch_size, num_shards)
  converter = feature_converter_cls(
      pack=cfg.pack, use_custom_packing_ops=cfg.use_custom_packing_ops)
  provider = seqio.get_mixture_or_task(cfg.mixture_or_task_name) if isinstance(
      cfg.mixture_or_task_name, str) else cfg.mixture_or_task_name
  is_mixture = len(seqio.get_subtasks(provider)) > 1
  if cfg.seed is None or cfg.task_feature_lengths is None or cfg.pack and (
      is_mixture or not isinstance(
          converter, feature_converter.StepDistillFeatureConverter)):
    # SeqIO packs by rules of its own.
    return utils.get_dataset(cfg, shard_id, num_shards, feature_converter_cls)
  store, rates = pipelines.build(lambda: _examples(cfg, provider))

  def row_lengths(store: example_store.ExampleStore) -> Any:
    return converter.row_sizes(
        store.element_spec, store.sizes, cfg.task_feature_lengths)

  batches = example_batches.Batches(
      cfg, store, rates, row_lengths, shard_id, num_shards)
  share, spec = cfg.batch_size // num_shards, store.batches_spec()
  if pair_rows is not None:
    batches.fit_rows(pair_rows)
    spec = {**spec, feature_converter.PLACEMENT: tf.TensorSpec(
        [4, share], tf.int32)}

  def starting_at(step: int) -> tf.data.Dataset:
    if not start.is_taken:
      start.step = step
      return dataset
    return pipelines.build(lambda: batches_from(_Start(step)))

  def batches_from(start: _Start) -> tf.data.Dataset:
    shares = tf.data.Dataset.from_generator(
        lambda: batches.from_step(start.take()), output_signature=spec)
    if not hasattr(converter, "of_many"):  # SeqIO's, for a task of its own.
      return converter(shares.unbatch().map(lambda example: {
          name: tf.ensure_shape(example[name], spec.shape)
          for name, spec in store.element_spec.items()
      }), cfg.task_feature_lengths).batch(share, drop_remainder=True)
    rows = shares.map(
        converter.of_many(
            store.element_spec, cfg.task_feature_lengths, batches.rows),
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return rows if batches.rows else rows.unbatch().batch(
        share, drop_remainder=True)

  start = _Start(0)
  dataset = pipelines.build(lambda: batches_from(start))
  dataset.starting_at = starting_at
  dataset.batches = batches
  dataset.cut = lambda: store.cut
  dataset.same_on_any_hosts = True
  dataset.rows = batches.rows and batches.rows._replace(
      rows=batches.rows.rows * num_shards)
  return dataset
