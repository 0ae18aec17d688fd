"""One engine's side of `benchmarks/t5x_speed.py`: a server on standard input.

It builds what the gin files say with the interface that both engines have, and
then takes lines of JSON: `{"train": steps}` runs so many steps with metrics
and event files, `{"decode": null}` decodes the test set with the parameters
there are, `{"save": FILE}` and `{"restore": FILE}` write and read them.
Each is answered by a line of JSON with the seconds it took.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

from stepdistill_jax.util import runtime


class Engine:
  """What `train_script.train` is bound to: the configured parts of a run."""

  def __init__(
      self, *, model, train_dataset_cfg, infer_eval_dataset_cfg, partitioner,
      trainer_cls, model_dir, random_seed, **unused):
    import jax
    from t5x import utils
    self._model, self._partitioner = model, partitioner
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    dataset = utils.get_dataset(
        train_dataset_cfg, layout.shard_id, layout.num_shards,
        model.FEATURE_CONVERTER_CLS)
    self._batches = utils.prepare_train_iter(
        dataset, partitioner=partitioner, data_layout=layout,
        checkpoint_cfg=utils.CheckpointConfig())
    spec = self._batches.element_spec
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={k: (layout.batch_size, *s.shape[1:])
                      for k, s in spec.items()},
        input_types={k: s.dtype for k, s in spec.items()},
        partitioner=partitioner)
    init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(random_seed))
    self._trainer = trainer_cls(
        model=model, train_state=initializer.from_scratch(init_rng),
        partitioner=partitioner, eval_names=[], summary_dir=model_dir,
        train_state_axes=initializer.train_state_axes, rng=trainer_rng)
    self._axes = initializer.train_state_axes
    self._cfg = infer_eval_dataset_cfg

  def train(self, steps: int) -> dict:
    start = time.perf_counter()
    metrics = self._trainer.train(self._batches, steps).result()
    return {"seconds": time.perf_counter() - start,
            "loss": float(metrics["loss"].value)}

  def decode(self, _) -> dict:
    import numpy as np
    import seqio
    from t5x import utils
    import tensorflow as tf
    cfg = self._cfg
    if not hasattr(self, "_examples"):
      task = seqio.get_mixture_or_task(cfg.mixture_or_task_name).get_dataset(
          cfg.task_feature_lengths, cfg.split, shuffle=False)
      examples = self._model.FEATURE_CONVERTER_CLS(pack=False)(
          task, task_feature_lengths=cfg.task_feature_lengths
      ).enumerate().cache()
      self._count = sum(1 for _ in examples)
      self._examples = examples.apply(
          tf.data.experimental.assert_cardinality(self._count))
      self._infer = utils.get_infer_fn(
          self._model.predict_batch, cfg.batch_size, self._axes,
          self._partitioner)
    start = time.perf_counter()
    found = self._infer(self._examples, self._trainer.train_state)
    return {"seconds": time.perf_counter() - start, "examples": self._count,
            "tokens": [np.asarray(tokens).tolist() for _, tokens in found]}

  def save(self, file: str) -> dict:
    import flax
    import jax
    import numpy as np
    params = jax.device_get(self._trainer.train_state.params)
    flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(params), sep="/")
    np.savez(file, **flat)
    return {}

  def restore(self, file: str) -> dict:
    import flax
    import numpy as np
    flat = dict(np.load(file))
    params = flax.core.freeze(
        flax.traverse_util.unflatten_dict(flat, sep="/"))
    state = self._trainer.train_state.replace_params(params)
    self._trainer.train_state = self._partitioner.move_params_to_devices(
        state, self._axes)
    return {}


def main() -> None:
  gin_files, bindings = json.loads(sys.argv[1])
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # What libraries print is no answer.
  runtime.configure()
  import gin

  from stepdistill_jax.config import gin_config
  with tempfile.TemporaryDirectory() as folder:
    with gin_config.main_module(train=Engine):
      gin_config.parse(gin_files, [*bindings, f"MODEL_DIR = {folder!r}"])
      engine = gin.get_configurable(Engine)()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
      (command, argument), = json.loads(line).items()
      print(json.dumps(getattr(engine, command)(argument)), file=answers,
            flush=True)


if __name__ == "__main__":
  main()
