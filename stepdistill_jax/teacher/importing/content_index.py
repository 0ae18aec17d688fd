"""Completions by their inputs, for joins by content; kept on disk."""

from collections.abc import Iterator

from stepdistill_jax.util import temporary_database


class ContentIndex:
  """Maps the hash of an input to the first completion seen for it."""

  def __init__(self):
    self._database = temporary_database.create(
        "CREATE TABLE completions (hash TEXT PRIMARY KEY, output TEXT, "
        "place TEXT, used INTEGER) WITHOUT ROWID")

  def add(self, hashed_input: str, output: str, where: str) -> bool:
    """Adds a completion; False if its input has one already."""
    cursor = self._database.execute(
        "INSERT OR IGNORE INTO completions VALUES (?, ?, ?, 0)",
        (hashed_input, output, where))
    return cursor.rowcount == 1

  def find(self, hashed_input: str) -> tuple[str, str] | None:
    """(completion, where it was) of an input, or None; marks it as used."""
    row = self._database.execute(
        "UPDATE completions SET used = 1 WHERE hash = ? "
        "RETURNING output, place", (hashed_input,)).fetchone()
    return row

  def unused(self) -> Iterator[tuple[str, str]]:
    """(completion, where it was) of those that `find` never gave."""
    yield from self._database.execute(
        "SELECT output, place FROM completions WHERE NOT used ORDER BY place")

  def close(self) -> None:
    self._database.close()
