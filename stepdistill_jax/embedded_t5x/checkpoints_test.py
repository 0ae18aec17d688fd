"""Checkpoints: saved, restored whole, in part, renamed, in other dtypes."""

import dataclasses
import errno
import json
import os
import shutil
import threading

import flax.core
from flax.linen import partitioning as flax_partitioning
import gin
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import tensorflow as tf

from stepdistill_jax.embedded_t5x import (
  adafactor,
  checkpoint_config,
  checkpoint_utils,
  checkpoints,
  partitioning,
  state_initializer,
  utils,
)
from stepdistill_jax.runs import checkpoint_manifest
from stepdistill_jax.util import errors

PARTITIONER = partitioning.PjitPartitioner(num_partitions=1)
AXES = {"kernel": ("embed", "mlp"), "scale": ("embed",)}


class Model:
  """Two layers' parameters, under names of one's choice."""

  def __init__(self, *layers, embed=4):
    self.layers = layers
    self.embed = embed

  def init(self, rng, input_shapes=None, input_types=None):
    del input_shapes, input_types
    shapes = {"kernel": (self.embed, 6), "scale": (self.embed,)}
    params = {layer: {k: jax.random.normal(jax.random.fold_in(rng, i), shape)
                      for k, shape in shapes.items()}
              for i, layer in enumerate(self.layers)}
    axes = {layer: {f"{k}_axes": flax_partitioning.AxisMetadata(v)
                    for k, v in AXES.items()} for layer in self.layers}
    return flax.core.freeze({"params": params, "params_axes": axes})

  def initializer(self, optimizer=True):
    optimizer_def = adafactor.Adafactor(
        logical_factor_rules=adafactor.standard_logical_factor_rules()
    ) if optimizer else None
    return state_initializer.TrainStateInitializer(
        optimizer_def, self.init, {}, PARTITIONER)


def save(directory, model, seed=0, step=7, **options):
  initializer = model.initializer()
  state = initializer.from_scratch(jax.random.PRNGKey(seed)).replace_step(
      jnp.array(step, jnp.int32))
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(directory), initializer.global_train_state_shape, PARTITIONER,
      **options)
  manager.save(state)
  manager.close()
  return state


def restore(path, model, optimizer=True, init_seed=None, **options):
  cfg = checkpoint_config.RestoreCheckpointConfig(
      path=str(path), mode="specific", **options)
  return model.initializer(optimizer).restore(
      cfg, str(path),
      init_rng=None if init_seed is None else jax.random.PRNGKey(init_seed))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip(tmp_path):
  state = save(tmp_path, Model("a", "b"))
  restored = restore(tmp_path / "checkpoint_7", Model("a", "b"))
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert_equal(restored, state)
  assert int(restored.step) == 7
  assert restored.params["a"]["kernel"].sharding.mesh == PARTITIONER.mesh


def test_a_tensorflow_checkpoint_begins_a_state(tmp_path):
  path = str(tmp_path / "model.ckpt-5")
  table = np.arange(32, dtype=np.float32).reshape(8, 4)
  tf.raw_ops.SaveV2(
      prefix=path, tensor_names=["shared/embedding", "global_step"],
      shape_and_slices=["", ""], tensors=[table, np.int64(5)])

  def init(rng, input_shapes, input_types):
    del rng, input_shapes, input_types
    axes = flax_partitioning.AxisMetadata(("vocab", "embed"))
    return {"params": {"token_embedder": {"embedding": jnp.zeros((8, 4))}},
            "params_axes": {"token_embedder": {"embedding_axes": axes}}}

  state = state_initializer.TrainStateInitializer(
      None, init, {}, PARTITIONER).from_checkpoint([
          checkpoint_config.RestoreCheckpointConfig(path, "specific")])
  assert_equal(state.params["token_embedder"]["embedding"], table)
  assert int(state.step) == 5


def test_layout_is_t5xs(tmp_path):
  save(tmp_path, Model("a"))
  names = json.loads(
      (tmp_path / "checkpoint_7" / "state" / "_METADATA").read_text())
  keys = {tuple(part["key"] for part in entry["key_metadata"])
          for entry in names["tree_metadata"].values()}
  assert {("target", "a", "kernel"), ("state", "step"),
          ("state", "param_states", "a", "kernel", "v_row")} <= keys


