"""The same requests as OpenAI batch files, written here and read back later.

    collect ... --batch_write=batch.jsonl     writes what is missing
    (the file is uploaded and processed elsewhere)
    collect ... --batch_read=output.jsonl     takes what came back

A request's `custom_id` is its key, so files may be read in any order, twice,
or in part: only what is missing is taken, and a rerun of `--batch_write`
writes only what is missing still. Of a conversation each batch has the next
turn.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import tempfile
from typing import Any

from stepdistill_jax.teacher import completions, text_files
from stepdistill_jax.teacher.ask import (
  failures,
  job as job_lib,
  requests,
  responses,
  spec as spec_lib,
)
from stepdistill_jax.util import errors, temporary_database

# OpenAI's limits of one file.
_MOST_LINES = 50_000
_MOST_BYTES = 185 * 2**20  # 200 MB, with room for a last line.


def write(spec: spec_lib.Spec, path: str) -> dict[str, Any]:
  """Writes the missing requests.

  Args:
    spec: the run.
    path: the first file; `batch.jsonl` is followed by `batch-2.jsonl`, ….

  Returns:
    `files`, with at most 50,000 requests each; `requests`, in all of them; and
    `present`, the completions that the cache has already.

  Raises:
    errors.UserError: a file is there already, or cannot be written.
  """
  first = pathlib.Path(path)
  with job_lib.open_job(spec, asks=False) as job:
    lines = (json.dumps({
        "custom_id": request.key, "method": "POST",
        "url": f"/v1{request.path}", "body": request.body})
             for request in job.missing_requests())
    with errors.reported(
        OSError, lambda error: f"cannot write {first}: {error.strerror}"
    ), tempfile.TemporaryDirectory(
        dir=first.parent, prefix=f".{first.name}.") as folder:
      shards = completions.write_shards(
          pathlib.Path(folder), lines, _MOST_BYTES, _MOST_LINES)
      names = [first, *(first.with_name(f"{first.stem}-{n}{first.suffix}")
                        for n in range(2, len(shards) + 1))][:len(shards)]
      for name in names:
        if name.exists():
          raise errors.UserError(
              f"{name} exists already; remove it, or choose another name for "
              "--batch_write")
      for name, shard in zip(names, shards):
        os.replace(pathlib.Path(folder) / shard["name"], name)
    return {"files": list(map(str, names)), "present": job.present,
            "requests": sum(shard["count"] for shard in shards)}


def read(spec: spec_lib.Spec, paths: Sequence[str]) -> job_lib.Outcome:
  """Takes completions from a batch's output files (and error files).

  Raises:
    errors.UserError: a file cannot be read, or is of other requests.
  """
  answers = _Answers(paths)
  with job_lib.open_job(spec) as job:
    # One at a time: an identical row must find the first one's line.
    outcome = job.collect(
        answers, concurrency=1,
        wanted=lambda item: answers.line(job.plan.request(item).key))
  if answers.count and not outcome.progress.requests and outcome.missing:
    raise errors.UserError(
        f"{', '.join(paths)}: none of its {answers.count:,} answers is to a "
        "request that is missing here; were --rows, --model, --prompt and the "
        "sampling options the same for --batch_write?")
  return outcome


def lines(written: Mapping[str, Any]) -> list[str]:
  """What was written, for a person."""
  if not written["requests"]:
    return [f"nothing is missing: {written['present']:,} completions are there"]
  first, *others = written["files"]
  return [f"{written['requests']:,} requests -> {first}",
          *(f"  and {name}" for name in others),
          "next: have them processed, then run the same command with "
          "--batch_read=OUTPUT instead of --batch_write"]


class _Answers:
  """The lines of batch outputs by their `custom_id`; an Asker.

  Attributes:
    count: number of lines with a custom_id.
  """

  def __init__(self, paths: Sequence[str]):
    self.count = 0
    self._lines = temporary_database.create(
        "CREATE TABLE answers (id TEXT PRIMARY KEY, line TEXT) WITHOUT ROWID")
    for path in map(pathlib.Path, paths):
      if not path.is_file():
        raise errors.UserError(f"there is no file --batch_read={path}")
      if path.stat().st_size:  # Else of a batch without errors.
        for entry in text_files.read_entries(path):
          self._add(entry)

  def _add(self, entry: text_files.Entry) -> None:
    """Adds an answer; of two to one request, one without error counts."""
    line = entry.value
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
      raise errors.UserError(
          f"{entry.where} is not a line of a batch's output: "
          f"{entry.problem or 'it has no custom_id'}")
    self.count += 1
    self._lines.execute(
        f"INSERT OR {'IGNORE' if line.get('error') else 'REPLACE'} "
        "INTO answers VALUES (?, ?)", (line["custom_id"], json.dumps(line)))

  def line(self, key: str) -> str | None:
    """The answer to a request, or None."""
    found = self._lines.execute(
        "SELECT line FROM answers WHERE id = ?", (key,)).fetchone()
    return found and found[0]

  async def ask(self, request: requests.Request) -> responses.Answer:
    """Returns the batch's answer, or raises the failure that it notes."""
    return answer_of(json.loads(self.line(request.key)), request)


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
