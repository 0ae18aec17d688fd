"""A model that runs without this project: StableHLO, parameters, tokenizer.

The folder also gets `reader.py`, ten lines that need jax, numpy and
sentencepiece alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import shutil
from typing import Any

from etils import epath
from flax import traverse_util
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import seqio

from stepdistill_jax.config import setting_checks
from stepdistill_jax.embedded_t5x import utils
from stepdistill_jax.util import errors, progress

PLATFORMS = ("cpu", "cuda", "tpu")
_READER = '''\
import pathlib, sys, jax, jax.export, numpy as np, sentencepiece
here = pathlib.Path(__file__).parent
params = dict(np.load(here / "params.npz"))
model = jax.export.deserialize((here / "model.stablehlo").read_bytes())
pieces = sentencepiece.SentencePieceProcessor(str(here / "spiece.model"))
batch = np.zeros(model.in_avals[-1].shape, np.int32)
for line in sys.stdin:  # A question each: echo "..." | python reader.py
  ids = pieces.encode(line.strip())[:batch.shape[1] - 1] + [pieces.eos_id()]
  batch[0] = np.pad(ids, (0, batch.shape[1] - len(ids)))
  print(pieces.decode(jax.jit(model.call)(params, batch)[0].tolist()))
'''


def save(
    *, model, restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner, output_dir: str, task_feature_lengths: Mapping[str, int],
    batch_size: int | None = 1,
    train_state_initializer_cls=utils.TrainStateInitializer) -> None:
  """Writes greedy (or the model's) decoding of token ids as StableHLO.

  Args:
    model: an encoder-decoder model with a SentencePiece vocabulary.
    partitioner: restores it; the export is for one device.
    output_dir: gets `model.stablehlo` (`(params, inputs [batch, length] int32)
      -> ids [batch, length]`), `params.npz`, `spiece.model`, `export.json`
      and `reader.py`.
    task_feature_lengths: of `inputs` and `targets`, in tokens.
    batch_size: None means 1.
  """
  vocabulary = model.input_vocabulary
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    raise errors.UserError(
        "only SentencePiece vocabularies can be exported, not a "
        f"{type(vocabulary).__name__}")
  for name in ("inputs", "targets"):
    setting_checks.whole_number(
        f"TASK_FEATURE_LENGTHS[{name!r}]", task_feature_lengths.get(name))
  batch_size = batch_size or 1
  shapes = {"inputs": (batch_size, task_feature_lengths["inputs"]),
            "targets": (batch_size, task_feature_lengths["targets"])}

  def as_batch(inputs):
    blank = jnp.zeros(shapes["targets"], jnp.int32)
    return {"encoder_input_tokens": inputs, "decoder_input_tokens": blank,
            "decoder_target_tokens": blank}

  spec = jax.eval_shape(as_batch, jnp.zeros(shapes["inputs"], jnp.int32))
  cfg, path = utils.find_one(restore_checkpoint_cfg, "export")
  state = utils.initializer_for(
      train_state_initializer_cls, model, partitioner, spec).restore(cfg, path)
  params = {name: np.asarray(x, np.float32) for name, x
            in utils.flatten_dict_string_keys(state.params).items()}

  @jax.jit
  def predict(params, inputs):
    params = flax.core.freeze(traverse_util.unflatten_dict(params, sep="/"))
    ids = model.predict_batch(params, as_batch(inputs))
    # The model has more ids than `spiece.model`, for speed and sentinels.
    known = ids < vocabulary.vocab_size - vocabulary.extra_ids
    return jnp.where(known, ids, vocabulary.unk_id)

  exported = jax.export.export(predict, platforms=PLATFORMS)(
      jax.eval_shape(lambda: params),
      jax.ShapeDtypeStruct(shapes["inputs"], jnp.int32))
  folder = epath.Path(output_dir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "model.stablehlo").write_bytes(bytes(exported.serialize()))
  with (folder / "params.npz").open("wb") as file:
    np.savez(file, **params)
  with (epath.Path(vocabulary.sentencepiece_model_file).open("rb") as source,
        (folder / "spiece.model").open("wb") as target):
    shutil.copyfileobj(source, target)
  (folder / "export.json").write_text(json.dumps({
      "checkpoint": path, "step": int(jax.device_get(state.step)),
      "batch_size": batch_size, "inputs_length": shapes["inputs"][1],
      "targets_length": shapes["targets"][1], "platforms": PLATFORMS,
      "eos_id": vocabulary.eos_id, "jax": jax.__version__}, indent=2) + "\n")
  (folder / "reader.py").write_text(_READER)
  progress.say(f"wrote {output_dir}; try: echo TEXT | python "
               f"{folder / 'reader.py'}")


def create_preprocessor_from_task(
    batch_size: int | None, output_features: Mapping[str, seqio.Feature],
    task_feature_lengths: Mapping[str, int], tokenized_inputs: bool = False,
    *, model, task_name: str = "", serialized_examples: bool = True,
    run_precache: bool = False, input_tensor_name: str = "text_batch"
) -> tuple[Callable[..., Any], Sequence[Any]]:
  """What makes model features of a task's examples, for serving.

  Args:
    batch_size: None takes any.
    output_features: for T5X's interface; the task has its own.
    tokenized_inputs: the signature is of token ids, not of texts.
    model: gives the feature converter.
    serialized_examples: examples come as serialized `tf.train.Example`s, else
      as a batch of the source's features.
    run_precache: run the preprocessors before the task's cache, too.

  Returns:
    (function of a batch of examples, its signature).
  """
  del output_features
  import tensorflow as tf
  task = seqio.get_mixture_or_task(task_name)
  converter = model.FEATURE_CONVERTER_CLS(pack=False)

  def parse(example):
    spec = task.source.get_dataset(task.splits[0]).element_spec
    return tf.io.parse_single_example(example, {
        name: tf.io.FixedLenFeature(x.shape, x.dtype)
        if x.shape.is_fully_defined() else
        tf.io.FixedLenSequenceFeature([], x.dtype, allow_missing=True)
        for name, x in spec.items()})

  def preprocess(examples):
    ds = tf.data.Dataset.from_tensor_slices(examples)
    if serialized_examples:
      ds = ds.map(parse)
    if run_precache:
      ds = task.preprocess_precache(ds)
    ds = converter(task.preprocess_postcache(ds, task_feature_lengths),
                   task_feature_lengths=task_feature_lengths)
    rows = tf.shape(jax.tree.leaves(examples)[0], tf.int64)[0]
    return ds.batch(batch_size or rows, drop_remainder=True
                    ).get_single_element()

  signature = (
      tf.TensorSpec([batch_size, task_feature_lengths["inputs"]], tf.int32,
                    input_tensor_name) if tokenized_inputs
      else tf.TensorSpec([batch_size], tf.string, input_tensor_name))
  return preprocess, [signature]
