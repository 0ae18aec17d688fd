"""TFRecord files of string features, written and read without TensorFlow.

Importing TensorFlow takes ten seconds and 800 MB, more than an import of half
a million completions may use. The two formats involved are small and frozen:

* a TFRecord file is a row of `length (uint64 LE), masked crc32c of the length
  bytes (uint32 LE), payload, masked crc32c of the payload`;
* the payload is a `tf.train.Example` protocol buffer, here with one bytes
  value for each feature.

The test beside this file reads what is written here with TensorFlow, and the
other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import functools
import struct
from typing import Any, BinaryIO

import google_crc32c

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
# A protocol buffer's tags of length-delimited fields: number << 3 | 2.
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_ONE_BYTE = [bytes([number]) for number in range(0x80)]
# A record is a few kilobytes; a larger length is a damaged file, and reading
# it would allocate whatever the damage says.
MAX_RECORD_BYTES = 256 * 2**20


class CorruptFileError(ValueError):
  """A TFRecord file that ends early or whose checksums do not hold."""


def _masked_crc(data: bytes) -> int:
  crc: int = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
  """A protocol buffer's variable-length integer."""
  if number < 0x80:
    return _ONE_BYTE[number]
  out = bytearray()
  while number >= 0x80:
    out.append(number & 0x7F | 0x80)
    number >>= 7
  out.append(number)
  return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
  """Returns the integer at `at` and the position after it."""
  byte = data[at]
  if byte < 0x80:
    return byte, at + 1
  number, shift = byte & 0x7F, 7
  while True:
    at += 1
    byte = data[at]
    number |= (byte & 0x7F) << shift
    if byte < 0x80:
      return number, at + 1
    shift += 7
    if shift > 63:
      raise ValueError("a varint of more than 64 bits")


@functools.lru_cache(maxsize=1 << 14)
def _entry_start(name: str, size: int) -> bytes:
  """An entry's bytes up to its value of `size` bytes; the same for many."""
  key = name.encode("utf-8")
  bytes_list = _FIELD_1 + _varint(size)
  feature_size = len(bytes_list) + size
  feature = _FIELD_1 + _varint(feature_size) + bytes_list
  entry = (_FIELD_1 + _varint(len(key)) + key
           + _FIELD_2 + _varint(len(feature) + size) + feature)
  return _FIELD_1 + _varint(len(entry) + size) + entry


def encode_example(features: Mapping[str, str]) -> bytes:
  """Returns a serialized `tf.train.Example`, one UTF-8 bytes value a feature.

  Example{1: Features{1: entry{1: key, 2: Feature{1: BytesList{1: value}}}}}

  Raises:
    UnicodeEncodeError: a value has lone surrogates.
  """
  entries = []
  for name, text in features.items():
    value = text.encode("utf-8")
    entries.append(_entry_start(name, len(value)))
    entries.append(value)
  body = b"".join(entries)
  return _FIELD_1 + _varint(len(body)) + body


def decode_example(data: bytes) -> dict[str, str]:
  """The inverse of `encode_example`, for examples of single text values.

  Raises:
    ValueError: the data is something else.
  """
  features = {}
  try:
    end, at = _open(data, 0, 1)
    end += at
    while at < end:
      name, value, at = _entry(data, at)
      features[name] = value
  except IndexError as error:
    raise ValueError("it ends early") from error
  if at != len(data):
    raise ValueError("it ends early")
  return features


def decode_first(data: bytes) -> tuple[str, str]:
  """The name and value of an example's first feature.

  Raises:
    ValueError: the data does not begin as an example of texts.
  """
  try:
    _, at = _open(data, 0, 1)
    return _entry(data, at)[:2]
  except IndexError as error:
    raise ValueError("it ends early") from error


def _entry(data: bytes, at: int) -> tuple[str, str, int]:
  """The name and value of the entry at `at`, and the position after it."""
  if data[at] != 0x0a:  # `_open`, without its call.
    raise ValueError("it has another field or type than expected")
  size, at = data[at + 1], at + 2
  if size >= 0x80:
    size, at = _read_varint(data, at - 1)
  key = data[at + 2:at + 2 + data[at + 1]]
  # All but the value follows from name and size: compared, not parsed.
  name, start = _entry_of_size(key, size)
  if not data.startswith(start, at):
    raise ValueError("a feature has not exactly one text value")
  end = at + size
  return name, data[at + len(start):end].decode("utf-8"), end


@functools.lru_cache(maxsize=1 << 14)
def _entry_of_size(key: bytes, size: int) -> tuple[str, bytes]:
  """An entry's name, and its bytes between its own size and its value.

  Raises:
    ValueError: no value makes an entry of this size.
  """
  name = key.decode("utf-8")
  for value_size in range(max(0, size - len(key) - 32), size):
    start = _entry_start(name, value_size)
    inner = start[1 + len(_varint(size)):]
    if len(inner) + value_size == size:
      return name, inner
  raise ValueError("a feature has not exactly one text value")


def _open(data: bytes, at: int, field: int) -> tuple[int, int]:
  """Checks a length-delimited field's tag; returns its size and its start."""
  if data[at] != field << 3 | 2:
    raise ValueError("it has another field or type than expected")
  return _read_varint(data, at + 1)


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
