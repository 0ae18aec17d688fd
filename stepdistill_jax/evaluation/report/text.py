"""`report.md`, and the table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any

from stepdistill_jax.evaluation.report import (
  html as html_report,
  tables as tables_lib,
)


def markdown(results: dict[str, Any], plots: Mapping[str, str]) -> str:
  """Returns `report.md`."""
  parts = ["# Evaluation", ""]
  parts += [line + "\n" for line in html_report.provenance_lines(results)]
  parts += [f"> **Warning:** {_escape(line)}\n"
            for line in tables_lib.warnings(results)]
  for table in tables_lib.all_tables(results):
    parts.append(table_markdown(table))
  parts += [f"![{_escape(text)}](plots/{name})\n"
            for name, text in plots.items()]
  return "\n".join(parts)


def table_markdown(table: tables_lib.Table) -> str:
  """A table with its title as a heading, every cell escaped."""
  lines = [f"## {_escape(table.title)}", "", _row(table.header),
           _row("---" for _ in table.header)]
  lines += [_row(row) for row in table.rows]
  if table.note:
    lines += ["", _escape(table.note)]
  return "\n".join(lines) + "\n"


def _row(cells) -> str:
  return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
  """Keeps a text from ending its cell or becoming markup."""
  text = " ".join(text.split())
  return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text) if text != "---" else text


def print_tables(results: dict[str, Any], console=None) -> None:
  """Prints accuracies, comparisons, seeds and warnings to the terminal."""
  from rich import markup
  import rich.console

  console = console or rich.console.Console()
  for table in (_narrow(tables_lib.accuracy(results)),
                _narrow(tables_lib.comparisons(results)),
                _narrow(tables_lib.seeds(results))):
    if not table.rows:
      continue
    print_table(table, console)
  for line in tables_lib.warnings(results):
    console.print(f"[yellow]warning:[/yellow] {markup.escape(line)}",
                  highlight=False)


def print_table(table: tables_lib.Table, console=None) -> None:
  """Prints one table to the terminal."""
  from rich import markup
  import rich.console
  import rich.table

  console = console or rich.console.Console()
  shown = rich.table.Table(
      title=table.title, title_justify="left", caption=table.note or None,
      caption_justify="left")
  for name in table.header:
    shown.add_column(markup.escape(name), overflow="fold",
                     no_wrap=name not in _FOLDED)
  for row in table.rows:
    shown.add_row(*(markup.escape(cell) for cell in row))
  console.print(shown)


# A terminal has 80 columns: names may be folded, and these are left out.
_FOLDED = ("system", "difference of", "method")
_LEFT_OUT = ("correct", "95% (bootstrap)", "missing", "runs", "McNemar p",
             "bootstrap p", "only first / only second")


def _narrow(table: tables_lib.Table) -> tables_lib.Table:
  kept = [i for i, name in enumerate(table.header) if name not in _LEFT_OUT]
  if "mode" in table.header:
    at = table.header.index("mode")
    if {row[at] for row in table.rows} <= {"generate"}:
      kept.remove(at)
  return tables_lib.Table(
      table.title, tuple(table.header[i] for i in kept),
      tuple(tuple(row[i] for i in kept) for row in table.rows), table.note)
