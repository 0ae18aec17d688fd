"""What T5X's users call by T5X's names does what it does there."""

import builtins
import gc
import os
import subprocess
import sys
import threading
import types

import clu.values
import flax.core
from flax.linen import partitioning as flax_partitioning
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorstore as ts

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x import (
  binary_search,
  checkpoint_importer,
  checkpoint_utils,
  checkpoints,
  decoding,
  gin_utils,
  infer,
  interactive_model,
  metrics,
  models,
  partitioning,
  test_utils,
  trainer,
  utils,
)
from stepdistill_jax.embedded_t5x.examples.t5 import layers
from stepdistill_jax.runs import retention
from stepdistill_jax.util import version


def _python(text, **environment):
  return subprocess.run(
      [sys.executable, "-c", "import stepdistill_jax\n" + text],
      env={**os.environ, "JAX_PLATFORMS": "cpu", **environment}, check=False,
      capture_output=True, text=True)


def test_import_t5x_gives_its_modules():
  done = _python(
      "import t5x\n"
      "assert t5x.checkpointing is t5x.checkpoints\n"
      "assert 'trainer' in dir(t5x) and t5x.trainer.Trainer\n"
      "assert t5x.models.EncoderDecoderModel and t5x.utils.DatasetConfig\n"
      "print(t5x.__version__, t5x.version.__version__)")
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [version.__version__] * 2


def test_bisection_finds_each_row_s_threshold():
  limits = jnp.array([-2**31, -7, 0, 12345, 2**31 - 1], jnp.int32)
  found = binary_search.int32_bsearch((5,), lambda x: x > limits)
  np.testing.assert_array_equal(found, limits)
  floats = jnp.array([-1e30, -0.5, 1e-3, 3.25], jnp.float32)
  found = binary_search.float32_bsearch((4,), lambda x: x > floats)
  np.testing.assert_array_equal(found, floats)


def test_masks_keep_the_largest_and_their_ties():
  x = jnp.array([[1.0, 4.0, 2.0, 4.0], [0.0, -1.0, -2.0, -3.0]])
  np.testing.assert_array_equal(
      binary_search.topk_mask(x, 2, -9.0),
      [[-9.0, 4.0, -9.0, 4.0], [0.0, -1.0, -9.0, -9.0]])
  logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
  kept = binary_search.topp_mask(logits, 0.7, -9.0)
  np.testing.assert_array_equal(kept[0] > -9.0, [True, True, False, False])


def test_sampling_works_without_jit():
  logits = jnp.log(jnp.array([[0.1, 0.2, 0.6, 0.1]]))

  def step(state):
    return jnp.repeat(logits, state.cur_token.shape[0], 0), state.cache

  run = lambda: decoding.temperature_sample(
      jnp.zeros((1, 4), jnp.int32), {}, step, eos_id=9, topk=3,
      decode_rng=jax.random.PRNGKey(3), rescale_log_probs=False)
  jitted = run()
  with jax.disable_jit():
    plain = run()
  np.testing.assert_array_equal(jitted[0], plain[0])
  np.testing.assert_allclose(jitted[1], plain[1], rtol=1e-6)


def test_beams_are_gathered_by_t5x_s_arguments():
  x = jnp.arange(2 * 3 * 2).reshape(2, 3, 2)
  indices = jnp.array([[2, 0], [1, 1]])
  wanted = np.stack([x[0][indices[0]], x[1][indices[1]]])
  np.testing.assert_array_equal(
      decoding.gather_beams(x, indices, 2, 3, 2), wanted)
  np.testing.assert_array_equal(
      decoding.gather_topk_beams(
          x, jnp.array([[5.0, 9.0, 7.0], [3.0, 1.0, 2.0]]), 2, 2),
      np.stack([x[0][np.array([2, 1])], x[1][np.array([2, 0])]]))
  cache = {"k": x[None], "cache_index": jnp.array(3), "cached_bias": x}
  picked = decoding.cache_gather_beams(cache, indices, 2, 3, 2, offset=1)
  np.testing.assert_array_equal(picked["k"], wanted[None])
  assert int(picked["cache_index"]) == 3 and picked["cached_bias"] is x


def test_two_stage_top_k_is_top_k():
  x = jax.random.normal(jax.random.PRNGKey(0), (2, 4096))
  for got, wanted in zip(decoding.top_k_two_stage(x, 4), jax.lax.top_k(x, 4)):
    np.testing.assert_array_equal(got, wanted)


