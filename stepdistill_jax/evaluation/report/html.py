"""`report.html`: one file, no resource from elsewhere, all texts escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import html
import json
import pathlib
import string
from typing import Any

from stepdistill_jax.evaluation.report import tables as tables_lib

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
# A page with more examples than this opens slowly; the rest is in
# examples.jsonl.
MOST_EXAMPLES = 6_000
# Likewise a text with more characters: longer than any question of the
# benchmarks, and than a student's longest answer.
MOST_CHARACTERS = 20_000


def render(
    results: dict[str, Any], rows: Sequence[dict[str, Any]],
    plots: Mapping[str, str], plots_folder: pathlib.Path,
    most_examples: int = MOST_EXAMPLES,
) -> str:
  """Returns the page.

  Args:
    results: as in `results.json`.
    rows: as in `examples.jsonl`.
    plots: file name to description.
    plots_folder: where the PNG files are.
    most_examples: how many examples the browser holds, errors first.
  """
  shown = _choose(rows, most_examples)
  note = ("" if len(shown) == len(rows) else
          f"{len(shown):,} of {len(rows):,} examples are here, errors first; "
          "all of them are in examples.jsonl.")
  title = "Evaluation: " + ", ".join(
      dict.fromkeys(s["benchmark"] for s in results["systems"]))
  return string.Template(_template("report.html")).substitute(
      title=html.escape(title), css=_template("report.css"),
      head=_head(results),
      tables="\n".join(
          table_html(t) for t in tables_lib.all_tables(results)),
      plots="\n".join(
          _figure(plots_folder / name, text) for name, text in plots.items()),
      browser_note=html.escape(note),
      examples=json_for_script([_shorten(row) for row in shown]),
      script=_template("report.js"))


def _template(name: str) -> str:
  return (_TEMPLATES / name).read_text(encoding="utf-8")


def _choose(rows, most):
  """Errors first, evenly over the results, at most `most` rows."""
  if len(rows) <= most:
    return list(rows)
  groups: dict[tuple, list] = {}
  for row in sorted(rows, key=lambda row: row["correct"]):
    groups.setdefault(
        (row["benchmark"], row["system"], row["mode"]), []).append(row)
  share = max(1, most // len(groups))
  return [row for group in groups.values() for row in group[:share]]


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
  """The row with its over-long texts cut, which they say at their ends."""
  return {
      name: (f"{value[:MOST_CHARACTERS]}… [{len(value):,} characters; all of "
             "them are in examples.jsonl]")
      if isinstance(value, str) and len(value) > MOST_CHARACTERS else value
      for name, value in row.items()}


def json_for_script(value: Any) -> str:
  """JSON that cannot end the script element it stands in.

  >>> json_for_script("</script>")
  '"\\\\u003c/script\\\\u003e"'
  """
  text = json.dumps(value, ensure_ascii=True)
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return text


def table_html(table: tables_lib.Table) -> str:
  """A table as markup, every cell escaped."""
  header = "".join(
      f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
  rows = "\n".join(
      "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
      + "</tr>" for row in table.rows)
  note = (f'<p class="note">{html.escape(table.note)}</p>'
          if table.note else "")
  return (
      f'<div class="scroll" tabindex="0" role="region" '
      f'aria-label="{html.escape(table.title)}"><table>\n'
      f"<caption>{html.escape(table.title)}</caption>\n"
      f"<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
      f"{note}</div>")


def _head(results: dict[str, Any]) -> str:
  lines = [
      f'<p class="meta">{html.escape(line)}</p>'
      for line in provenance_lines(results)]
  lines += [
      f'<p class="warning">{html.escape(line)}</p>'
      for line in tables_lib.warnings(results)]
  return "\n".join(lines)


def provenance_lines(results: dict[str, Any]) -> list[str]:
  """When, by what and on which data a call was scored."""
  data = "; ".join(
      f"{name} {d['split']}: {d['n']} examples, fingerprint "
      f"{d['fingerprint']}" for name, d in results["data"].items())
  return [
      f"Scored {results['created']} by stepdistill_jax "
      f"{results['code_version']}.", f"Data: {data}."]


def _figure(path: pathlib.Path, text: str) -> str:
  encoded = base64.b64encode(path.read_bytes()).decode("ascii")
  return (f'<figure><img alt="{html.escape(text)}" '
          f'src="data:image/png;base64,{encoded}">'
          f"<figcaption>{html.escape(text)}</figcaption></figure>")
