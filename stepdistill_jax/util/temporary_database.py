"""SQLite databases that end with the process and need no clean-up."""

import sqlite3


def create(schema: str) -> sqlite3.Connection:
  """A new database: a small one stays in memory, a large one goes to disk.

  So memory does not grow with what is put into it.

  Args:
    schema: statements that make its tables.
  """
  database = sqlite3.connect("", isolation_level=None)
  database.executescript(f"""
      PRAGMA journal_mode = OFF;
      PRAGMA synchronous = OFF;
      PRAGMA cache_size = -32768;  -- kB.
      {schema};
      BEGIN;
  """)
  return database
