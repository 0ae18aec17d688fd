"""Prepared tokens are those of SeqIO's own reading; bad input is named."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import gin
import numpy as np
import pytest
import seqio
from t5x import utils
import tensorflow as tf

from stepdistill_jax import tasks  # noqa: F401
from stepdistill_jax.data import (
  exact_order,
  feature_converter,
  pipelines,
  preparation,
  preprocessors,
  sources,
  token_files,
  truncation,
  vocabularies,
  word_pieces,
)
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors, progress
from tests.support import forking, real_data as testing

STEP = "svamp_step_gold_palm540b"
LENGTHS = {"inputs": 12, "targets": 8, "rationale_targets": 16}


def write(folder, rows=40):
  record_writer.write_records(folder, "svamp", "palm540b", {"train": [
      records.Record(
          id=f"svamp/train/{n}", inputs=f"is it {n}?</s>yes {n} " * (n % 3 + 1),
          label=f"( {n}.0 )" if n % 5 else "", rationale=f"{n} so" * (n % 4),
          teacher_label=f"({n})" if n % 4 else "", weight="0.5")
      for n in range(rows)]})


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path, monkeypatch):
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  write(tmp_path)
  return tmp_path / "stepdistill_svamp/palm540b/1.0.0/tokens"


@pytest.fixture(name="said")
def _said():
  lines = []

  class Watcher:
    say = staticmethod(lines.append)
    at_step = staticmethod(lambda step: None)

  with progress.watched_by(Watcher()):
    yield lines


def prepare():
  return preparation.prepared(seqio.TaskRegistry.get(STEP), "train")


def config(name=STEP, **options):
  return utils.DatasetConfig(**{
      "mixture_or_task_name": name, "task_feature_lengths": LENGTHS,
      "split": "train", "batch_size": 4, "shuffle": True, "seed": 0, **options})


def batches_of(cfg):
  return exact_order.get_dataset(
      cfg, 0, 1, feature_converter.StepDistillFeatureConverter).batches


def made_folders(folder):
  return sorted(path for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", [
    STEP, "svamp_step_palm540b_palm540b", "svamp_single_gold_palm540b",
    "svamp_label_palm540b", "svamp_explain_palm540b",
    "svamp_mix_palm540b_palm540b.label", "svamp_mix_gold_palm540b.rationale"])
def test_examples_are_those_of_the_tasks_own_pipeline(name):
  lengths = {**LENGTHS, "targets": 99} if "single" in name else LENGTHS
  task, cfg = seqio.TaskRegistry.get(name), config(
      name, task_feature_lengths=lengths)
  expected = list(pipelines.build(
      lambda: truncation.read(task, cfg)).as_numpy_iterator())
  store = batches_of(cfg)._store
  assert store.counts == [len(expected)]
  found = store.take(np.arange(len(expected)))
  for key, rows in found.items():
    assert rows.to_list() == [e[key].tolist() for e in expected], key
    assert rows.dtype == expected[0][key].dtype
    assert store.sizes([key]).tolist() == [[len(e[key]) for e in expected]]


@pytest.mark.parametrize("shards", [1, 3, 16, 40])
def test_records_come_in_tfdss_order(tmp_path, monkeypatch, shards):
  monkeypatch.setattr(record_writer, "SMALL_SHARDS", shards)
  write(tmp_path, rows=700)
  source = sources.RecordsSource("svamp", "palm540b")
  assert len(source.list_shards("train")) == shards
  expected = [e["id"] for e in source.get_dataset(
      "train", shuffle=False).as_numpy_iterator()]
  found = [tf.io.parse_single_example(one, {"id": tf.io.FixedLenFeature(
      [], tf.string)})["id"].numpy() for one in source.serialized("train")]
  assert found == expected


def test_one_preparation_serves_all_settings(folder, monkeypatch):
  expected = {}
  for share in (1.0, 0.25):
    for options in ({}, {"batch_size": 8}, {"seed": 3}, {
        "pack": True, "task_feature_lengths": {"inputs": 99, "targets": 60}}):
      with gin.unlock_config():
        gin.bind_parameter("choose_train_share.share", share)
      batches = batches_of(config(**options))
      expected.setdefault(share, set()).add(batches.num_examples())
      batches.examples_of_steps(0, 3)
      monkeypatch.setattr(preparation, "_make", None)
  gin.clear_config()
  assert len(made_folders(folder)) == 1
  # A share is of all records, of which some lack labels.
  assert {s: len(n) for s, n in expected.items()} == {1.0: 1, 0.25: 1}
  assert expected[1.0] == {32} and max(expected[0.25]) <= 10


@pytest.mark.parametrize("damage", [
    "short", "format", "json", "missing", "utf8", "list", "key", "count",
    "dtype", "starts", "sizes", "a folder"])
def test_damaged_tokens_are_made_anew(folder, said, damage):
  expected = prepare().read(range(32))
  (made,) = made_folders(folder)
  about = made / "about.json"
  if damage == "short":
    rows = (made / "rows").read_bytes()
    (made / "rows").write_bytes(rows[:-1])
  elif damage == "format":
    about.write_text(json.dumps({**json.loads(about.read_text()),
                                 "format": 0}))
  elif damage == "json":
    about.write_text(about.read_text()[:40])
  elif damage == "utf8":
    about.write_bytes(b"\xff" + about.read_bytes())
  elif damage == "list":
    about.write_text("[1]")
  elif damage in ("key", "count", "dtype"):
    found = json.loads(about.read_text())
    about.write_text(json.dumps({**found, **{
        "key": {"bytes": {}}, "count": {"examples": 31},
        "dtype": {"dtypes": {**found["dtypes"], "inputs": "<f8"}}}[damage]}))
  elif damage in ("starts", "sizes"):  # As long as before.
    (made / damage).write_bytes(bytes((made / damage).stat().st_size))
  elif damage == "a folder":
    (made / "ids").unlink()
    (made / "ids").mkdir()
  else:
    (made / "starts").unlink()
  np.testing.assert_equal(prepare().read(range(32)), expected)
  assert "damaged" in said[0] and "made anew" in said[0] and str(made) in (
      said[0])
  del said[:]
  assert prepare().count == 32 and not said


def test_a_damaged_row_is_named(folder):
  files = prepare()
  (made,) = made_folders(folder)
  with (made / "rows").open("r+b") as file:
    file.write(b"\xff\xff")
  with pytest.raises(token_files.DamagedError, match="example 0 is damaged"):
    files.read([0])


def test_tokens_of_other_records_are_removed(folder, tmp_path, said):
  files = prepare()
  of_before = files.read(range(32))
  (before,) = made_folders(folder)
  kept = shutil.copytree(before, tmp_path / "kept" / before.name)
  write(tmp_path, rows=30)  # The records' folder, and the tokens in it.
  shutil.copytree(kept, before)
  assert prepare().count == 24
  assert "have changed" in said[0] and str(before) in said[0]
  assert before not in made_folders(folder)
  # A run that began before goes on with what it began with.
  np.testing.assert_equal(files.read(range(32)), of_before)


def test_another_vocabulary_has_tokens_of_its_own(folder, monkeypatch):
  prepare()
  monkeypatch.setattr(preparation.fingerprints, "vocabularies_of",
                      lambda *unused: ["another"])
  prepare()
  assert len(made_folders(folder)) == 2


def test_what_a_killed_process_left_is_removed(folder):
  prepare()
  (made,) = made_folders(folder)
  left = made.with_name(
      f".incomplete-{made.name}-{socket.gethostname()}-{2**30}")
  made.rename(left)
  (left / "about.json").unlink()
  assert prepare().count == 32
  assert made_folders(folder) == [made]


def test_a_full_disk_is_named_and_leaves_nothing(folder, monkeypatch):
  def fails(*unused):
    raise OSError(errno.ENOSPC, "No space left on device")
  monkeypatch.setattr(token_files.Writer, "add", fails)
  with pytest.raises(errors.UserError, match="cannot write the tokens of "
                     f"{STEP} to .*: No space left on device"):
    prepare()
  assert not made_folders(folder)


def test_records_that_change_meanwhile_are_named(folder, monkeypatch):
  states = iter(range(9))
  monkeypatch.setattr(preparation, "_files", lambda *unused: next(states))
  with pytest.raises(errors.UserError, match="changed while they were"):
    prepare()
  assert not made_folders(folder)


def test_a_damaged_shard_is_named(folder):
  shard = sorted(folder.parent.glob("*train*"))[0]
  shard.write_bytes(shard.read_bytes()[:-3])
  with pytest.raises(errors.UserError, match="import these records anew"):
    prepare()
  shard.write_bytes(b"")
  with pytest.raises(errors.UserError, match="not the 40 that were written"):
    prepare()
  assert not made_folders(folder)


def test_of_two_at_once_one_prepares(folder, monkeypatch, said):
  begun, go_on, calls, make = (
      threading.Event(), threading.Event(), [], preparation._make)

  def slow(*arguments):
    calls.append(arguments)
    begun.set()
    assert go_on.wait(60)
    make(*arguments)

  def say(text):
    said.append(text)
    go_on.set()  # The other one has come.

  monkeypatch.setattr(preparation, "_make", slow)
  monkeypatch.setattr(progress, "say", say)
  counts = []
  threads = [threading.Thread(target=lambda: counts.append(prepare().count))
             for _ in range(2)]
  threads[0].start()
  assert begun.wait(60)
  threads[1].start()
  for thread in threads:
    thread.join()
  assert counts == [32, 32] and len(calls) == 1
  assert "waiting for another process" in said[0]


_PREPARE = """
import os, signal, sys
import seqio
from stepdistill_jax import tasks
from stepdistill_jax.data import preparation, token_files

