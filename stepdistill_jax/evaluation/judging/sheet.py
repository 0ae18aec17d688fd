"""A sheet of pairs for people: one HTML page, and the same as CSV.

Neither says who answered. Pairs are shuffled, and so are the two answers of
each; a row's `order` tells which was shown first, so that a verdict is read
back as in `verdicts.read_file`.
"""

import csv
import hashlib
import io
import pathlib

import numpy as np

from stepdistill_jax.evaluation.judging import pairs as pairs_lib, verdicts
from stepdistill_jax.util import durable_files, errors, pages

COLUMNS = ("item", "order", "grader", "verdict", "comment")
_TEXTS = ("question", "answer_1", "answer_2")
_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "sheet.html"


def write(pairs: pairs_lib.Pairs, page: pathlib.Path, *, seed: int = 0
          ) -> pathlib.Path:
  """Writes the page, and a CSV file of the same name beside it.

  Args:
    pairs: to grade.
    page: the HTML file.
    seed: of both shuffles.

  Returns:
    The CSV file, whose column `verdict` waits for `first`, `second` or `tie`.

  Raises:
    errors.UserError: a file cannot be written, or would be both.
  """
  table = page.with_suffix(".csv")
  if table == page:
    raise errors.UserError(
        f"--export_sheet={page}: the page needs another ending than .csv, "
        "which is the table beside it")
  rows = shuffled(pairs, seed)
  text = io.StringIO()
  writer = csv.DictWriter(text, [*COLUMNS, *_TEXTS], restval="")
  writer.writeheader()
  # A quote before what a spreadsheet would calculate.
  writer.writerows({**row, **{
      name: "'" * row[name].startswith(("=", "+", "-", "@")) + row[name]
      for name in _TEXTS}} for row in rows)
  with errors.reported(
      OSError, lambda error: f"cannot write {page}: {error.strerror}"):
    page.parent.mkdir(parents=True, exist_ok=True)
    durable_files.replace(page, pages.render(
        _TEMPLATE, title="Which answer is better?", rows=rows,
        # By which a browser keeps the progress of this sheet and no other.
        columns=COLUMNS, key=hashlib.sha256(
            repr(rows).encode()).hexdigest()[:16]))
    # With a byte-order mark, by which spreadsheets know UTF-8.
    durable_files.replace(table, "\ufeff" + text.getvalue())
  return table


def shuffled(pairs: pairs_lib.Pairs, seed: int) -> list[dict[str, str]]:
  """The rows of a sheet, shuffled; as many of each order as can be."""
  rng = np.random.default_rng(seed)
  found = list(pairs.pairs.values())
  orders = [verdicts.GIVEN, verdicts.SWAPPED] * (len(found) // 2 + 1)
  rows = []
  for at, swap in zip(rng.permutation(len(found)),
                      rng.permutation(len(found)), strict=True):
    pair, order = found[at], orders[swap]
    answers = [pair.first, pair.second]
    if order == verdicts.SWAPPED:
      answers.reverse()
    rows.append({"item": pair.item, "order": order, "question": pair.question,
                 "answer_1": answers[0], "answer_2": answers[1]})
  return rows
