"""--help, --version and mistakes in the arguments of all commands."""

import argparse
import subprocess
import sys

import pytest

import stepdistill_jax
from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation import command as eval_main
from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import argument_parser

MAINS = {"stepdistill": cli.main, "t5x": t5x_command.main,
         "stepdistill-eval": eval_main.main}
# Must not be imported before a command knows that it needs them.
HEAVY = ("jax", "tensorflow", "seqio", "gin", "torch", "transformers", "numpy")


def ends_at_once(command: str) -> int:
  name, *arguments = command.split()
  try:
    return MAINS[name](arguments)
  except SystemExit as end:
    return end.code


def all_commands(parser: argparse.ArgumentParser):
  yield parser.prog
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for subparser in argument_parser.subcommands(action):
        yield from all_commands(subparser)


def test_each_command_has_a_version(capsys):
  for name in ("stepdistill-eval", "t5x", "t5x train", "t5x export",
               *all_commands(cli.build_parser())):
    assert ends_at_once(f"{name} --version") == 0
    assert capsys.readouterr().out == f"{name} {stepdistill_jax.__version__}\n"


@pytest.mark.parametrize("command, line", [
    ("stepdistill teacher import --rows",
     "argument --rows: expected one argument; see stepdistill teacher import"),
    ("stepdistill teacher import --outptus=x",
     "unknown argument '--outptus'; did you mean: --outputs"),
    ("stepdistill teacher import --outptus=x",
     "? see stepdistill teacher import"),
    ("stepdistill checkpoint inspect a b",
     "'b' is one argument too many; see stepdistill checkpoint inspect"),
    ("stepdistill checkpoint import-t5x a --output=b --stpe=1",
     "did you mean: --step"),
    ("stepdistill data lengths --dataset=a --teacher=b --recrods=c",
     "see stepdistill data lengths"),
    ("stepdistill plan --topology=v5e-8 --qiuck", "see stepdistill plan"),
    ("stepdistill techer", "did you mean: teacher"),
    ("stepdistill audit", "did you mean `stepdistill teacher audit`? see "
     "stepdistill"),
    ("stepdistill checkpoint export-hf a --output=b --results=nowhere.json",
     "argument --results: there is no file or folder nowhere.json"),
    ("stepdistill checkpoint export-hf a --output=b --records_dir=nowhere",
     "argument --records_dir: there is no file or folder nowhere"),
    ("stepdistill data show a --html=nowhere/page.html",
     "argument --html: there is no folder nowhere; make it first"),
    ("stepdistill data show a --html=..", ".. is a folder; name a file in it"),
    ("stepdistill-eval --limit=0", "argument --limit: expected a whole number"),
    ("stepdistill-eval --limit=x", "of at least 1, got x"),
    ("t5x train --bogus", "see t5x train"),
    ("t5x train", "see t5x train"),
    ("t5x tarin", "see t5x"),
    ("stepdistill-eval --chekcpoint=a", "did you mean: --checkpoint"),
    ("stepdistill-eval --benchmark=svamp", "did you mean: --benchmarks"),
    ("stepdistill-eval", "see stepdistill-eval"),
    ("stepdistill plan --gin.A", "expected --gin.NAME=VALUE"),
    ("stepdistill-eval --gin.A", "expected --gin.NAME=VALUE"),
])
def test_mistakes_name_the_help_of_their_own_command(capsys, command, line):
  assert ends_at_once(command) == 2
  output = capsys.readouterr()
  assert output.out == ""
  error, = output.err.splitlines()
  assert line in error
  if "see " in line:
    assert error.endswith(line.rpartition("see ")[2] + " --help")


def test_help_of_all_commands_imports_nothing_heavy():
  commands = ["stepdistill-eval", "t5x", "t5x train",
              *all_commands(cli.build_parser())]
  assert len(commands) >= 20
  program = (
      "import contextlib, io, sys\n"
      "from stepdistill_jax.util import argument_parser_test as test\n"
      f"for command in {commands}:\n"
      "  with contextlib.redirect_stdout(io.StringIO()) as out:\n"
      "    assert test.ends_at_once(command + ' --help') == 0\n"
      "  assert 'usage: ' in out.getvalue(), command\n"
      "print([name for name in test.HEAVY if name in sys.modules])\n")
  done = subprocess.run(
      [sys.executable, "-c", program], capture_output=True, text=True,
      check=True)
  assert done.stdout == "[]\n"


WITH_RECORDS = {
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


@pytest.mark.parametrize("command", WITH_RECORDS)
def test_the_records_folder_has_one_name(command, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "there").mkdir()
  needed, old_name = WITH_RECORDS[command]
  if command == "t5x":
    parser, words = t5x_command.build_parser(), []
  elif command == "stepdistill-eval":
    parser, words = eval_main.build_parser(), []
  else:
    parser, words = cli.build_parser(), command.split()
  given = [*words, *needed]
  assert parser.parse_args(given).records_dir is None
  for name in filter(None, ("--records_dir", old_name)):
    for flag in ([f"{name}=~/there"], [name, "~/there"]):
      assert parser.parse_args([*given, *flag]).records_dir == (
          str(tmp_path / "there"))