def test_inference_state_reads_parameters_only(tmp_path):
  state = save(tmp_path, Model("a"))
  restored = restore(tmp_path / "checkpoint_7", Model("a"), optimizer=False)
  assert_equal(restored.params, state.params)


def test_dtypes(tmp_path):
  state = save(tmp_path, Model("a"), save_dtype="bfloat16")
  path = tmp_path / "checkpoint_7"
  kept = restore(path, Model("a"))
  assert kept.params["a"]["kernel"].dtype == jnp.bfloat16
  cast = restore(path, Model("a"), dtype="float32")
  assert cast.params["a"]["kernel"].dtype == jnp.float32
  assert_equal(cast.params, jax.tree.map(
      lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), state.params))
  # What the optimizer knows, and the step, keep their types.
  assert_equal(cast.param_states, state.param_states)
  assert cast.step.dtype == jnp.int32


def test_renamed_and_filled_from_scratch(tmp_path):
  state = save(tmp_path, Model("old"))
  path = tmp_path / "checkpoint_7"
  with pytest.raises(ValueError, match="lacks 4 of the model"):
    restore(path, Model("new", "fresh"), optimizer=False)
  restored = restore(
      path, Model("new", "fresh"), optimizer=False,
      assignment_map=[(r"target/new/(.*)", r"target/old/\1"),
                      (r"target/fresh/.*", None)],
      fallback_to_scratch=True, init_seed=3)
  assert_equal(restored.params["new"], state.params["old"])
  scratch = Model("new", "fresh").init(jax.random.PRNGKey(3))["params"]
  np.testing.assert_allclose(
      restored.params["fresh"]["kernel"], scratch["fresh"]["kernel"])


def test_checkpoint_of_another_size_is_refused(tmp_path):
  save(tmp_path, Model("a"))
  with pytest.raises(errors.UserError, match=r"target/a/kernel is \(4, 6\)"):
    restore(tmp_path / "checkpoint_7", Model("a", embed=8))


def test_keeps_the_latest(tmp_path):
  initializer = Model("a").initializer()
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(tmp_path), initializer.global_train_state_shape, PARTITIONER, keep=2)
  for step in (1, 2, 3):
    manager.save(state.replace_step(jnp.array(step)))
  manager.wait_until_finished()
  assert manager.all_steps() == checkpoints.all_steps(str(tmp_path)) == [2, 3]
  assert manager.latest_step() == checkpoints.latest_step(str(tmp_path)) == 3
  manager.close()


def test_what_fails_behind_is_raised_by_the_next_look(tmp_path, monkeypatch):
  def full(unused_folder):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  initializer = Model("a").initializer()
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(tmp_path), initializer.global_train_state_shape, PARTITIONER)
  monkeypatch.setattr(checkpoint_manifest, "write", full)
  manager.save(initializer.from_scratch(jax.random.PRNGKey(0)))
  for thread in threading.enumerate():
    if thread.name == "async_save":  # Orbax's.
      thread.join()
  with pytest.raises(errors.UserError, match="no space is left"):
    manager.check_for_errors()
  manager.check_for_errors()  # Once.
  manager.wait_until_finished()
  manager.close()


def test_load_without_a_model(tmp_path):
  state = save(tmp_path, Model("a"))
  loaded = checkpoints.load_t5x_checkpoint(str(tmp_path), step=7)
  assert_equal(loaded["target"], flax.core.unfreeze(state.params))
  assert int(loaded["state"]["step"]) == 7