def test_position_embedders_of_a_cache_are_left_alone():
  cache = {"position_embedder_index": jnp.array([4]),
           "cache_index": jnp.array([1, 2]), "cached_key": jnp.ones((2, 3))}
  doubled = decoding.cache_map(lambda x: x * 2, cache, apply_to_index=True)
  assert jax.tree.map(lambda x: x.tolist(), doubled) == {
      "position_embedder_index": [4], "cache_index": [2, 4],
      "cached_key": [[2.0] * 3] * 2}


def test_beam_search_begins_with_one_live_beam():
  state = decoding.beam_init(2, 3, 5, {"k": jnp.ones((2, 4))})
  assert state.live_logprobs.tolist()[0] == [0.0, -1e7, -1e7]
  assert state.cache["k"].shape == (2, 3, 4)
  assert state.live_seqs.shape == (2, 3, 5) and state.initial_index is None


def test_slices_of_several_starts():
  x = jnp.arange(12).reshape(3, 4)
  rows = layers.dynamic_vector_slice_in_dim(x, jnp.array([2, 0]), 1, -1)
  np.testing.assert_array_equal(rows, [[[2], [6], [10]], [[0], [4], [8]]])
  written = decoding._dynamic_update_vector_slice_in_dim(
      x, jnp.array([[90], [91], [92]]), jnp.array([3, 0, 1]), 0)
  np.testing.assert_array_equal(
      written, [[0, 1, 2, 90], [91, 5, 6, 7], [8, 92, 10, 11]])


def test_what_is_traced_is_known_to_be():
  known = []
  jax.jit(lambda x: known.append(decoding._is_tracer(x)))(1.0)
  assert known == [True] and not decoding._is_tracer(jnp.array(1.0))


def test_checkpoint_steps_cut_periods():
  steps = [5, 10, 23]
  assert utils.find_first_checkpoint_step(0, steps, 0, 7) == 1
  assert utils.find_first_checkpoint_step(0, steps, 5, 5) == 1
  find = lambda first, host: utils.find_next_checkpoint_step(
      first, 10, False, host, steps, 30, 10, 0)
  assert find(0, 0) == (5, True)
  assert find(1, 5) == (10, False)  # 10 is saved as a multiple.
  assert find(2, 20) == (3, True)
  assert find(2, 23) == (10, False)  # It is saved; T5X's goes on forever.


def test_a_batch_that_was_peeked_at_stays_the_next(tmp_path):
  ds = tf.data.Dataset.from_tensor_slices(
      {"x": np.arange(32, dtype=np.int32)}).batch(8)
  make = lambda: utils.prepare_train_iter(
      ds, partitioner=partitioning.PjitPartitioner(num_partitions=1))
  first = lambda batch: int(batch["x"][0])
  batches = make()
  assert first(batches.peek()) == 0
  batches.save(str(tmp_path / "position"))  # T5X's train.py saves here.
  assert [first(next(batches)) for _ in range(2)] == [0, 8]
  batches.reset()
  assert first(next(batches)) == 0
  again = make()
  again.restore(str(tmp_path / "position"))
  assert first(next(again)) == 8


def test_a_task_of_one_file(tmp_path):
  path = str(tmp_path / "examples.tfrecord")
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(tf.train.Example(features=tf.train.Features(feature={
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(
            value=[b"a"]))})).SerializeToString())
  name = infer.create_task_from_tfexample_file(
      path, "tfrecord", "text", None,
      {"inputs": seqio.Feature(seqio.ByteVocabulary())})
  ds = seqio.get_mixture_or_task(name).get_dataset(split="infer")
  assert [e["inputs_pretokenized"] for e in ds.as_numpy_iterator()] == [b"a"]


def test_axis_names_can_be_overridden():
  axes = flax_partitioning.AxisMetadata(names=("embed", "mlp"))
  variables = {"params": {"a": {"kernel": np.ones((2, 3))}},
               "params_axes": {"a": {"kernel_axes": axes}}}
  got = utils.override_params_axes_names(
      flax.core.freeze(variables), [(".*/kernel", ("embed", "vocab"))])
  assert got["params_axes"]["a"]["kernel_axes"].names == ("embed", "vocab")
  with pytest.raises(ValueError, match="2 axes"):
    utils.override_params_axes_names(variables, [("a/.*", ("embed",))])
  with pytest.raises(ValueError, match="params_axes"):
    utils.override_params_axes_names({"params": {}})


