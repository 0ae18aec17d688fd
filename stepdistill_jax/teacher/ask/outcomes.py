"""What a collection came to, in words, and what is next."""

import dataclasses
import os
import pathlib
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, job, retries, store
from stepdistill_jax.teacher.importing import counts as import_counts
from stepdistill_jax.util import errors

_INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells report it.
_KNOWN_ENDINGS = (completions.LENGTH, completions.FILTERED, failures.REFUSAL,
                  failures.EMPTY, "tool_calls", "function_call")
_STOPS = {
    retries.INTERRUPTED: "interrupted; run the same command again to go on",
    retries.BUDGET: "stopped, as the next request could exceed --budget_usd",
    retries.SERVER_DOWN: "stopped, as the server does not answer",
}


def caches_of_all_splits(folder: str) -> list[pathlib.Path]:
  """The cache, and those beside it of the same data set and teacher.

  Records of (data set, teacher) are written as a whole, so that a cache of
  another split has to come along: CACHES/train and CACHES/test.
  """
  cache = pathlib.Path(folder)
  mine = completions.read_manifest(cache)
  found = {mine["split"]: cache}
  for path in sorted(cache.resolve().parent.glob(f"*/{completions.MANIFEST}")):
    try:
      other = completions.read_manifest(path.parent)
    except errors.UserError:
      continue  # Somebody else's manifest.json.
    if (other["dataset"], other["teacher"]) == (
        mine["dataset"], mine["teacher"]):
      found.setdefault(other["split"], path.parent)
  return list(found.values())


def as_json(outcome: job.Outcome, imported) -> dict[str, Any]:
  """The outcome for programs."""
  return {**dataclasses.asdict(outcome),
          "success_ratio": outcome.success_ratio,
          "records": imported and str(imported.folder)}


def lines(outcome: job.Outcome, imported) -> list[str]:
  """The outcome for a person."""
  progress = outcome.progress
  shown = [f"{outcome.usable:,} of {outcome.total:,} completions ended as they "
           "should" + ("" if outcome.success_ratio is None else
                       f" ({outcome.success_ratio:.1%})")
           + f" -> {outcome.folder}"]
  if others := _others(outcome):
    shown.append("  not usable: " + _counts(others))
  shown += import_counts.with_places("  row not asked: ", outcome.dropped)
  shown.append(
      f"  this run: {progress.requests:,} requests, {progress.retries:,} of "
      f"them retries, {progress.copied:,} completions shared by identical "
      "requests")
  if progress.failures:
    shown.append("  failed attempts: " + _counts(progress.failures)
                 + f"; the last: {progress.last_failure}")
  if progress.asked_again:
    shown.append(f"  asked again though in doubt: {progress.asked_again:,}, "
                 "which the server may have charged twice")
  if progress.held:
    shown.append(f"  held back as in doubt: {progress.held:,}")
  usage = (f"{outcome.usage['prompt_tokens']:,} prompt + "
           f"{outcome.usage['completion_tokens']:,} completion tokens")
  shown.append(f"  the cache took {usage}"
               + (f", ${outcome.usd:,.4f}" if outcome.usd else ""))
  if imported is not None:
    shown += import_counts.summary_lines(imported)
  return shown


def judge(outcome: job.Outcome, min_success_ratio: float) -> int:
  """The command's exit code.

  Raises:
    errors.UserError: the run stopped over an error, or too few completions
      ended as they should.
  """
  progress = outcome.progress
  if progress.stopped == retries.INTERRUPTED:
    return _INTERRUPTED_EXIT_CODE
  if progress.stopped and progress.stopped != retries.BUDGET:
    again = ("run the same command again to go on"
             if progress.stopped == retries.SERVER_DOWN
             else "mend that, and run the command again to go on")
    raise errors.UserError(
        _STOPS.get(progress.stopped, f"stopped: {progress.stopped}")
        + f" ({progress.message}); {outcome.total - outcome.missing:,} of "
        f"{outcome.total:,} completions are kept in {outcome.folder}: {again}")
  if progress.stopped == retries.BUDGET:
    if not outcome.usable:
      raise errors.UserError(
          f"{_STOPS[retries.BUDGET]}, with no completion that ended as it "
          f"should: {outcome.missing:,} of {outcome.total:,} are missing; "
          "raise it, or lower --max_tokens, and run the command again")
    print(f"note: {_STOPS[retries.BUDGET]}; {outcome.missing:,} completions "
          "are missing, and no records were written: raise it, and run the "
          "command again to go on")
    return 0
  if outcome.success_ratio is None:
    raise errors.UserError(
        "no row could be asked about: "
        + (", ".join(import_counts.in_words(outcome.dropped, example=True))
           or "the source is empty"))
  if outcome.success_ratio < min_success_ratio:
    raise errors.UserError(
        f"only {outcome.success_ratio:.1%} of the completions ended as they "
        f"should, less than --min_success_ratio={min_success_ratio:g} "
        f"({_counts(_others(outcome)) or 'none is there'}); they are kept in "
        f"{os.fspath(outcome.folder)}" + _next_steps(outcome))
  return 0


def _others(outcome: job.Outcome) -> dict[str, int]:
  """Endings other than as they should be, with their counts."""
  return {reason: count for reason, count in outcome.endings.items()
          if reason != completions.STOP}


def _next_steps(outcome: job.Outcome) -> str:
  """What a rerun does about those that are not usable, and what it leaves."""
  others = _others(outcome)
  failed = sum(count for reason, count in others.items()
               if reason.startswith(store.ERROR))
  shown = ""
  if failed or outcome.missing:
    shown += "; a rerun asks for those that failed or are missing"
  if failed < sum(others.values()):
    shown += ("; those with another ending are paid for and not asked again: "
              "--min_success_ratio=0 writes the records all the same")
  if others.get(completions.LENGTH):
    shown += ("; for whole ones collect into another --output with a larger "
              "--max_tokens")
  for reason in sorted(others):
    if reason not in _KNOWN_ENDINGS and not reason.startswith(store.ERROR):
      shown += (f"; the server ends with {reason!r}, which is not known as a "
                "natural end")
  return shown


def _counts(counts) -> str:
  return ", ".join(f"{count:,} {reason}" for reason, count in sorted(
      counts.items(), key=lambda pair: -pair[1]))
