"""Audit distillation records: what is in them, and what is wrong with them.

  stepdistill teacher audit --dataset=svamp --teacher=palm540b
  stepdistill teacher audit my_records --json
  stepdistill teacher audit my_cache

Prints counts and writes audit.html beside the records, with a histogram and
twenty records of each split to read. DIR is a folder of records (default: all
records), or a teacher cache, which is parsed for the audit and not imported.
"""

import argparse
import json
import os
import pathlib
import tempfile

from stepdistill_jax.records import records, vocabulary_losses
from stepdistill_jax.teacher import completions
from stepdistill_jax.util import argument_parser, errors, locations


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("dir", metavar="DIR", nargs="?",
      help="records or a cache (default: --records_dir)")
  argument_parser.add_records_dir(parser)
  add("--dataset", help="audit the records of this data set")
  add("--teacher", help="audit the records by this teacher")
  add("--vocabulary", metavar="PATH",
      help="SentencePiece model in whose pieces lengths are given (default: "
      "the data set's own, else T5's, else words are counted)")
  add("--html", metavar="PATH",
      help="where to write the page (default: audit.html beside the records)")
  add("--json", action="store_true", help="print the audit as JSON")


def run(args: argparse.Namespace) -> int | None:
  chosen = args.dir or args.records_dir
  folder = pathlib.Path(chosen or locations.records_dir())
  if not folder.is_dir():
    raise errors.UserError(
        locations.not_a_folder(folder) + ("" if chosen else (
            ", where records are by default; write some with `stepdistill "
            "teacher import`, or name their folder with --records_dir")))
  if (folder / completions.MANIFEST).is_file() or any(
      folder.glob(f"*/{completions.MANIFEST}")):
    _audit_cache(args, folder)
    return
  records_dir, chosen = _choose(args, folder)
  if args.html and len(chosen) > 1:
    raise errors.UserError(
        f"--html is one page, but {len(chosen)} data sets were chosen; name "
        "one with --dataset and --teacher")
  reports = [_audit(args, records_dir, *names) for names in chosen]
  if args.json:
    print(json.dumps(reports[0] if len(reports) == 1 else reports))
  _require_use(reports)


def _choose(args: argparse.Namespace, folder: pathlib.Path
            ) -> tuple[pathlib.Path, list[tuple[str, str]]]:
  """Returns the records folder and the (dataset, teacher) pairs to audit."""
  # DIR may be the folder of all records, of a data set, or of a teacher.
  for records_dir in (folder, *list(folder.resolve().parents)[:3]):
    found = [
        pair for pair in records.list_records(records_dir)
        if (folder.resolve() == records_dir.resolve() or records.version_dir(
            records_dir, *pair).resolve().is_relative_to(folder.resolve()))]
    if found:
      break
  else:
    raise errors.UserError(
        f"no records in {folder}; write some with `stepdistill teacher "
        "import`, or name their folder with --records_dir")
  for kind, names in zip(("dataset", "teacher"), zip(*found)):
    if wanted := getattr(args, kind):
      errors.require_known(kind, wanted, names, f"(records in {records_dir})")
  return records_dir, [
      pair for pair in found
      if args.dataset in (None, pair[0]) and args.teacher in (None, pair[1])]


def _audit(args: argparse.Namespace, records_dir: pathlib.Path, dataset: str,
           teacher: str, page: pathlib.Path | None = None) -> dict:
  """Audits one data set, prints it, writes its page; returns the JSON."""
  from stepdistill_jax.teacher.audit import audit, report as audit_report
  from stepdistill_jax.util import progress

  vocabulary = args.vocabulary or vocabulary_losses.find_vocabulary(
      records_dir, dataset)
  if args.vocabulary and not os.path.isfile(vocabulary):
    raise errors.UserError(f"there is no file --vocabulary={vocabulary}")
  with progress.Bars("records", quiet=args.json) as bars:
    report, splits = audit.audit(
        records_dir, dataset, teacher, progress=bars.update,
        vocabulary=vocabulary)
  page = pathlib.Path(args.html or page or records.version_dir(
      records_dir, dataset, teacher) / "audit.html")
  report["page"] = str(page)
  with errors.reported(OSError, lambda error: (
      f"cannot write {page}: {error.strerror}; choose another place with "
      "--html=PATH")):
    page.write_text(audit_report.html_page(report, splits), "utf-8")
  if not args.json:
    print("\n".join(audit_report.text_lines(report)))
    print(f"page: {page}")
  return report


def _audit_cache(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """Parses a cache into records that last as long as its audit."""
  from stepdistill_jax.teacher.importing import formats as importing

  with tempfile.TemporaryDirectory() as temporary:
    result = importing.import_cache(
        folder, dataset=args.dataset, teacher=args.teacher, output=temporary,
        allow_useless=True)
    report = _audit(args, pathlib.Path(temporary), result.dataset,
                    result.teacher, page=folder / "audit.html")
  if args.json:
    print(json.dumps(report))
  _require_use([report])


def _require_use(reports: list[dict]) -> None:
  """Raises UserError, after the audits, for what nothing can be done with."""
  useless = [f"{report['dataset']}/{report['teacher']}" for report in reports
             if not report["usable"]]
  if useless:
    raise errors.UserError(
        f"no record of {', '.join(useless)} can be used: the teacher gave "
        "neither labels nor rationales that could be read; see the statuses "
        "above and in audit.html")
