import types

import gin
import numpy as np
import pytest
import seqio
from t5x import utils

from stepdistill_jax import tasks  # noqa: F401
from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.data import caching
from stepdistill_jax.models import data_check
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors
from tests.support import real_data as testing

LENGTHS = {"inputs": 12, "targets": 8, "rationale_targets": 16}
NAMES = ("svamp_label_gold", "svamp_step_gold_palm540b",
         "svamp_mix_gold_palm540b.rationale")


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  vocabulary = testing.write_tiny_vocabulary(tmp_path / "spiece.model")
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(vocabulary))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  write_records(tmp_path)
  before = seqio.get_global_cache_dirs()
  seqio.set_global_cache_dirs([str(tmp_path / "cached")])
  yield tmp_path
  seqio.set_global_cache_dirs(before)
  for name in NAMES:  # Tasks remember where their cache was found.
    seqio.TaskRegistry.get(name)._cache_dir = None


def write_records(folder, rows=40):
  record_writer.write_records(folder, "svamp", "palm540b", {
      split: [records.Record(
          id=f"svamp/{split}/{n}", inputs=f"is it {n}? " * (1 + n % 3),
          label=f"( {n}.0 )", teacher_label=f"({n})" if n % 4 else "",
          rationale=f"{n} and so on." if n % 4 else "", weight="0.5")
              for n in range(count)]
      for split, count in (("train", rows), ("test", 5))})


def examples(name, **kwargs):
  dataset = seqio.TaskRegistry.get(name).get_dataset(
      sequence_length=LENGTHS, shuffle=False, **kwargs)
  found = list(dataset.as_numpy_iterator())
  return {example["id"]: example for example in found}, len(found)


def test_cached_examples_are_the_others(folder):
  for task in caching.find_tasks(NAMES):
    caching.cache_task(task, folder / "cached", shards=3)
    for split in ("train", "test"):
      cached, count = examples(task.name, split=split, use_cached=True)
      fresh, _ = examples(task.name, split=split)
      assert count == len(cached) and cached.keys() == fresh.keys()
      assert task.get_cached_stats(split) == {"examples": count}
      for key, example in fresh.items():
        assert example.keys() == cached[key].keys()
        for name, value in example.items():
          np.testing.assert_array_equal(cached[key][name], value)
          assert np.asarray(cached[key][name]).dtype == np.asarray(value).dtype


def test_records_are_chosen_behind_the_cache(folder):
  (task,) = caching.find_tasks(["svamp_label_gold"])
  caching.cache_task(task, folder / "cached", shards=3)
  with gin.unlock_config():
    gin.bind_parameter("choose_train_share.share", 0.25)
  try:
    cached, count = examples(task.name, split="train", use_cached=True)
    assert count == 10
    assert cached.keys() == examples(task.name, split="train")[0].keys()
  finally:
    gin.clear_config()


def test_the_command_tokenizes(folder, capsys):
  arguments = ["data", "cache", "--tasks=svamp_mix_gold_palm540b"]
  assert not cli.main(arguments)
  out = capsys.readouterr().out
  made = folder / "stepdistill_svamp/palm540b/1.0.0/tokens"
  assert "svamp_mix_gold_palm540b.rationale: 30 train -> " + str(made) in out
  assert len([path for path in made.iterdir() if path.is_dir()]) == 2
  assert cli.main([*arguments[:2], "--tasks=svamp_labl_gold"]) == 2
  assert "did you mean: svamp_label_gold" in capsys.readouterr().err
  assert cli.main([*arguments[:2], "--tasks= ,"]) == 2
  assert "--tasks names no task" in capsys.readouterr().err
  assert cli.main([*arguments, "--overwrite"]) == 2
  assert "are of SeqIO's cache: pass its folder" in capsys.readouterr().err


def test_a_cache_is_whole_or_not_there(folder, monkeypatch):
  (task,) = caching.find_tasks(["svamp_label_gold"])
  monkeypatch.setattr(caching, "write_made_from", None)
  with pytest.raises(TypeError):
    caching.cache_task(task, folder / "cached")
  assert not any((folder / "cached").iterdir())
  monkeypatch.undo()
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(folder))
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(folder / "spiece.model"))
  assert caching.cache_task(task, folder / "cached")
  assert not caching.cache_task(task, folder / "cached")
  write_records(folder, rows=30)
  with pytest.raises(errors.UserError, match="other records than .*overwrite"):
    caching.cache_task(task, folder / "cached")
  assert caching.cache_task(task, folder / "cached", overwrite=True)
  assert task.get_cached_stats("train") == {"examples": 30}


def test_the_command_writes_seqios_cache(folder, capsys, monkeypatch):
  arguments = ["data", "cache", "--tasks=svamp_label_gold",
               f"--output={folder / 'an out'}"]
  assert not cli.main(arguments)
  out = capsys.readouterr().out
  assert f"svamp_label_gold -> {folder / 'an out/svamp_label_gold'}\n" in out
  assert f"cache_dirs='{folder / 'an out'}'" in out
  assert not cli.main(arguments)
  assert "was there already" in capsys.readouterr().out
  monkeypatch.setattr(caching, "has_beam", lambda: False)
  assert cli.main([*arguments, "--beam=--runner=DirectRunner"]) == 2
  assert "pip install apache-beam" in capsys.readouterr().err


def test_a_task_that_cannot_train_is_not_cached(folder, capsys):
  record_writer.write_records(folder, "svamp", "palm540b", {
      "train": [records.Record(id="1", inputs="is it 1?", label="( 1.0 )")]})
  for name, lacks in (("svamp_step_gold_palm540b", "needs rationales"),
                      ("svamp_mix_gold_palm540b", "needs rationales"),
                      ("svamp_label_palm540b", "needs teacher's labels")):
    assert cli.main(["data", "cache", f"--tasks=svamp_label_gold,{name}",
                     f"--output={folder / 'out'}"]) == 2
    assert lacks in capsys.readouterr().err
  assert not (folder / "out").exists()


def test_a_run_refuses_a_cache_of_other_records(folder):
  (task,) = caching.find_tasks(NAMES[:1])
  caching.cache_task(task, folder / "cached", shards=3)
  cfg = utils.DatasetConfig(
      task.name, LENGTHS, split="train", batch_size=4, shuffle=False, seed=0,
      use_cached=True, module=None)
  model = types.SimpleNamespace(
      task_names=("label",), input_vocabulary=task.output_features[
          "inputs"].vocabulary, output_vocabulary=task.output_features[
              "targets"].vocabulary, module=None)
  data_check.verify_data(cfg, model)
  write_records(folder, rows=41)
  with pytest.raises(errors.UserError, match="other records than"):
    data_check.verify_data(cfg, model)