def test_local_data_is_a_host_s_own():
  assert utils.get_local_data(3) == 3
  np.testing.assert_array_equal(utils.get_local_data(jnp.arange(3)), [0, 1, 2])


def test_axis_names_are_a_leaf():
  names = partitioning.AxisNames("batch", None)
  assert jax.tree.leaves({"x": names}) == [names]
  assert repr(names) == "AxisNames('batch', None)"


def test_places_of_devices():
  devices = test_utils.make_devices(2, 2, 1)
  assert len(devices) == 8 and devices[-1].id == 7
  assert partitioning.get_coords(devices[-1]) == (1, 1, 0, 1)
  assert partitioning.bounds_from_last_device(devices[-1]) == (2, 2, 1, 2)
  assert partitioning.bounds_from_last_device(jax.devices()[0]) == (
      1, jax.local_device_count())


@pytest.mark.parametrize("parts, tile", [
    (1, (1, 1, 1, 1)), (2, (1, 1, 1, 2)), (4, (2, 1, 1, 2)), (8, (2, 2, 1, 2)),
    (16, (4, 2, 1, 2))])
def test_older_tpus_have_t5x_s_tiles(parts, tile):
  """TPU v2 and v3, of two cores a chip; up to 8 parts stay on a host."""
  devices = test_utils.make_devices(4, 4, 1, kind="TPU v3")
  with device_mesh.fake_devices(devices):
    rows = partitioning.default_mesh(parts).devices
  assert rows.shape == (32 // parts, parts)
  for row in rows:
    places = list(zip(*map(partitioning.get_coords, row)))
    assert tuple(max(x) - min(x) + 1 for x in places) == tile
    assert parts > 8 or len({device.process_index for device in row}) == 1


def test_imports_without_collection_where_the_variable_asks(monkeypatch):
  from t5x import disable_gc_during_import as gc_lib
  before = builtins.__import__
  monkeypatch.setattr(builtins, "__import__", before)  # Put back at the end.
  gc_lib.try_disable_gc_during_import()
  assert builtins.__import__ is before
  monkeypatch.setenv("EXPERIMENTAL_DISABLE_GC_DURING_IMPORT", "true")
  gc_lib.try_disable_gc_during_import()
  assert builtins.__import__ is gc_lib.gc_disabled_import
  with gc_lib.disabled_gc():
    assert not gc.isenabled()
  assert gc.isenabled()


def test_counts_do_not_end_a_training():
  """As in T5X: metrics are numbers of clu's, or floats."""
  def ends(*values):
    action = trainer.EarlyStoppingAction(("task", "metric"), "min", patience=2)
    return [action.run(None, {"task": {"metric": v}}) for v in values][-1]
  assert ends(1.0, 2.0) and ends(clu.values.Scalar(1), clu.values.Scalar(2))
  assert not ends(1, 2)


def test_a_host_s_part_of_an_array():
  host = lambda n: types.SimpleNamespace(process_index=n)
  devices = np.array([[host(0), host(0)], [host(1), host(1)]])
  mesh = types.SimpleNamespace(
      devices=devices, shape={"data": 2, "model": 2},
      local_mesh=types.SimpleNamespace(
          devices=devices[1:], shape={"data": 1, "model": 2}))
  chunker = partitioning.LocalChunker(mesh)
  part = chunker.get_local_chunk_info((8, 4), ("data", "model"))
  assert part == partitioning.LocalChunkInfo((slice(4, 8), slice(0, 4)), 0)
  replicated = chunker.get_local_chunk_info((4,), (None,))
  assert replicated == partitioning.LocalChunkInfo((slice(None),), 1)
  assert chunker.get_shard_id("data") == 1
  assert chunker.get_replica_id({"data"}) == 0


def test_two_partitions_on_one_cpu_run_as_one(capsys):
  if jax.device_count() > 1:
    pytest.skip("needs an environment of one device")
  mesh = partitioning.default_mesh(2)
  assert dict(mesh.shape) == {"data": 1, "model": 1}
  assert "in one part" in capsys.readouterr().err
  compiled = partitioning.PjitPartitioner(num_partitions=2).partition(
      lambda x: x + 1, None, None)
  assert isinstance(compiled, partitioning.PjittedFnWithContext)
  assert int(compiled(jnp.array(1))) == 2


def test_metrics_of_plain_numbers_and_of_shapes():
  made = metrics.create_metrics_dict({"a": 2.0})
  assert made["a"].merge(made["a"]).compute() == 4.0
  shapes = jax.eval_shape(lambda: made["a"].replace(total=jnp.ones(3)))
  zeros = metrics.shape_obj_to_defined_obj(shapes)
  np.testing.assert_array_equal(zeros.total, np.zeros(3))


def test_weighted_accuracy_is_a_sum():
  logits = jax.nn.one_hot(jnp.array([[1, 2, 0]]), 4)
  accuracy = models.compute_weighted_accuracy(
      logits, jnp.array([[1, 2, 3]]), jnp.array([[1.0, 0.5, 1.0]]))
  assert float(accuracy) == 1.5
  summed = models.compute_metrics(
      logits, jnp.array([[1, 2, 3]]), jnp.ones((1, 3)), 7.0, 3.0, {})
  assert float(summed["accuracy"].compute()) == 2.0
  assert summed["num_tokens"].compute() == 3


class _CountingTrainer(trainer.BaseTrainer):
  """A user's trainer: a step adds one."""

  @property
  def _partitioned_train_step(self):
    return lambda state, batch: (
        types.SimpleNamespace(step=state.step + 1),
        {"loss": metrics.Sum.from_model_output(batch["x"])})

  @property
  def _partitioned_eval_step(self):
    return lambda state, batch: {
        "loss": metrics.Sum.from_model_output(batch["x"])}


def test_a_trainer_of_t5x_s_seven_arguments():
  state = types.SimpleNamespace(step=jnp.array(0))
  with pytest.raises(TypeError, match="abstract"):
    trainer.BaseTrainer(None, state, None, (), None, None, None)
  counting = _CountingTrainer(
      None, state, partitioning.PjitPartitioner(num_partitions=1),
      ["task"], None, None, jax.random.PRNGKey(0))
  batch = {"x": np.ones(2)}
  with counting:
    summary = counting.train(iter([batch] * 3), 3).result()
    evaluated = counting.eval({"task": iter([batch])})
  assert summary["loss"].value == 6 and int(counting.train_state.step) == 3
  assert evaluated["task"]["loss"].value == 2
  assert issubclass(trainer.Trainer, trainer.BaseTrainer)


def test_pinned_checkpoints_stay(tmp_path):
  folder = tmp_path / "checkpoint_1"
  folder.mkdir()
  (folder / "train_ds-000-of-001").write_text("x")
  checkpoint_utils.pin_checkpoint(str(folder))
  assert checkpoint_utils.is_pinned_checkpoint(str(folder))
  checkpoint_utils.remove_checkpoint_dir(str(folder))
  checkpoint_utils.remove_dataset_checkpoint(str(folder), "train_ds")
  assert len(list(folder.iterdir())) == 2
  checkpoint_utils.unpin_checkpoint(str(folder))
  checkpoint_utils.unpin_checkpoint(str(folder))
  checkpoint_utils.remove_dataset_checkpoint(str(folder), "train_ds")
  assert not list(folder.iterdir())
  checkpoint_utils.remove_checkpoint_dir(str(folder))
  assert not folder.exists() and not retention.is_pinned(folder)


def test_the_type_of_a_checkpoint(tmp_path):
  file = tmp_path / "checkpoint"
  file.write_bytes(b"model_checkpoint_path: 'x'")
  types_ = checkpoint_utils.CheckpointTypes
  assert checkpoint_utils.detect_checkpoint_type(file) is types_.T5X_TF
  file.write_bytes(b"\x82")
  assert checkpoint_utils.detect_checkpoint_type(file) is types_.T5X
  (tmp_path / "_METADATA").write_text("{}")
  assert checkpoint_utils.detect_checkpoint_type(file) is types_.ORBAX


def test_lazy_arrays_read_and_cast_when_asked():
  read = []

  def get():
    read.append(threading.get_ident())
    return np.arange(3, dtype=np.float32)

  lazy = checkpoints.LazyThreadPoolArray((3,), np.float32, get)
  cast = lazy.astype(np.int32)
  assert (cast.shape, cast.dtype, cast.nbytes) == ((3,), np.int32, 12)
  assert not read and "shape=(3,)" in repr(cast)
  np.testing.assert_array_equal(cast.get(), np.arange(3))
  assert cast.get().dtype == np.int32

  async def get_async():
    return np.ones(2, np.float32)

  spec = ts.Spec({"driver": "zarr", "kvstore": {"driver": "memory"},
                  "dtype": "uint16", "metadata": {"shape": [2]}})
  make = checkpoints.LazyAwaitableArray.from_tensor_store_spec_or_array
  assert make(spec, get_async).dtype == jnp.bfloat16
  assert make(np.ones(2, np.float32), get_async).get().tolist() == [1.0, 1.0]


def test_a_translator_takes_the_first_rule_and_drops_none():
  translator = checkpoint_importer.CheckpointTranslator()

  @translator.add(r"layer_(\d+)/w")
  def _(opts, name, value, number):
    del name
    return f"{opts['prefix']}{number}", value + 1

  translator.add("dropped")(lambda opts, name, value: (None, value))
  assert translator.apply(
      {"layer_3/w": 1, "dropped": 2}, prefix="l") == {"l3": 2}
  with pytest.raises(ValueError, match="layer_3/wo"):
    translator.apply({"layer_3/wo": 1}, prefix="l")


def test_tensorflow_checkpoints_of_mesh_t5_are_read(tmp_path):
  names = {
      "shared/embedding": "token_embedder/embedding",
      "encoder/block_000/layer_000/SelfAttention/relative_attention_bias":
          "encoder/relpos_bias/rel_embedding",
      "decoder/block_001/layer_001/EncDecAttention/q":
          "decoder/layers_1/encoder_decoder_attention/query/kernel",
      "decoder/block_001/layer_002/rms_norm/scale":
          "decoder/layers_1/pre_mlp_layer_norm/scale",
      "encoder/block_000/layer_001/DenseReluDense/wi_0/kernel":
          "encoder/layers_0/mlp/wi_0/kernel",
      "decoder/final_layer_norm/scale": "decoder/decoder_norm/scale",
      "decoder/logits/kernel": "decoder/logits_dense/kernel"}
  values = {n: np.full((2, 3), i, np.float32) for i, n in enumerate(names)}
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    saved = {n: tf.compat.v1.Variable(v, name=n.replace("/", "_"))
             for n, v in values.items()}
    saved["global_step"] = tf.compat.v1.Variable(
        np.int64(7), dtype=tf.int64, name="step")
    saved["shared/embedding_slot_vr"] = tf.compat.v1.Variable(
        np.ones(2, np.float32), name="slot")
    session.run(tf.compat.v1.global_variables_initializer())
    path = tf.compat.v1.train.Saver(saved).save(
        session, str(tmp_path / "model.ckpt"))
  state = {"state": {"step": np.zeros(()), "param_states": {
      "token_embedder": {"embedding": {
          "v_row": np.zeros(2), "v": np.zeros(1), "m": np.zeros(1)}}}}}
  target = {}
  for name in names.values():
    *path_to, last = name.split("/")
    node = target
    for part in path_to:
      node = node.setdefault(part, {})
    node[last] = np.zeros((2, 3))
  got = checkpoint_importer.restore_from_t5_checkpoint(
      {"target": target, **state}, path)
  flat = utils.flatten_dict_string_keys(got["target"])
  assert {n: int(v[0, 0]) for n, v in flat.items()} == {
      name: i for i, name in enumerate(names.values())}
  assert int(got["state"]["step"]) == 7
  slots = got["state"]["param_states"]["token_embedder"]["embedding"]
  assert slots["v_row"].tolist() == [1.0, 1.0] and set(slots) == {
      "v_row", "v", "m"}
  del target["decoder"]["logits_dense"]
  with pytest.raises(ValueError, match="logits_dense"):
    checkpoint_importer.restore_from_t5_checkpoint(
        {"target": target, **state}, path)


def test_gin_utils_runs_a_main_function():
  done = _python(
      "import sys\n"
      "from absl import flags\n"
      "from t5x import config_utils, gin_utils\n"
      "flags.DEFINE_multi_string('gin_bindings', [], '')\n"
      "sys.argv = ['x', '--gin.A=1', 'rest']\n"
      "assert not config_utils.using_fdl()\n"
      "gin_utils.run(lambda argv: print(argv[1:], flags.FLAGS.gin_bindings))")
  assert done.stdout.strip() == "['rest'] ['A = 1']", done.stderr
  assert gin_utils.sum_fn(var1=1, var2=2) == 3


def test_examples_of_a_notebook_are_a_task():
  vocabulary = seqio.ByteVocabulary()
  features = {name: seqio.Feature(vocabulary) for name in (
      "inputs", "targets")}
  ds = interactive_model.get_dataset_from_natural_text_examples(
      [{"input": "ab", "target": "c"}, "d"],
      [seqio.preprocessors.tokenize], {"inputs": 1, "targets": 4}, features)
  rows = [e["inputs"].tolist() for e in ds.as_numpy_iterator()]
  assert rows == [[ord("a") + 3], [ord("d") + 3]]
  with pytest.raises(ValueError, match="inputs"):
    interactive_model.get_dataset_from_natural_text_examples(
        ["a"], [], None, features)
  model = types.SimpleNamespace(
      _features=features, _checkpoint=("", "latest"), _output_dir="/x",
      _task_feature_lengths={"inputs": 8}, _batch_size=2, _dtype="float32")
  name = "t5x_interface_test_notebook"
  interactive_model.get_seqio_task_from_examples(
      name, model, [{"input": "ab", "target": "c"}] * 3,
      [seqio.preprocessors.tokenize])
  batches = interactive_model.get_batches_from_seqio(
      name, "train", 1, 2, shuffle=False)
  assert batches == [[{"input": b"ab", "target": b"c"}]] * 2
  with pytest.raises(ValueError, match="4 batches of 1"):
    interactive_model.get_batches_from_seqio(name, "train", 1, 4)
  kind = interactive_model.T5XScriptType
  text = interactive_model.get_gin_config_from_interactive_model(
      model, kind.FINETUNING, name, "", "MODEL = 1", train_steps=5)
  assert "TRAIN_STEPS = 5" in text and "pretrain.gin" in text
  with pytest.raises(ValueError, match="checkpoint"):
    interactive_model.get_gin_config_from_interactive_model(
        model, kind.INFERENCE, name, "", "")


def test_helpers_of_users_tests():
  validation = list(test_utils.get_fake_tokenized_dataset(
      split="test").as_numpy_iterator())
  assert len(validation) == 8 and set(validation[0]) == {
      "inputs", "targets", "inputs_pretokenized", "targets_pretokenized"}
  train = test_utils.get_fake_tokenized_dataset(split="train")
  assert train.cardinality() == tf.data.INFINITE_CARDINALITY
  assert test_utils.get_fake_vocab()[0].vocab_size == 128
  mesh = test_utils.create_global_mesh((1, 1), ("data", "model"))
  state = test_utils.make_train_state(
      mesh, (2, 3), jax.sharding.PartitionSpec())
  test_utils.assert_same(
      jax.device_get(state), test_utils.make_train_state_replicated((2, 3)))
  with pytest.raises(AssertionError):
    test_utils.assert_same({"a": np.ones(1)}, {"a": np.zeros(1)})
  fake = test_utils.FakePartitioner(mesh, None, params_on_devices=False)
  assert fake.mesh is mesh and not fake.params_on_devices
  assert test_utils.coords_to_idx((1, 0, 1), (2, 3, 4)) == 7


def test_a_preprocessor_for_serving():
  from stepdistill_jax.embedded_t5x import export_lib
  vocabulary = seqio.ByteVocabulary()
  name = "t5x_interface_test_serving"
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: (
              tf.data.Dataset.from_tensors({"inputs": "a", "targets": "b"})),
          splits=["train"]),
      preprocessors=[seqio.preprocessors.tokenize,
                     seqio.preprocessors.append_eos],
      output_features={k: seqio.Feature(vocabulary) for k in (
          "inputs", "targets")})
  model = types.SimpleNamespace(
      FEATURE_CONVERTER_CLS=seqio.EncDecFeatureConverter)
  preprocess, signature = export_lib.create_preprocessor_from_task(
      None, {}, {"inputs": 4, "targets": 3}, False, model=model,
      task_name=name)
  encode = lambda text: tf.train.Example(features=tf.train.Features(feature={
      k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
      for k in ("inputs", "targets")})).SerializeToString()
  batch = preprocess(tf.constant([encode(b"xy"), encode(b"z")]))
  assert batch["encoder_input_tokens"].numpy().tolist() == [
      [ord("x") + 3, ord("y") + 3, 1, 0], [ord("z") + 3, 1, 0, 0]]
  assert signature[0].dtype == tf.string


@pytest.fixture(autouse=True)
def _unlocked():
  with gin.unlock_config():
    yield
