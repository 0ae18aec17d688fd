import io
import resource

import pytest

from stepdistill_jax.records import tfrecord_files

EXAMPLES = [
    {"id": "a", "inputs": "short", "label": ""},
    {"id": "b", "inputs": "x" * 200, "label": "ünïcode\n→"},
    {"id": "c", "inputs": "y" * 70_000, "label": "z"},
]


def written(examples):
  file = io.BytesIO()
  for example in examples:
    tfrecord_files.write_record(file, tfrecord_files.encode_example(example))
  return file.getvalue()


def test_reads_what_it_writes():
  file = io.BytesIO(written(EXAMPLES))
  assert list(tfrecord_files.read_examples(file)) == EXAMPLES


def test_tensorflow_reads_what_we_write(tmp_path):
  import tensorflow as tf

  path = tmp_path / "ours"
  path.write_bytes(written(EXAMPLES))
  read = []
  for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    example = tf.train.Example.FromString(serialized)
    read.append({
        name: feature.bytes_list.value[0].decode()
        for name, feature in example.features.feature.items()})
  assert read == EXAMPLES


def test_we_read_what_tensorflow_writes(tmp_path):
  import tensorflow as tf

  path = tmp_path / "theirs"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in EXAMPLES:
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          name: tf.train.Feature(
              bytes_list=tf.train.BytesList(value=[text.encode()]))
          for name, text in example.items()})).SerializeToString())
  with path.open("rb") as file:
    assert list(tfrecord_files.read_examples(file)) == EXAMPLES


def test_every_cut_and_every_flipped_byte_is_noticed():
  data = written(EXAMPLES[:1])
  for end in range(1, len(data)):
    with pytest.raises(tfrecord_files.CorruptFileError):
      list(tfrecord_files.read_examples(io.BytesIO(data[:end])))
  for at in range(len(data)):
    damaged = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1:]
    with pytest.raises(tfrecord_files.CorruptFileError):
      list(tfrecord_files.read_examples(io.BytesIO(damaged)))


def test_memory_does_not_grow_with_the_records():
  example = {"inputs": "x" * 20_000}
  tfrecord_files.encode_example(example)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for _ in range(20_000):  # 400 MB.
    tfrecord_files.encode_example(example)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 100_000  # KB.


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"\x08\x01", b"\x0a\x05ab"])
def test_other_payloads_are_not_examples(payload):
  with pytest.raises(ValueError):
    tfrecord_files.decode_example(payload)


def test_some_features_alone():
  data = tfrecord_files.encode_example(EXAMPLES[1])
  assert tfrecord_files.decode_example(data, ("id",)) == {"id": "b"}
  with pytest.raises(ValueError, match="'rule' has not exactly one"):
    tfrecord_files.decode_example(data, ("rule",))