def test_modes_find_checkpoints(tmp_path):
  for step in (5, 10):
    (tmp_path / f"checkpoint_{step}").mkdir()
    (tmp_path / f"checkpoint_{step}" / "checkpoint").write_bytes(
        msgpack.packb({"state": {"step": step}}))  # All of it, by T5X's rules.
  (tmp_path / "checkpoint_15.orbax-checkpoint-tmp-1").mkdir()  # Unfinished.

  def find(**kwargs):
    cfg = checkpoint_config.RestoreCheckpointConfig(**kwargs)
    _, paths = checkpoint_config.get_first_valid_restore_config_and_paths(
        [cfg])
    return [p.rsplit("_")[-1] for p in paths]

  folder = str(tmp_path)
  assert find(path=folder, mode="latest") == ["10"]
  assert find(path=folder, mode="all") == ["5", "10"]
  assert find(path=[f"{folder}/checkpoint_5"], mode="specific") == ["5"]
  assert find(path=f"{folder}/checkpoint_5/checkpoint",  # The index itself.
              mode="specific") == ["5"]
  index = checkpoints.load_t5x_checkpoint(f"{folder}/checkpoint_5/checkpoint")
  assert int(index["state"]["step"]) == 5
  assert find(path=[]) == []
  # Of several folders, the first that has any, whatever steps others have.
  (tmp_path / "none").mkdir()
  shutil.copytree(
      tmp_path / "checkpoint_5", tmp_path / "later" / "checkpoint_20")
  folders = [f"{folder}/none", folder, f"{folder}/later"]
  assert find(path=folders, mode="latest") == ["10"]
  assert find(path=folders, mode="all") == ["5", "10"]
  with pytest.raises(errors.UserError, match="checkpoints of steps .5, 10."):
    find(path=folder, mode="specific")
  with pytest.raises(errors.UserError, match="one of .*'latest'"):
    find(path=folder, mode="last")
  assert checkpoints.get_step_from_checkpoint_dir(
      f"{folder}/checkpoint_5/") == (folder, 5)


@pytest.mark.parametrize("rules, expected", [
    ((("target/(", "x"),), "'target/.' is no regular expression: missing"),
    (("target/a", "target/b"), "pairs; got 'target/a'"),
    ((("target/a",),), "pairs; got .'target/a',"),
])
def test_renames_that_are_none_are_reported(rules, expected):
  with pytest.raises(errors.UserError, match=expected):
    checkpoint_config.RestoreCheckpointConfig("x", assignment_map=rules)


def test_the_best_are_kept_as_gin_files_of_t5x_ask_for_it(tmp_path):
  """`checkpointer_cls = @checkpoints.SaveBestCheckpointer`, T5X's way."""
  from clu import metric_writers
  losses = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.7}
  writer = metric_writers.SummaryWriter(str(tmp_path / "train"))
  for step, loss in losses.items():
    writer.write_scalars(step, {"loss": loss})
  writer.close()
  configured = gin.external_configurable(
      checkpoints.SaveBestCheckpointer, "SaveBestCheckpointer")
  gin.parse_config("""
      SaveBestCheckpointer.metric_name_to_monitor = "train/loss"
      SaveBestCheckpointer.metric_mode = "min"
      """)
  initializer = Model("a").initializer()
  _, manager = state_initializer.create_checkpoint_manager_and_restore(
      initializer, PARTITIONER, None, None, None, model_dir=str(tmp_path),
      save_checkpoint_cfg=checkpoint_config.SaveCheckpointConfig(
          keep=1, checkpointer_cls=configured))
  gin.clear_config()
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  for step in losses:
    manager.save(state.replace_step(jnp.array(step, jnp.int32)))
  manager.close()
  assert checkpoints.all_steps(str(tmp_path)) == [2, 4]  # Best and latest.


def test_the_older_interface_goes_on_from_a_concrete_state(tmp_path):
  state = Model("a").initializer().from_scratch(jax.random.PRNGKey(0))
  halves = state.replace_params(jax.tree.map(
      lambda x: x.astype(jnp.bfloat16), state.params))
  checkpointer = checkpoints.Checkpointer(halves, PARTITIONER, str(tmp_path))
  with pytest.raises(ValueError, match="no checkpoint in"):
    checkpointer.restore()
  for step in (3, 8):
    checkpointer.save(halves.replace_step(jnp.array(step, jnp.int32)))
  latest = checkpointer.restore()
  assert int(latest.step) == 8 and checkpointer.latest_step() == 8
  assert latest.params["a"]["kernel"].dtype == jnp.float32  # save_dtype
  assert_equal(latest.params, halves.params)
  assert int(checkpointer.restore(step=3).step) == 3
  with pytest.raises(ValueError, match="not both"):
    checkpointer.restore(step=3, path=str(tmp_path / "checkpoint_3"))
  with pytest.raises(ValueError, match="no checkpoint at"):
    checkpointer.restore(path=str(tmp_path / "checkpoint_4"))
  with pytest.raises(ValueError, match="params_on_devices"):
    checkpointer.restore(lazy_parameters=True)


