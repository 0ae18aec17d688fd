"""The folder of a call: `results.json`, `examples.jsonl`, reports, plots."""

from collections.abc import Collection, Mapping, Sequence
import csv
import functools
import itertools
import json
import math
import pathlib
import subprocess
from typing import Any

import stepdistill_jax
from stepdistill_jax.evaluation.report import (
  plots as plots_lib,
  tables as tables_lib,
  text as text_report,
)
from stepdistill_jax.util import durable_files, errors, pages, runtime

SCHEMA_VERSION = 1
_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "evaluation.html"
# A page with more examples than this opens slowly; the rest is in
# examples.jsonl.
MOST_EXAMPLES = 6_000
# Likewise a string with more characters: longer than any question of the
# benchmarks, and than a student's longest answer.
MOST_CHARACTERS = 20_000


def write_tables(
    folder: pathlib.Path, title: str, meta: Sequence[str],
    warnings: Sequence[str], tables: Sequence[tables_lib.Table]
) -> pathlib.Path:
  """Writes `report.md` and `report.html` of nothing but tables.

  Returns:
    The page.
  """
  durable_files.replace(folder / "report.md", text_report.markdown(
      title, [*map(text_report.escape, meta),
              *(f"**{text_report.escape(line)}**" for line in warnings)],
      tables, {}))
  page = folder / "report.html"
  durable_files.replace(page, pages.render(
      _TEMPLATE.with_name("tables.html"), title=title, meta=meta,
      warnings=warnings, tables=tables))
  return page


@functools.cache
def code_version() -> str:
  """The package's version, and the commit where it runs from a checkout."""
  version = stepdistill_jax.__version__
  root = pathlib.Path(stepdistill_jax.__file__).resolve().parent.parent
  if not (root / ".git").exists():
    return version
  try:
    commit = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True, text=True, timeout=10, check=True).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return version
  return f"{version}+{commit}"


def prepare(folder: pathlib.Path) -> pathlib.Path:
  """Makes the output folder.

  Raises:
    errors.UserError: it cannot be made, or holds something else.
  """
  if folder.exists() and not folder.is_dir():
    raise errors.UserError(f"--output={folder} is a file; name a folder")
  if folder.is_dir():
    other = [p.name for p in folder.iterdir()]
    ours = {"results.json", "examples.jsonl", "answers", "plots"}
    if other and not ours & set(other):
      raise errors.UserError(
          f"--output={folder} holds other files (such as {sorted(other)[0]}) "
          "and no earlier scores; name a new folder")
  with errors.reported(OSError, lambda error: (
      f"--output={folder} cannot be made: {error.strerror}")):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


