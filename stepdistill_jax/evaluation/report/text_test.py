"""Tables in terminals of all widths."""

import io

import pytest
import rich.console

from stepdistill_jax.evaluation.report import tables, text

TABLE = tables.make("What was found", [
    {"system": "step by step base 12.5%", "n": 2, "ci": "43.0 to 57.0",
     "p": None, "by": "+36.50", "size": "248,000,000"},
    {"system": "few-shot [teacher]", "n": 1, "ci": "70.0 to 81.5", "p": None,
     "by": "-1.25", "size": "540,000,000,000"}], {
         "system": "system", "seeds": "n", "95%": "ci", "Holm p": "p",
         "differs by": "by", "parameters": "size"},
    "a note, as long as notes are. Of two lines.")


def printed(table, width):
  console = rich.console.Console(file=io.StringIO(), width=width)
  text.print_table(table, console)
  return console.file.getvalue()


@pytest.mark.parametrize("width", range(30, 101))
def test_nothing_is_cut_off(width):
  shown = printed(TABLE, width)
  assert max(map(len, shown.splitlines())) <= width
  for row in (TABLE.header, *TABLE.rows, (TABLE.note.removesuffix("."),)):
    for word in " ".join(row).replace("–", "").split():
      assert word in shown, (word, shown)
  # A number stands on one line, however narrow the terminal.
  assert "43.0 to 57.0" in shown
  assert "lines; not measured: Holm p" in " ".join(shown.split())


def test_narrow_terminals_have_lists_and_wide_ones_a_table():
  assert "┃" in printed(TABLE, 80) and "┃" not in printed(TABLE, 30)
  assert "few-shot [teacher]" in printed(TABLE, 200)