def test_lazy_parameters_are_read_when_asked_for(tmp_path):
  state = save(tmp_path, Model("a"))
  on_host = partitioning.PjitPartitioner(
      num_partitions=1, params_on_devices=False)
  lazy = checkpoints.Checkpointer(
      state, on_host, str(tmp_path)).restore(lazy_parameters=True)
  assert int(lazy.step) == 7
  kernel = lazy.params["a"]["kernel"]
  assert isinstance(kernel, checkpoints.LazyArray) and kernel.shape == (4, 6)
  assert isinstance(kernel.get(), np.ndarray)  # The devices have no room.
  assert_equal(kernel.get(), state.params["a"]["kernel"])
  # It can be saved as it is.
  folder = tmp_path / "again"
  checkpoints.Checkpointer(state, on_host, str(folder)).save(lazy)
  assert_equal(restore(folder / "checkpoint_7", Model("a")), state)
  loaded = checkpoints.load_t5x_checkpoint(
      str(tmp_path), restore_dtype="bfloat16", lazy_parameters=True)
  scale = loaded["target"]["a"]["scale"]
  assert isinstance(scale, checkpoints.LazyArray)
  assert scale.get().dtype == jnp.bfloat16


def test_pinned_checkpoints_are_kept(tmp_path):
  initializer = Model("a").initializer()
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(tmp_path), initializer.global_train_state_shape, PARTITIONER, keep=1)
  for step in (1, 2, 3):
    manager.save(state.replace_step(jnp.array(step, jnp.int32)))
    manager.wait_until_finished()
    if step == 1:
      checkpoint_utils.pin_checkpoint(str(tmp_path / "checkpoint_1"))
  manager.close()
  assert checkpoints.all_steps(str(tmp_path)) == [1, 3]


def test_managers_by_configs(tmp_path):
  initializer = Model("a").initializer()
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  shapes = initializer.global_train_state_shape
  save_cfg = checkpoint_config.SaveCheckpointConfig(dtype="bfloat16", period=2)
  restore_cfg = checkpoint_config.RestoreCheckpointConfig(
      path=str(tmp_path), dtype="float32")
  manager = utils.create_orbax_checkpoint_manager(
      save_cfg=save_cfg, restore_cfg=restore_cfg, train_state=shapes,
      partitioner=PARTITIONER, model_dir=str(tmp_path))
  manager.save(state.replace_step(jnp.array(4, jnp.int32)))
  manager.wait_until_finished()
  paths = [str(tmp_path / "checkpoint_4")]
  restored = utils.restore(manager, paths, restore_cfg)
  assert restored.params["a"]["kernel"].dtype == jnp.float32
  assert len(utils.restore(manager, paths * 2, restore_cfg)) == 2
  manager.close()
  other = checkpoint_config.RestoreCheckpointConfig(
      path="x", checkpoint_manager_cls=object)
  with pytest.raises(ValueError, match="checkpoint_manager_cls"):
    utils.create_orbax_checkpoint_manager(
        save_cfg=save_cfg, restore_cfg=other, train_state=shapes,
        partitioner=PARTITIONER, model_dir=str(tmp_path))
  legacy = utils.LegacyCheckpointManager(
      save_cfg=save_cfg, restore_cfg=restore_cfg, train_state_shape=shapes,
      partitioner=PARTITIONER, model_dir=str(tmp_path))
  legacy.save(state.replace_step(jnp.array(6, jnp.int32)))
  assert int(legacy.restore([str(tmp_path / "checkpoint_6")],
                            restore_cfg).step) == 6
  scratch = dataclasses.replace(restore_cfg, fallback_to_scratch=True)
  assert utils.get_fallback_state(restore_cfg, None, None) is None
  assert utils.get_fallback_state(scratch, lambda rng: rng, 5) == 5
  with pytest.raises(ValueError, match="init_rng"):
    utils.get_fallback_state(scratch, None, None)


def test_a_model_without_parameters(tmp_path):
  state = save(tmp_path, Model())
  restored = restore(tmp_path / "checkpoint_7", Model())
  assert int(restored.step) == 7 and jax.tree.leaves(restored.params) == []
  assert jax.tree.structure(restored) == jax.tree.structure(state)
