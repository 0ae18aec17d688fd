"""Reports as Markdown, and their tables in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

from stepdistill_jax.evaluation.report import tables as tables_lib


def markdown(
    title: str, lines: Iterable[str], tables: Iterable[tables_lib.Table],
    figures: Mapping[str, str]) -> str:
  """Returns a report in Markdown.

  Args:
    title: its heading.
    lines: paragraphs in Markdown.
    tables: every cell is escaped.
    figures: path to description.
  """
  return "\n".join([
      f"# {title}", "", *(line + "\n" for line in lines),
      *map(_table, tables),
      *(f"![{escape(text)}]({path})\n" for path, text in figures.items())])


def _table(table: tables_lib.Table) -> str:
  lines = [f"## {escape(table.title)}", "", _row(table.header),
           "|" + " --- |" * len(table.header)]
  lines += [_row(row) for row in table.rows]
  if table.note:
    lines += ["", escape(table.note)]
  return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
  return "| " + " | ".join(map(escape, cells)) + " |"


def escape(text: str) -> str:
  """Keeps a string from ending its cell or becoming markup."""
  return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))


# A terminal has 80 columns: texts are folded, and these are left out.
_LEFT_OUT = ("correct", "95% (bootstrap)", "missing", "runs", "McNemar p",
             "bootstrap p", "only first / only second", "rouge1", "rouge2",
             "rouge1_mean", "rouge2_mean")


def print_tables(results: dict[str, Any], console=None) -> None:
  """Prints accuracies, comparisons, seeds and warnings to the terminal."""
  from rich import markup
  import rich.console

  console = console or rich.console.Console()
  for table in (tables_lib.accuracy(results),
                *tables_lib.texts(results, intervals=False),
                tables_lib.comparisons(results),
                tables_lib.seeds(results)):
    columns = dict(zip(table.header, zip(*table.rows)))
    usual = [name for name, value in (("mode", "generate"),
                                      ("metric", "accuracy"))
             if {*columns.get(name, ())} <= {value}]
    if table.rows:
      print_table(without(table, (*_LEFT_OUT, *usual)), console)
  for line in tables_lib.warnings(results):
    console.print(f"[yellow]warning:[/yellow] {markup.escape(line)}",
                  highlight=False)


def without(table: tables_lib.Table, names: Sequence[str], title: str = ""
            ) -> tables_lib.Table:
  """The table without the columns of these names."""
  return table.columns([i for i, name in enumerate(table.header)
                        if name not in names], title)


def print_table(table: tables_lib.Table, console=None) -> None:
  """Prints one table to the terminal, numbers to the right.

  Columns in which nothing is measured are named below it; rows that a terminal
  is too narrow for are printed as lists.
  """
  from rich import markup
  import rich.console
  import rich.table

  console = console or rich.console.Console()
  empty = [name for name, *cells in zip(table.header, *table.rows)
           if name and {*cells} <= {"–", "not measured"}]
  note = table.note
  if empty:
    note = "; ".join(filter(None, (
        note.removesuffix("."), "not measured: " + ", ".join(empty))))
  table = without(table, empty)
  shown = rich.table.Table(
      title=table.title, title_justify="left", caption=note or None,
      caption_justify="left")
  for name, *cells in zip(table.header, *table.rows):
    numbers = all(cell[:1] in "0123456789+-–<" for cell in cells)
    # Numbers are not folded, texts and headers between words.
    if len(name) > max(map(len, cells)):
      name = "\n".join(name.split())
    words = [len(word) for cell in (name, *cells) for word in cell.split()]
    least = [min(max(words, default=0), 13),
             *(len(cell) for cell in cells if numbers)]
    shown.add_column(markup.escape(name), overflow="fold", no_wrap=numbers,
                     justify="right" if numbers else "left",
                     min_width=max(least))
  for row in table.rows:
    shown.add_row(*(markup.escape(cell) for cell in row))
  # With a rule before each column and behind the last, and spaces beside them.
  if 1 + sum(3 + (column.min_width or 0)
             for column in shown.columns) <= console.width:
    console.print(shown)
    return
  console.print(table.title, style="italic", markup=False)
  for row in table.rows:
    lines = rich.table.Table.grid("", "", padding=(0, 2))
    for name, cell in zip(table.header, row):
      lines.add_row(markup.escape(name), markup.escape(cell))
    console.print(lines, "")
  console.print(note, markup=False, highlight=False)
