"""Predictions or scores of a checkpoint over a data set, as JSON lines.

The data is worked off in chunks, each written to its own file when done, so
an interrupted job goes on at the first chunk that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
import os
import shutil
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.config import setting_checks
from stepdistill_jax.data import dataset_providers, truncation
from stepdistill_jax.embedded_t5x import checkpoint_config, gin_utils, utils
from stepdistill_jax.util import errors, progress

# mode -> the model's method.
STEPS = {"predict": "predict_batch", "score": "score_batch",
         "predict_with_aux": "predict_batch_with_aux"}
# (predictions or scores, auxiliary values by name)
Inferences = tuple[Sequence[Any], Mapping[str, Any]]
_Inferences = Inferences  # T5X's name, which its notebooks import.
WriteFn = MergeFn = SummarizeConfigFn = Callable[..., None]


def _add_file_task(paths, source, key_map, features, task_id) -> str:
  """Registers a task with the split `infer` over files."""
  if not tf.io.gfile.glob(paths):
    raise errors.InvalidValue(f"no file matches {paths}")
  if task_id is None:
    names = ":".join([*paths, *(str(v) for v in key_map.values())])
    task_id = hashlib.sha256(names.encode()).hexdigest()[:10]
  name = f"infer_{task_id}"
  if name not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        name, source=source,
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map=key_map),
            seqio.preprocessors.tokenize_and_append_eos],
        output_features=features)
  return name


def create_task_from_tfexample_file(
    paths: Sequence[str], file_type: str, inputs_key: str,
    targets_key: str | None, features: Mapping[str, seqio.Feature],
    task_id: str | None = None) -> str:
  """Registers a task over files of TFExamples.

  Args:
    file_type: `tfrecord`.
    inputs_key: the feature with the input text.
    targets_key: the feature with the target text, to score it; or None.
    task_id: part of the task's name; by default a hash of the paths.

  Returns:
    The task's name; its split is `infer`.
  """
  if file_type != "tfrecord":
    raise errors.InvalidValue(
        f"file type {file_type!r} is not supported; expected 'tfrecord'")
  paths = [paths] if isinstance(paths, str) else list(paths)
  keys = [inputs_key, *([targets_key] if targets_key else [])]
  source = seqio.TFExampleDataSource(
      {"infer": paths},
      feature_description={
          k: tf.io.FixedLenFeature([], tf.string) for k in keys},
      reader_cls=tf.data.TFRecordDataset)
  return _add_file_task(
      paths, source, {"inputs": inputs_key, "targets": targets_key},
      features, task_id)


def create_task_from_text_file(
    paths: Sequence[str], features: Mapping[str, seqio.Feature],
    task_id: str | None = None) -> str:
  """Registers a task over text files, an input a line.

  A tab separates an input from its target, if the file has targets. For the
  arguments and what is returned, see `create_task_from_tfexample_file`.
  """

  def read(file):
    def split(line):
      parts = tf.strings.split(line, "\t", maxsplit=1)
      return {"inputs": parts[0], "targets": parts[-1] if tf.size(
          parts) > 1 else tf.constant("")}
    return tf.data.TextLineDataset(file).map(split)

  paths = [paths] if isinstance(paths, str) else list(paths)
  source = seqio.FileDataSource(read, {"infer": paths})
  return _add_file_task(
      paths, source, {"inputs": "inputs", "targets": "targets"}, features,
      task_id)


def extract_tokens_and_aux_values(result: Any) -> Inferences:
  """Of what an `infer_fn` gives: outputs, and auxiliary values by name."""
  pairs, aux = result if isinstance(result, tuple) else (result, {})
  return [output for _, output in pairs], aux


_extract_tokens_and_aux_values = extract_tokens_and_aux_values


def _json_value(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    value = np.asarray(value)
    if value.dtype == jnp.bfloat16:
      value = value.astype(np.float32)
    return jax.tree.map(_json_value, value.tolist())
  return value


def _is_written(name: str, include_all: bool,
                fields: Sequence[str] | None) -> bool:
  if include_all or fields is None:
    return include_all or name.endswith("_pretokenized")
  return name in fields or name.removesuffix("_pretokenized") in fields


def write_inferences_to_file(
    path: str, inferences: Inferences, task_ds: tf.data.Dataset, mode: str,
    vocabulary: seqio.Vocabulary | None = None,
    json_encoder_cls: type[json.JSONEncoder] = seqio.TensorAndNumpyEncoder,
    include_all_inputs: bool = False,
    input_fields_to_include: Sequence[str] | None = None,
    output_ids: bool = False) -> None:
  """Writes one JSON object a line: `inputs`, and `prediction` or `score`.

  Args:
    inferences: predicted token ids or scores, and auxiliary values.
    task_ds: the examples.
    mode: `predict`, `score` or `predict_with_aux`.
    include_all_inputs: write all features, not only `*_pretokenized`.
    input_fields_to_include: instead, which features to write.
    output_ids: write `prediction_tokens` too.
  """
  if include_all_inputs and input_fields_to_include is not None:
    raise errors.InvalidValue(
        "`include_all_inputs` and `input_fields_to_include` exclude each other")
  outputs, aux = inferences
  lines = []
  for i, example in enumerate(task_ds.as_numpy_iterator()):
    record = {"inputs": {
        k: _json_value(v) for k, v in example.items()
        if _is_written(k, include_all_inputs, input_fields_to_include)}}
    if mode == "score":
      record["score"] = _json_value(outputs[i])
    else:
      text = vocabulary.decode_tf(tf.constant(outputs[i])).numpy()
      record["prediction"] = _json_value(text)
      if output_ids:
        ids = _json_value(np.asarray(outputs[i]))
        record["prediction_tokens"] = (
            ids[:ids.index(0)] if 0 in ids else ids)
    if aux:
      record["aux"] = {k: _json_value(np.asarray(v[i]))
                       for k, v in aux.items()}
    lines.append(json.dumps(record, cls=json_encoder_cls) + "\n")
  epath.Path(path).write_text("".join(lines))


def merge_chunks_to_file(
    output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
  """Joins the chunks' files, in order, to one."""
  del step
  chunks = sorted(epath.Path(tmp_dir).glob(f"{output_fname}-chunk?????"))
  if not chunks:
    raise errors.InvalidValue("there were no examples to infer from")
  with (epath.Path(output_dir) / output_fname).open("wb") as merged:
    for chunk in chunks:
      with chunk.open("rb") as file:
        shutil.copyfileobj(file, merged)