def write(
    folder: pathlib.Path, results: dict[str, Any],
    rows: Collection[Mapping[str, Any]], *, as_csv: bool = False,
    as_tensorboard: bool = False,
) -> list[pathlib.Path]:
  """Writes everything that a call leaves; `results.json` last.

  Returns:
    The files, in the order of their writing.
  """
  plots = folder / "plots"
  plots.mkdir(parents=True, exist_ok=True)
  drawn = list(plots_lib.of_results(results))
  for plot in drawn:
    plot.save(plots)
  provenance, warnings = _provenance(results), tables_lib.warnings(results)
  tables = tables_lib.all_tables(results)
  texts = {
      "examples.jsonl": (
          json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
      "report.md": text_report.markdown(
          "Evaluation", [*provenance, *(
              f"> **Warning:** {text_report.escape(w)}" for w in warnings)],
          tables, {f"plots/{plot.name}": plot.title for plot in drawn}),
      "report.html": pages.render(
          _TEMPLATE, title="Evaluation: " + ", ".join(dict.fromkeys(
              s["benchmark"] for s in results["systems"])),
          provenance=provenance, warnings=warnings, tables=tables, plots=drawn,
          count=len(rows), examples=[
              _shorten(row) for row in _choose(rows, MOST_EXAMPLES)]),
  }
  written = [plots / plot.name for plot in drawn]
  if as_csv:
    written.append(_write_csv(folder / "results.csv", results))
  if as_tensorboard:
    written.append(_write_tensorboard(folder / "tensorboard", results))
  texts["results.json"] = dump_json(results)
  for name, text in texts.items():
    durable_files.replace(folder / name, text)
    written.append(folder / name)
  return written


def _choose(rows, most):
  """Errors first, evenly over the results, at most `most` rows."""
  if len(rows) <= most:
    return list(rows)
  wrong: dict[tuple, list] = {}
  right: dict[tuple, list] = {}
  share = most
  for row in rows:
    result = row["benchmark"], row["system"], row["mode"]
    groups = right if row["correct"] else wrong
    if result not in groups:
      groups[result] = []
      share = max(1, most // len(wrong.keys() | right.keys()))
    if len(groups[result]) < share:
      groups[result].append(row)
  return [row for result in dict.fromkeys([*wrong, *right]) for row in
          [*wrong.get(result, ()), *right.get(result, ())][:share]]


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
  """The row with its over-long strings cut, which they say at their ends."""
  return {
      name: (f"{value[:MOST_CHARACTERS]}… [{len(value):,} characters; all of "
             "them are in examples.jsonl]")
      if isinstance(value, str) and len(value) > MOST_CHARACTERS else value
      for name, value in row.items()}


def _provenance(results: Mapping[str, Any]) -> list[str]:
  """When, by what and on which data a call was scored."""
  data = "; ".join(
      f"{name} {d['split']}: {d['n']} examples, fingerprint "
      f"{d['fingerprint']}" for name, d in results["data"].items())
  return [
      f"Scored {results['created']} by stepdistill_jax "
      f"{results['code_version']}.", f"Data: {data}."]


def dump_json(results: Mapping[str, Any]) -> str:
  """Strict JSON (NaN and infinities as null), keys in their order."""
  return json.dumps(_finite(results), indent=1, ensure_ascii=False,
                    allow_nan=False) + "\n"


def _finite(value):
  if isinstance(value, Mapping):
    return {str(k): _finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


_CSV_FIELDS = ("benchmark", "split", "name", "kind", "mode", "rules", "n",
               "correct", "accuracy", "ci95_low", "ci95_high", "unparsable",
               "missing", "empty")


def _write_csv(path: pathlib.Path, results: dict[str, Any]) -> pathlib.Path:
  with path.open("w", newline="", encoding="utf-8") as file:
    metrics = [_means_of_texts(s) for s in results["systems"]]
    writer = csv.DictWriter(
        file, [*_CSV_FIELDS, *dict.fromkeys(itertools.chain(*metrics))],
        extrasaction="ignore")
    writer.writeheader()
    for s, means in zip(results["systems"], metrics):
      row = {**s, "ci95_low": s["ci95"][0], "ci95_high": s["ci95"][1]}
      if means:  # Texts are not right or wrong.
        row |= dict.fromkeys(("correct", "accuracy", "ci95_low", "ci95_high"))
      writer.writerow({**row, **means})
  return path


def _means_of_texts(summary: Mapping[str, Any]) -> dict[str, float]:
  """Each metric of texts; {} of labels."""
  metrics = summary.get("text_metrics") or {"values": {}}
  return {name: value["mean"] for name, value in metrics["values"].items()}


def _write_tensorboard(folder: pathlib.Path,
                       results: dict[str, Any]) -> pathlib.Path:
  """Writes scores as scalars, a run a system, at the checkpoint's step."""
  tf = runtime.import_tensorflow()
  for s in results["systems"]:
    writer = tf.summary.create_file_writer(
        str(folder / (s["name"].replace("/", "_").strip(".") or "system")))
    with writer.as_default(step=int((s["cost"] or {}).get("step", 0))):
      prefix = f"eval/{s['benchmark']}/{s['split']}/{s['mode']}"
      for name, value in (
          _means_of_texts(s) or {"accuracy": s["accuracy"]}).items():
        tf.summary.scalar(f"{prefix}/{name}", value)
      tf.summary.scalar(f"{prefix}/unparsable", s["unparsable"] / s["n"])
    writer.close()
  return folder
