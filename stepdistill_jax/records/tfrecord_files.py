"""TFRecord files of string features, written and read without TensorFlow.

Importing TensorFlow takes ten seconds and 800 MB, more than an import of half
a million completions may use. A TFRecord file is a row of `length (uint64 LE),
masked crc32c of the length bytes (uint32 LE), payload, masked crc32c of the
payload`; the payload is a `tf.train.Example` protocol buffer, here with one
bytes value for each feature.

The test beside this file reads what is written here with TensorFlow, and the
other way round.
"""

from __future__ import annotations

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
_MOST_USES = 1000  # Of one message, see `Encoder`.
# The messages of tensorflow/core/example, as far as texts need them. On disk a
# map is a repeated entry; as such it keeps the order of the features.
_MESSAGES = {
    "BytesList": {"value": "repeated bytes"},
    "Feature": {"bytes_list": "optional BytesList"},
    "Entry": {"key": "optional string", "value": "optional Feature"},
    "Features": {"feature": "repeated Entry"},
    "Example": {"features": "optional Features"},
}


class CorruptFileError(ValueError):
  """A TFRecord file that ends early or whose checksums do not hold."""


@functools.cache
def _example_class() -> Any:
  # Imported here: with this module every command's --help would load it.
  from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

  package = "stepdistill_jax.records"
  file = descriptor_pb2.FileDescriptorProto(
      name="example.proto", package=package)
  for name, fields in _MESSAGES.items():
    fields_of_message = file.message_type.add(name=name).field
    for number, (field, description) in enumerate(fields.items(), 1):
      label, kind = description.split()
      made = fields_of_message.add(name=field, number=number, label=(
          f"LABEL_{label.upper()}"))
      if kind in _MESSAGES:
        made.type, made.type_name = made.TYPE_MESSAGE, f".{package}.{kind}"
      else:
        made.type = f"TYPE_{kind.upper()}"
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f"{package}.Example"))


class Encoder:
  """Serializes examples of the same features, one bytes value each."""

  def __init__(self, names: Sequence[str]):
    self._names = tuple(names)
    self._uses_left = 0

  def _make(self) -> None:
    """Makes the message: its memory keeps every value that it ever had."""
    self._uses_left = _MOST_USES
    self._example = _example_class()()
    self._values = []
    for name in self._names:
      value = self._example.features.feature.add(key=name).value
      value.bytes_list.value.append(b"")
      self._values.append(value.bytes_list.value)

  def __call__(self, values: Sequence[str]) -> bytes:
    """Returns a `tf.train.Example`.

    Raises:
      UnicodeEncodeError: a value has lone surrogates.
    """
    if not self._uses_left:
      self._make()
    self._uses_left -= 1
    for place, value in zip(self._values, values, strict=True):
      place[0] = value.encode("utf-8")
    data: bytes = self._example.SerializeToString()
    return data


def encode_example(features: Mapping[str, str]) -> bytes:
  """Returns a serialized `tf.train.Example`; see `Encoder` for many."""
  return Encoder(list(features))(list(features.values()))


def decode_example(data: bytes) -> dict[str, str]:
  """The inverse of `encode_example`, for examples of single text values.

  Raises:
    ValueError: the data is something else.
  """
  return dict(map(_name_and_value, _entries(data)))


def decode_first(data: bytes) -> tuple[str, str]:
  """The name and value of an example's first feature.

  Raises:
    ValueError: the data is not an example of texts.
  """
  return _name_and_value(_entries(data)[0])


def _entries(data: bytes) -> Sequence[Any]:
  from google.protobuf import message

  try:
    entries: Sequence[Any] = _example_class().FromString(data).features.feature
  except message.DecodeError as error:
    raise ValueError(str(error)) from error
  if not entries:
    raise ValueError("it has no feature")
  return entries


def _name_and_value(entry: Any) -> tuple[str, str]:
  values = entry.value.bytes_list.value
  if len(values) != 1:
    raise ValueError("a feature has not exactly one text value")
  return entry.key, values[0].decode("utf-8")


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
