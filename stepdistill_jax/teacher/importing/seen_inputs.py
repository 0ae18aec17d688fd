"""Which inputs were seen before: repeated rows, rows in several splits."""

from stepdistill_jax.util import temporary_database

# SQLite's integers are signed, our hashes are not.
_TWO_63, _TWO_64 = 2**63, 2**64


class SeenInputs:
  """Counts inputs by their hash in each split."""

  def __init__(self):
    self._database = temporary_database.create(
        "CREATE TABLE seen (hash INTEGER, split TEXT, n INTEGER, "
        "PRIMARY KEY (hash, split)) WITHOUT ROWID")

  def add(self, hashed_input: str, split: str) -> int:
    """Counts an input; returns its occurrence in its split, from 1.

    Args:
      hashed_input: 16 hex digits, `records.input_hash(inputs)`.
      split: name of the split.
    """
    number = int(hashed_input, 16)
    if number >= _TWO_63:
      number -= _TWO_64
    row = self._database.execute(
        "INSERT INTO seen VALUES (?, ?, 1) ON CONFLICT (hash, split) "
        "DO UPDATE SET n = n + 1 RETURNING n", (number, split)).fetchone()
    return row[0]

  def repeated(self) -> dict[str, int]:
    """Split -> number of rows whose inputs occurred before in the split."""
    return dict(self._database.execute(
        "SELECT split, SUM(n - 1) FROM seen GROUP BY split ORDER BY split"))

  def leaked(self) -> dict[str, int]:
    """`"train & test"` -> number of inputs that are in both splits."""
    return {f"{a} & {b}": n for a, b, n in self._database.execute(
        "SELECT x.split, y.split, COUNT(*) FROM seen x JOIN seen y "
        "ON x.hash = y.hash AND x.split < y.split "
        "GROUP BY x.split, y.split ORDER BY x.split, y.split")}

  def close(self) -> None:
    self._database.close()
