"""One name for the records' folder in all commands; older names still work."""

import os

import pytest

from stepdistill_jax import cli
from stepdistill_jax import t5x_command
from stepdistill_jax.evaluation import main

COMMANDS = {
    "teacher import": ([], "--output"),
    "teacher collect": (["--dataset=d", "--rows=r", "--output=c"],
                        "--records"),
    "teacher audit": ([], None),
    "data lengths": (["--dataset=d", "--teacher=t"], "--records"),
    "data cache": (["--tasks=t", "--output=c"], "--records"),
    "checkpoint export-hf": (["run", "--output=o"], None),
    "t5x": (["train"], "--tfds_data_dir"),
    "stepdistill-eval": ([], None),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_records_folder_has_one_name(command):
  needed, old_name = COMMANDS[command]
  if command == "t5x":
    parser, words = t5x_command.build_parser(), []
  elif command == "stepdistill-eval":
    parser, words = main.build_parser(), []
  else:
    parser, words = cli.build_parser(), command.split()
  given = [*words, *needed]
  assert parser.parse_args(given).records_dir is None
  for name in filter(None, ("--records_dir", old_name)):
    for flag in ([f"{name}=~/there"], [name, "~/there"]):
      assert parser.parse_args([*given, *flag]).records_dir == (
          os.path.expanduser("~/there"))
