"""The only place of the version: setup.py reads its line."""

__version__ = "0.1.0"