if sys.argv[1:]:  # Dies when all but the last file is written.
  token_files.Writer.finish = lambda *unused: os.kill(
      os.getpid(), signal.SIGKILL)
task = seqio.TaskRegistry.get("svamp_step_gold_palm540b")
print(preparation.prepared(task, "train").count)
"""


def test_processes_that_prepare_at_once_and_one_that_is_killed(folder):
  prepare()
  (made,) = made_folders(folder)
  shutil.rmtree(made)

  def start(*arguments):
    return subprocess.Popen(
        [forking.python(), "-c", _PREPARE, *arguments], text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

  # This process holds the lock until all the others wait for it.
  with preparation._lock(made):
    processes = [start("dies"), start()]
    for process in processes:
      while "waiting for another process" not in process.stderr.readline():
        assert process.poll() is None
  printed = [process.communicate(timeout=100)[0] for process in processes]
  if processes[0].returncode:  # Else it found what the other one had made.
    assert processes[0].returncode == -signal.SIGKILL
  assert printed[1].split() == ["32"] and not processes[1].returncode
  # The killed one's may still be there, under a name that nobody reads.
  assert [f for f in made_folders(folder) if f.name[0] != "."] == [made]


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("pack", [False, True])
def test_a_host_reads_its_share(monkeypatch, shards, pack):
  read_by, read = [], token_files.TokenFiles.read
  monkeypatch.setattr(token_files.TokenFiles, "read", lambda self, rows: (
      read_by[-1].extend(rows) or read(self, rows)))
  cfg = config(pack=pack, batch_size=8, task_feature_lengths={
      "inputs": 99, "targets": 60} if pack else LENGTHS)

  def rows(shard, of):
    read_by.append([])
    batches = exact_order.get_dataset(
        cfg, shard, of, feature_converter.StepDistillFeatureConverter).batches
    expected = batches.examples_of_steps(3, 5)
    pieces = batches.from_step(3)
    while len(read_by[-1]) < len(expected):
      next(pieces)
    assert read_by[-1] == expected
    return expected

  whole = rows(0, 1)
  shares = [rows(shard, shards) for shard in range(shards)]
  assert sorted(sum(shares, [])) == sorted(whole)


def test_records_that_cannot_be_written_to(folder, tmp_path, monkeypatch):
  writable = preparation.os.access
  monkeypatch.setattr(preparation.os, "access", lambda path, mode: (
      path != folder and writable(path, mode)))
  prepare()
  (made,) = made_folders(tmp_path / "cache/stepdistill_jax/tokens")
  assert made.name.startswith(STEP) and not made_folders(folder)


def test_another_users_tokens_that_cannot_be_read(
    folder, tmp_path, monkeypatch, said):
  expected = prepare().read(range(32))
  (made,) = made_folders(folder)
  read_about = token_files.read_about

  def denied(path):
    if path.parent == folder:
      raise PermissionError(errno.EACCES, "Permission denied")
    return read_about(path)

  def open_denied(path, mode):
    if "w" in mode or path.parent == folder:
      raise PermissionError(errno.EACCES, "Permission denied")
    return open(path, mode)

  monkeypatch.setattr(token_files, "read_about", denied)
  monkeypatch.setattr(preparation, "open", open_denied, raising=False)
  for _ in range(2):
    files = prepare()
    np.testing.assert_equal(files.read(range(32)), expected)
    assert files.folder.parent == tmp_path / "cache/stepdistill_jax/tokens"
  assert made_folders(folder) == [made] and len(said) == 2
  assert f"{made} cannot be read (Permission denied)" in said[0]


def test_anothers_task_is_read_as_seqio_reads_it(said, monkeypatch):
  monkeypatch.setattr(preparation, "_MANY", 10)
  dataset = tf.data.Dataset.range(70).map(
      lambda n: {"a": tf.fill([n % 4], n), "b": tf.cast([n, 1], tf.float32)})
  files = preparation.streamed("theirs", dataset, ["a", "b"], 70)
  assert [[x.tolist() for x in row] for row in files.read([6, 0])] == [
      [[6, 6], [6.0, 1.0]], [[], [0.0, 1.0]]]
  assert "theirs: its 70 examples are tokenized at every start" in said[0]


@pytest.mark.parametrize("change, named", [
    (lambda d: d.map(lambda x: x + tf.random.uniform(
        [], maxval=9, dtype=tf.int64)), "RandomUniformInt"),
    (lambda d: d.filter(lambda x: tf.random.uniform([]) < .5),
     "RandomUniform"),
    (lambda d: d.interleave(lambda x: tf.data.Dataset.range(x).map(
        lambda y: tf.random.shuffle(tf.range(y, y + 9))[0])), "RandomShuffle"),
    (lambda d: d.shuffle(5), "ShuffleDatasetV3"),
    (lambda d: tf.data.Dataset.zip(d, tf.data.Dataset.random()).map(
        lambda x, random: x + random % 9), "RandomDataset"),
    (lambda d: d.shuffle(5, seed=3), ""),
    (lambda d: d.map(lambda x: x + tf.random.uniform(
        [], maxval=9, seed=1, dtype=tf.int64)), ""),
    (lambda d: seqio.map_over_dataset(
        lambda x, seed: {"a": x["a"] + tf.random.stateless_uniform(
            [], seed, maxval=9, dtype=tf.int64)}, num_seeds=1)(
                d.map(lambda x: {"a": x})).map(lambda x: x["a"]), ""),
    (lambda d: d.flat_map(lambda x: tf.data.Dataset.range(x)), "")])
def test_random_preprocessors_without_a_seed_are_named(said, change, named):

  def read():
    with seqio.utils.map_seed_manager(7):
      dataset = change(tf.data.Dataset.range(40)).map(
          lambda x: {"a": x[None]})
    files = preparation.streamed("theirs", dataset, ["a"], 40)
    return [[x.tolist() for x in row] for row in files.read(range(files.count))]

  first, second = read(), read()
  assert (first == second) == (not named)
  assert [f"without a seed ({named}" in line for line in said] == (
      [True, True] if named else [])


def test_a_task_without_an_end_is_refused():
  dataset = tf.data.Dataset.range(4).repeat().map(lambda x: {"a": x[None]})
  with pytest.raises(errors.UserError, match="theirs has no end"):
    preparation.streamed("theirs", dataset, ["a"], 4)
  none = dataset.take(4).filter(lambda x: False)
  with pytest.raises(errors.UserError, match="leave all of them out"):
    preparation.streamed("theirs", none, ["a"], 4)


@pytest.mark.parametrize("real", [False, True])
def test_words_have_the_tokens_of_their_texts(real, monkeypatch):
  if real:
    monkeypatch.setenv("STEPDISTILL_VOCAB", str(
        testing.real_data_dir() / "vocab/spiece.model"))
  vocabulary = vocabularies.T5Vocabulary()
  words = word_pieces.WordPieces.of(vocabulary)
  if words is None:
    assert not real
    return
  rng = np.random.default_rng(0)
  texts = ["", " a  b ", "</s>", "x y</s>z </s></s>", "a\tb\nc", "1 é ü ﬁ … ½",
           "<extra_id_0> <unk> <s>", "１２３ abc", "word\u0301 \u0301word", *(
               " ".join(map(str, rng.integers(0, 10**rng.integers(1, 9), 40)))
               for _ in range(200)), *("1" * n for n in range(1, 30))]
  for part in (texts, texts[::-1]):  # The second of words that are known.
    part = tf.constant(part)
    expected = preprocessors.encode("", part, vocabulary)
    tokens, sizes = words.encode(
        **{k: v.numpy() for k, v in words.split(part).items()})
    assert sizes.tolist() == expected.row_lengths().numpy().tolist()
    np.testing.assert_array_equal(tokens, expected.flat_values)


@pytest.mark.parametrize("texts", [
    [], [""], ["</s>"], ["a b </s> c", "", "1", "</s>x </s></s>", "d e"]])
def test_an_eos_id_stands_between_the_parts_of_a_text(texts):
  vocabulary = vocabularies.T5Vocabulary()
  expected = []
  for text in texts:
    first, *others = map(vocabulary.encode, text.split(records.EOS_TEXT))
    expected.append(first + [
        token for part in others for token in [vocabulary.eos_id, *part]])
  found = preprocessors.encode("", tf.constant(texts, tf.string), vocabulary)
  assert found.to_list() == expected


@pytest.mark.parametrize("name", [
    STEP, "svamp_label_gold", "svamp_single_gold_palm540b",
    "svamp_rationale_palm540b", "svamp_predict_gold"])
def test_the_spec_is_that_of_the_task_itself(name):
  task = seqio.TaskRegistry.get(name)
  read = pipelines.build(lambda: truncation.read(task, config(
      name, task_feature_lengths=dict.fromkeys(task.output_features, 16))))

  def numbers(spec):
    return {key: value for key, value in spec.items()
            if value.dtype != tf.string and key != truncation.TOKENS_CUT}
  assert numbers(preparation.spec_of(task)) == numbers(read.element_spec)


def test_few_examples_are_judged_at_once_and_many_if_they_are_prepared(
    monkeypatch):
  task = seqio.TaskRegistry.get(STEP)
  cfg = config(task_feature_lengths={**LENGTHS, "targets": 1})
  monkeypatch.setattr(preparation, "_FEW", 39)
  assert not exact_order.judge_all(task, cfg, says=False)
  prepare()
  with pytest.raises(errors.UserError, match="a cut label is another answer"):
    exact_order.judge_all(task, cfg, says=False)
  monkeypatch.setattr(preparation, "_FEW", 40)
  for folder in preparation._places(
      preparation._made_from(task, "train"), task, "train"):
    shutil.rmtree(folder, ignore_errors=True)
  with pytest.raises(errors.UserError, match="a cut label is another answer"):
    exact_order.judge_all(task, cfg, says=False)
