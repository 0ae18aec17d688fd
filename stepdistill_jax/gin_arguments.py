"""The arguments of commands that read gin files; imports no gin.

`gin_config.rewrite_arguments` turns --gin.NAME=VALUE into --gin_bindings.
"""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
  """Adds --gin_file, --gin_bindings and --gin_search_paths."""
  parser.add_argument(
      "--gin_file", action="append", default=[], metavar="FILE",
      help="gin file; may be repeated, later ones override")
  parser.add_argument(
      "--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'",
      help="a binding that overrides the files; --gin.NAME=VALUE is the same")
  parser.add_argument(
      "--gin_search_paths", default="", metavar="DIR,...",
      help="where gin files are looked for first")
