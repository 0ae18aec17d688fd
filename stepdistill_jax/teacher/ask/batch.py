"""The same requests as OpenAI batch files, written here and read back later.

    collect ... --batch_write=batch.jsonl     writes what is missing
    (the file is uploaded and processed elsewhere)
    collect ... --batch_read=output.jsonl     takes what came back

A request's `custom_id` is its key, so files may be read in any order, twice,
or in part: only what is missing is taken, and a rerun of `--batch_write`
writes only what is missing still. Of a conversation each batch has the next
turn.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.ask import (
  failures,
  job as job_lib,
  requests,
  responses,
)
from stepdistill_jax.util import errors

# OpenAI's limits of one file.
_MOST_LINES = 50_000
_MOST_BYTES = 190 * 2**20  # 200 MB, with room.


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` wrote.

  Attributes:
    files: batch files, with at most 50,000 requests each.
    requests: in all of them.
    present: completions that the cache has already.
  """

  files: tuple[str, ...]
  requests: int
  present: int


def write(spec: job_lib.Spec, path: str) -> Written:
  """Writes the missing requests.

  Args:
    spec: the run.
    path: the first file; `batch.jsonl` is followed by `batch-2.jsonl`, ….

  Raises:
    errors.UserError: a file is there already, or cannot be written.
  """
  with job_lib.open_job(spec, asks=False) as job, _Files(
      pathlib.Path(path)) as files:
    for request in job.missing_requests():
      files.write(request)
    return Written(files.names(), files.count, job.present)


def read(spec: job_lib.Spec, paths: Sequence[str]) -> job_lib.Outcome:
  """Takes completions from a batch's output files (and error files).

  Raises:
    errors.UserError: a file cannot be read, or is of other requests.
  """
  answers = _Answers()
  for path in paths:
    answers.index(pathlib.Path(path))
  with job_lib.open_job(spec) as job:
    # One at a time: an identical row must find the first one's line.
    outcome = job.collect(
        answers, concurrency=1,
        wanted=lambda item: answers.has(job.plan.request(item).key))
  if answers.count and not outcome.progress.requests and outcome.missing:
    raise errors.UserError(
        f"{', '.join(paths)}: none of its {answers.count:,} answers is to a "
        "request that is missing here; were --rows, --model, --prompt and the "
        "sampling options the same for --batch_write?")
  return outcome


def lines(written: Written) -> list[str]:
  """What was written, for a person."""
  if not written.requests:
    return [f"nothing is missing: {written.present:,} completions are there"]
  return [f"{written.requests:,} requests -> {name}" if number == 0
          else f"  and {name}" for number, name in enumerate(written.files)
          ] + ["next: have them processed, then run the same command with "
               "--batch_read=OUTPUT instead of --batch_write"]


class _Files:
  """Batch files, the next one begun when one is full; a context manager."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._file = None
    self._names: list[pathlib.Path] = []
    self._lines = self._bytes = self.count = 0

  def __enter__(self) -> _Files:
    return self

  def __exit__(self, exception_type, *unused) -> None:
    if self._file is not None:
      self._file.close()
    for name in self._names:
      if exception_type is None:
        os.replace(_temporary(name), name)
      else:
        _temporary(name).unlink(missing_ok=True)

  def names(self) -> tuple[str, ...]:
    return tuple(map(str, self._names))

  def write(self, request: requests.Request) -> None:
    """Appends a request."""
    line = json.dumps({
        "custom_id": request.key, "method": "POST",
        "url": f"/v1{request.path}", "body": request.body}) + "\n"
    if self._file is None or self._lines >= _MOST_LINES or (
        self._bytes + len(line) > _MOST_BYTES):
      self._next_file()
    self._file.write(line)
    self._lines += 1
    self._bytes += len(line)
    self.count += 1

  def _next_file(self) -> None:
    number = len(self._names) + 1
    name = self._path if number == 1 else self._path.with_name(
        f"{self._path.stem}-{number}{self._path.suffix}")
    if name.exists():
      raise errors.UserError(
          f"{name} exists already; remove it, or choose another name for "
          "--batch_write")
    if self._file is not None:
      self._file.close()
    try:
      self._file = _temporary(name).open("w", encoding="ascii")
    except OSError as error:
      raise errors.UserError(
          f"cannot write {name}: {error.strerror}") from error
    self._names.append(name)
    self._lines = self._bytes = 0


class _Answers:
  """The lines of batch outputs by their `custom_id`; an Asker.

  Attributes:
    count: number of lines with a custom_id.
  """

  def __init__(self):
    self.count = 0
    self._paths: list[pathlib.Path] = []
    # custom_id -> (number of the file, offset, size).
    self._places: dict[str, tuple[int, int, int]] = {}

  def index(self, path: pathlib.Path) -> None:
    """Notes where a file's answers are; of two, one without error counts."""
    if not path.is_file():
      raise errors.UserError(f"there is no file --batch_read={path}")
    self._paths.append(path)
    offset = 0
    with path.open("rb") as file:
      for number, raw in enumerate(file, start=1):
        line = raw.removeprefix(codecs.BOM_UTF8)
        if line.strip():
          self._note(line, offset + len(raw) - len(line),
                     f"{path} line {number}")
        offset += len(raw)

  def has(self, key: str) -> bool:
    return key in self._places

  async def ask(self, request: requests.Request) -> responses.Answer:
    """Returns the batch's answer, or raises the failure that it notes."""
    file, offset, size = self._places[request.key]
    with self._paths[file].open("rb") as opened:
      opened.seek(offset)
      line = json.loads(opened.read(size))
    return answer_of(line, request)

  def _note(self, raw: bytes, offset: int, where: str) -> None:
    line, problem = text_files.parse_json(raw)
    if problem or not isinstance(line, dict) or not isinstance(
        line.get("custom_id"), str):
      raise errors.UserError(
          f"{where} is not a line of a batch's output: "
          f"{problem or 'it has no custom_id'}")
    self.count += 1
    place = len(self._paths) - 1, offset, len(raw)
    if line.get("error"):
      self._places.setdefault(line["custom_id"], place)
    else:
      self._places[line["custom_id"]] = place


def answer_of(line: Mapping[str, Any], request: requests.Request
              ) -> responses.Answer:
  """Reads one line of a batch's output.

  Raises:
    failures.Failure: the batch could not answer the request.
  """
  error, response = line.get("error"), line.get("response") or {}
  if error or not response:
    message = error.get("message", "") if isinstance(error, dict) else error
    raise failures.Failure(
        failures.SERVER_ERROR, failures.redact(f"batch: {message}"))
  status, body = response.get("status_code", 200), response.get("body")
  text = body if isinstance(body, str) else json.dumps(body)
  if not str(status).isdecimal():
    raise failures.Failure(failures.MALFORMED, failures.redact(
        f"batch: status_code {status!r} with {text}"))
  if int(status) != 200:  # Some services write it as a text.
    raise failures.Failure(
        responses.status_reason(int(status), text),
        failures.redact(f"batch: HTTP {status} {text}"))
  return responses.parse(text, request)


def _temporary(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f".{path.name}.new")
