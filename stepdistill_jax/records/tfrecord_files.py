"""TFRecord files of string features, written and read without TensorFlow.

Importing TensorFlow takes ten seconds and 800 MB, more than an import of half
a million completions may use. A TFRecord file is a row of `length (uint64 LE),
masked crc32c of the length bytes (uint32 LE), payload, masked crc32c of the
payload`; the payload is a `tf.train.Example` protocol buffer, here with one
bytes value for each feature. TensorFlow Datasets has the message's class.

The test beside this file reads what is written here with TensorFlow, and the
other way round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import struct
from typing import Any, BinaryIO

import google_crc32c

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
# A record is a few kilobytes; a larger length is a damaged file, and reading
# it would allocate whatever the damage says.
MAX_RECORD_BYTES = 256 * 2**20


class CorruptFileError(ValueError):
  """A TFRecord file that ends early or whose checksums do not hold."""


@functools.cache
def _example_class() -> Any:
  # Half a second, which only those spend who read or write records.
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example


def encode_example(features: Mapping[str, str]) -> bytes:
  """Returns a serialized `tf.train.Example`.

  Raises:
    UnicodeEncodeError: a value has lone surrogates.
  """
  example = _example_class()()
  values = example.features.feature
  for name, value in features.items():
    values[name].bytes_list.value.append(value.encode("utf-8"))
  data: bytes = example.SerializeToString(deterministic=True)
  return data


def decode_example(
    data: bytes, names: Sequence[str] | None = None) -> dict[str, str]:
  """The inverse of `encode_example`, for examples of single text values.

  Args:
    data: a serialized example.
    names: of the features to read; None for all.

  Raises:
    ValueError: the data is something else.
  """
  from google.protobuf import message  # Not loaded for a command's help.

  try:
    features = _example_class().FromString(data).features.feature
  except message.DecodeError as error:
    raise ValueError(str(error)) from error
  found = {}
  for name in features if names is None else names:
    values = features[name].bytes_list.value
    if len(values) != 1:
      raise ValueError(f"feature {name!r} has not exactly one text value")
    found[name] = values[0].decode("utf-8")
  if not found:
    raise ValueError("it has no feature")
  return found


def _masked_crc(data: bytes) -> int:
  crc: int = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def write_record(file: BinaryIO, payload: bytes) -> int:
  """Appends one record; returns the number of bytes written."""
  length = struct.pack("<Q", len(payload))
  file.write(b"".join((
      length, _CHECKSUM.pack(_masked_crc(length)), payload,
      _CHECKSUM.pack(_masked_crc(payload)))))
  return _HEADER.size + len(payload) + _CHECKSUM.size


def read_records(file: BinaryIO, name: str = "") -> Iterator[bytes]:
  """Yields the payloads of a TFRecord file.

  Raises:
    CorruptFileError: the file ends inside a record, or a checksum is wrong.
  """
  while header := file.read(_HEADER.size):
    if len(header) < _HEADER.size:
      raise CorruptFileError(f"{name} ends inside a record's header")
    length, length_crc = _HEADER.unpack(header)
    if _masked_crc(header[:8]) != length_crc or length > MAX_RECORD_BYTES:
      raise CorruptFileError(f"{name} has a damaged record length")
    body = file.read(length + _CHECKSUM.size)
    if len(body) < length + _CHECKSUM.size:
      raise CorruptFileError(f"{name} ends inside a record")
    payload = body[:length]
    if _masked_crc(payload) != _CHECKSUM.unpack_from(body, length)[0]:
      raise CorruptFileError(f"{name} has a record with a wrong checksum")
    yield payload


def read_examples(
    file: BinaryIO, name: str = "",
    decode: Callable[[bytes], Any] = decode_example) -> Iterator[Any]:
  """Yields the decoded examples of a TFRecord file.

  Raises:
    CorruptFileError: also where a record is not an Example of text features.
  """
  for payload in read_records(file, name):
    try:
      yield decode(payload)
    except ValueError as error:
      raise CorruptFileError(
          f"{name} has a record that is not an example of texts: {error}"
      ) from error