def _begin_chunks(folder: epath.Path, asked: str) -> None:
  """Makes the folder of chunks; those of other inferences are removed."""
  note = folder / "asked.txt"
  if folder.exists() and (
      not note.exists() or note.read_text() != asked):
    progress.say(f"warning: {folder} has unfinished inferences of another "
                 "call; they are removed")
    folder.rmtree()
  folder.mkdir(parents=True, exist_ok=True)
  note.write_text(asked)


def infer(
    *, mode: str, model, dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig, partitioner,
    output_dir: str, checkpoint_period: int, shard_id: int = 0,
    num_shards: int = 1, merge_chunked_results: bool = True,
    write_fn: Callable[..., None] = write_inferences_to_file,
    checkpoint_ds_iter: bool = True,
    train_state_initializer_cls: type[utils.TrainStateInitializer] = (
        utils.TrainStateInitializer),
    fallback_init_rng: int | None = None,
    merge_fn: Callable[..., None] = merge_chunks_to_file,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    verify_matching_vocabs_fn: Callable[..., None] | None = (
        utils.verify_matching_vocabs),
    output_vocab_feature_name: str = "targets", file_extension: str = "jsonl",
    keep_aux_as_numpy: bool = False, use_orbax: bool = True) -> None:
  """Infers from a data set and writes the results.

  Args:
    mode: `predict`, `score` (of the targets) or `predict_with_aux` (both).
    output_dir: for `TASK-MODE.jsonl-SHARD-of-SHARDS`.
    checkpoint_period: number of batches of a chunk.
    checkpoint_ds_iter: for T5X's interface; finished chunks are skipped.
    fallback_init_rng: seed for what the checkpoint lacks.
  """
  del checkpoint_ds_iter, use_orbax
  errors.require_known("infer mode", mode, STEPS)
  setting_checks.whole_number("infer.checkpoint_period", checkpoint_period)
  setting_checks.whole_number("infer.num_shards", num_shards)
  if shard_id not in range(num_shards):
    raise errors.InvalidValue(
        f"infer.shard_id must be one of 0 to {num_shards - 1}, as "
        f"infer.num_shards = {num_shards}; got {shard_id}")
  provider = dataset_providers.check(dataset_cfg, partitioner)
  truncation.look_at(provider, dataset_cfg, refuses=False)
  if verify_matching_vocabs_fn is not None:
    verify_matching_vocabs_fn(dataset_cfg, model)
  restore_cfg, path = checkpoint_config.find_one(
      restore_checkpoint_cfg, "infer")
  if shard_id == 0:
    summarize_config_fn(model_dir=output_dir, summary_writer=None, step=0)

  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  batch_size, lengths = dataset_cfg.batch_size, dataset_cfg.task_feature_lengths

  def examples(provider) -> tf.data.Dataset:
    return provider.get_dataset(
        sequence_length=lengths, split=dataset_cfg.split, shuffle=False,
        num_epochs=1, use_cached=dataset_cfg.use_cached,
        shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
        seed=dataset_cfg.seed)

  def features(provider) -> tf.data.Dataset:
    with dataset_providers.lengths_explained(dataset_cfg):
      return converter(examples(provider), task_feature_lengths=lengths)

  errors.require_known(
      "feature", output_vocab_feature_name, provider.output_features,
      "(infer.output_vocab_feature_name)")
  initializer = utils.initializer_for(
      train_state_initializer_cls, model, partitioner,
      utils.get_zeros_batch_like_dataset(
          features(provider).batch(batch_size, drop_remainder=True)))
  if shard_id == 0:
    utils.log_model_info(
        os.path.join(output_dir, "model-info.txt"),
        initializer.global_train_state_shape, partitioner)
  train_state = initializer.restore(
      restore_cfg, path, init_rng=utils.key_of_seed(fallback_init_rng))
  infer_fn = utils.get_infer_fn(
      infer_step=getattr(model, STEPS[mode]), batch_size=batch_size,
      train_state_axes=initializer.train_state_axes, partitioner=partitioner,
      keep_aux_as_numpy=keep_aux_as_numpy)
  shard = f"{shard_id:05}-of-{num_shards:05}"
  writes = jax.process_index() == 0

  def infer_chunks(task: seqio.Task, name: str, folder: epath.Path) -> None:
    """Writes a file for each chunk that has none yet."""
    start, count = time.time(), 0
    chunks = tf.data.Dataset.zip((examples(task), features(task)))
    chunks = chunks.padded_batch(checkpoint_period * batch_size)
    for index, chunk in enumerate(chunks):
      chunk_path = folder / f"{name}-chunk{index:05}"
      done = epath.Path(f"{chunk_path}.COMPLETED")
      if done.exists():
        continue
      task_ds, model_ds = map(tf.data.Dataset.from_tensor_slices, chunk)
      result = infer_fn(
          model_ds.enumerate(), train_state=train_state,
          rng=jax.random.fold_in(jax.random.PRNGKey(0), index))
      if writes:
        write_fn(
            os.fspath(chunk_path), extract_tokens_and_aux_values(result),
            task_ds, mode,
            task.output_features[output_vocab_feature_name].vocabulary)
        done.write_text("")
      count += len(task_ds)
      progress.say(f"infer  {task.name}  {count} examples  "
                   f"{count / (time.time() - start):.3g} examples/s")
      utils.sync_global_devices(f"{task.name} chunk {index}")

  for task in seqio.get_subtasks(provider):
    name = f"{task.name}-{mode}.{file_extension}-{shard}"
    completed = epath.Path(output_dir) / f"{name}.COMPLETED"
    if completed.exists():
      # Empty where Google's T5X wrote it.
      if (of := completed.read_text()) not in ("", os.fspath(path)):
        raise errors.InvalidValue(
            f"{output_dir} has the inferences of {of} in {name}; name another "
            f"output_dir for those of {os.fspath(path)}")
      progress.say(f"{name} is complete already")
      continue
    folder = epath.Path(output_dir) / f"tmp-{task.name}-{shard}"
    if writes:
      _begin_chunks(folder, f"{name} of {os.fspath(path)} in chunks of "
                    f"{checkpoint_period * batch_size}")
    utils.sync_global_devices(f"{task.name} begins")
    infer_chunks(task, name, folder)
    if writes and merge_chunked_results:
      merge_fn(output_dir, name, os.fspath(folder),
               int(jax.device_get(train_state.step)))
      folder.rmtree()
      progress.say(f"wrote {os.path.join(output_dir, name)}")
    if writes:
      completed.write_text(os.fspath(path))
    utils.sync_global_devices(f"{task.name} complete")
