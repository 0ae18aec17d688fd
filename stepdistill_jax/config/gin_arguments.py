"""The arguments of commands that read gin files; imports no gin."""

import argparse
from collections.abc import Sequence

from stepdistill_jax.util import argument_parser, errors


def paths(text: str) -> list[str]:
  """The type of arguments that are several paths with commas between them."""
  return [path for path in text.split(",") if path]


def add(parser: argparse.ArgumentParser) -> None:
  """Adds --gin_file, --gin_bindings and --gin_search_paths."""
  add = parser.add_argument
  add("--gin_file", action="append", default=[], metavar="FILE",
      type=argument_parser.local_or_remote,
      help="gin file; may be repeated, later ones override")
  add("--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'",
      type=argument_parser.local_or_remote,
      help="a binding that overrides the files; --gin.NAME=VALUE is the same")
  add("--gin_search_paths", default="", metavar="DIR,...", type=paths,
      help="where gin files are looked for first")


def rewrite(args: Sequence[str]) -> list[str]:
  """Rewrites `--gin.NAME=VALUE` to `--gin_bindings=NAME = VALUE`."""

  def rewrite_one(arg: str) -> str:
    if not arg.startswith("--gin."):
      return arg
    name, equals, value = arg.removeprefix("--gin.").partition("=")
    if not equals:
      raise errors.InvalidValue(
          f"{arg}: expected --gin.NAME=VALUE, such as --gin.TRAIN_STEPS=100")
    return f"--gin_bindings={name} = {value}"

  return [rewrite_one(arg) for arg in args]
