"""What judges and people said of two systems: JSON, tables, page."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from stepdistill_jax.evaluation import statistics
from stepdistill_jax.evaluation.judging import (
  agreement,
  asking,
  pairs as pairs_lib,
  verdicts as verdicts_lib,
  win_rates,
)
from stepdistill_jax.evaluation.report import outputs, tables as tables_lib
from stepdistill_jax.teacher.importing import counts as import_counts
from stepdistill_jax.util import durable_files


def make(pairs: pairs_lib.Pairs, verdicts: Sequence[verdicts_lib.Verdict],
         scores: Sequence[asking.Score], *, warnings: Sequence[str] = (),
         not_read: Mapping[str, Any], groups: Sequence[Sequence[str]] = (),
         prompt: tuple[str, str] | None = None, seed: int = 0
         ) -> dict[str, Any]:
  """Returns the contents of `judging.json`.

  Args:
    pairs: that were judged.
    verdicts: of all graders.
    scores: grades of single answers.
    warnings: for the head of the report.
    not_read: file -> what could not be read there, under named reasons.
    groups: graders that belong together, such as the people of one file.
    prompt: the judge's, its id and hash.
    seed: of the bootstraps.
  """
  together: list[agreement.Agreement] = []
  if verdicts:
    table = agreement.table_of(verdicts)
    # Of each group, of all; those of two are among the pairs.
    several = dict.fromkeys(
        tuple(group) for group in (*groups, table.columns) if len(group) > 2)
    together = [
        *(agreement.agree(table, group, seed=seed) for group in several),
        *agreement.agree_in_pairs(table, seed=seed)]
  return {
      "code_version": outputs.code_version(),
      "systems": list(pairs.names), "pairs": len(pairs.pairs),
      # Of records' ids, BENCHMARK/SPLIT/HASH.
      "benchmarks": sorted({item.split("/")[0] for item in pairs.pairs
                            if item.count("/") == 2}),
      "pairs_dropped": pairs.dropped.as_json(),
      "prompt": prompt and {"id": prompt[0], "sha256": prompt[1]},
      "graders": [dataclasses.asdict(rate) for rate in win_rates.of_graders(
          pairs, verdicts, seed=seed)],
      "agreement": [dataclasses.asdict(found) for found in together],
      "scores": _scores(scores, seed), "not_read": dict(not_read),
      "warnings": list(warnings)}


def _scores(scores: Sequence[asking.Score], seed: int) -> list[dict[str, Any]]:
  """Mean grades by grader and system."""
  found: dict[tuple[str, str], list[float | None]] = {}
  for score in scores:
    found.setdefault((score.grader, score.system), []).append(score.value)
  rows = []
  for (grader, system), values in found.items():
    read = [value for value in values if value is not None]
    rows.append({
        "grader": grader, "system": system, "graded": len(read),
        "unreadable": len(values) - len(read),
        "mean": sum(read) / len(read) if read else None,
        "ci95": statistics.bootstrap_interval(read, seed=seed)
        if read else None})
  return rows


def tables(results: Mapping[str, Any]) -> list[tables_lib.Table]:
  """The tables of a report; those with rows."""
  first, second = results["systems"]
  found = [
      tables_lib.make(
          f"Wins of {second} over {first}", results["graders"], {
              "grader": "grader", "pairs": "pairs",
              "win rate %": ("win_rate", tables_lib.percent),
              "95%": ("ci95", tables_lib.interval),
              f"{first} better": "first", "ties": "ties",
              f"{second} better": "second", "flipped": "flipped",
              "unreadable": "unreadable"},
          note="A tie counts half. A judge saw both orders of a pair; "
          "verdicts that name another answer in each are ties and counted as "
          "flipped. What could not be read is not in the win rate."),
      tables_lib.make(
          "What else verdicts depend on", results["graders"], {
              "grader": "grader",
              "for the answer shown first": ("shown_first", _order_share),
              "for the longer answer": ("longer", _share)},
          note="Without a bias of position the first is a half, where both "
          "orders were shown equally often."),
      tables_lib.make(
          "Agreement", results["agreement"], {
              "graders": lambda row: ", ".join(row["graders"]),
              "pairs": "items",
              "the same": "same",
              "coefficient": "coefficient", "κ": ("kappa", _coefficient),
              "95%": ("kappa_ci95", _numbers),
              "Krippendorff's α": ("alpha", _coefficient),
              "95% of α": ("alpha_ci95", _numbers)},
          note="Three categories: the first is better, a tie, the second is "
          "better. α is of all graders together."),
      tables_lib.make(
          "Grades", results["scores"], {
              "grader": "grader", "system": "system", "graded": "graded",
              "mean": ("mean", tables_lib.number), "95%": ("ci95", _numbers),
              "unreadable": "unreadable"}),
      tables_lib.make(
          "What could not be used",
          [(where, reason, counted) for where, reasons in (
              ("pairs", results["pairs_dropped"]),
              *results["not_read"].items())
           for reason, counted in reasons.items()], {
               "where": lambda row: row[0], "reason": lambda row: row[1],
               "count": lambda row: row[2]["count"],
               "such as": lambda row: next(iter(row[2]["examples"]), None)})]
  return [table for table in found if table.rows]


def write(folder: pathlib.Path, results: Mapping[str, Any],
          verdicts: Sequence[verdicts_lib.Verdict],
          scores: Sequence[asking.Score]) -> pathlib.Path:
  """Writes `verdicts.jsonl`, `judging.json`, `report.md`, `report.html`."""
  first, second = results["systems"]
  title = f"{second} against {first}"
  durable_files.replace(folder / "verdicts.jsonl", "".join(
      json.dumps(dataclasses.asdict(said), ensure_ascii=False) + "\n"
      for said in (*verdicts, *scores)))
  meta = [f"{results['pairs']:,} pairs; by stepdistill_jax "
          f"{results['code_version']}"]
  if prompt := results["prompt"]:
    meta.append(f"prompt {prompt['id']}, sha256 {prompt['sha256'][:12]}")
  page = outputs.write_tables(
      folder, title, meta, results["warnings"], tables(results))
  durable_files.replace(folder / "judging.json", json.dumps(
      results, indent=2, ensure_ascii=False) + "\n")
  return page


def lines(results: Mapping[str, Any]) -> list[str]:
  """The results in a few lines, for a terminal."""
  first, second = results["systems"]
  shown = [f"warning: {line}" for line in results["warnings"]]
  for row in results["graders"]:
    shown.append(
        f"{row['grader']}: {second} over {first} "
        f"{tables_lib.percent(row['win_rate'])}% "
        f"({tables_lib.interval(row['ci95'])}) of {row['pairs']:,} pairs; "
        f"{row['first']:,} lost, {row['ties']:,} ties ({row['flipped']:,} "
        f"flipped with the order), {row['second']:,} won, "
        f"{row['unreadable']:,} unreadable; "
        "for the answer shown first "
        f"{_order_share(row['shown_first'])}, for the longer one "
        f"{_share(row['longer'])}")
  for row in results["agreement"]:
    shown.append(
        f"{', '.join(row['graders'])}: the same on {row['same']:,} of "
        f"{row['items']:,}; {row['coefficient']} {_coefficient(row['kappa'])} "
        f"{_numbers(row['kappa_ci95'])}" + (
            "" if row["alpha"] is None else
            f"; Krippendorff's α {_coefficient(row['alpha'])} "
            f"{_numbers(row['alpha_ci95'])}"))
  for row in results["scores"]:
    shown.append(
        f"{row['grader']}: {row['system']} {tables_lib.number(row['mean'])} "
        f"{_numbers(row['ci95'])}, {row['graded']:,} answers, "
        f"{row['unreadable']:,} unreadable")
  for where, reasons in (("pairs", results["pairs_dropped"]),
                         *results["not_read"].items()):
    shown += import_counts.with_places(f"  {where}: ", reasons)
  return shown


def _coefficient(value: float | None) -> str:
  return "not defined" if value is None else f"{value:.3f}"


def _numbers(interval: Sequence[float] | None) -> str:
  return tables_lib.MISSING if interval is None else (
      f"[{interval[0]:.3f}, {interval[1]:.3f}]")


def _order_share(share: Mapping[str, Any]) -> str:
  return _share(share) if share["n"] else "not known"


def _share(share: Mapping[str, Any]) -> str:
  if not share["n"]:
    return "none of 0"
  return (f"{tables_lib.percent(share['share'])}% "
          f"({tables_lib.interval(share['ci95'])}) of {share['n']:,}")
