"""A path that is not there is called missing, by every option of every command.

Likewise a path in an object store where only local ones work.
"""

import argparse
import re

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation import command as eval_main
from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import argument_parser, argument_parser_test, errors
from tests.support import students as evaluation_testing

NOWHERE = "/nowhere/x"
MISSING = re.compile(
    r"there is no (such )?(file|folder)|does not exist|No such file|"
    r"was not found|unknown gin file")
_COLLECT = ("stepdistill teacher collect --dataset=svamp --output={tmp}/cache "
            "--model=m --base_url=http://localhost:1/v1 ")
_STUDENT = ("--gin_file=gin/models/t5_1_1.gin "
            "--gin_file=gin/models/t5_1_1_tiny.gin ")
_TASK = (" --gin_file=gin/datasets/svamp.gin "
         "--gin_file=gin/methods/step_by_step.gin --tfds_data_dir={records}")
# (command and option) -> arguments with a path that is not there.
READ = {
    "teacher import --rows": "stepdistill teacher import --dataset=svamp "
    "--teacher=a --rows={x} --outputs={records}",
    "teacher import --outputs": "stepdistill teacher import --format=cache "
    "--outputs={x}",
    "teacher import --raw": "stepdistill teacher import --format=llama3_cot "
    "--dataset=svamp --teacher=a --rows={records} --outputs={x} --raw={x}",
    "teacher import --vocabulary": "stepdistill teacher import "
    "--vocabulary={x}",
    "teacher prompt --rows": "stepdistill teacher prompt --dataset=svamp "
    "--rows={x}",
    "teacher collect --rows": _COLLECT + "--rows={x}",
    "teacher collect --tokenizer": _COLLECT + "--rows={rows} --dry_run "
    "--tokenizer={x}",
    "teacher collect --batch_read": _COLLECT + "--rows={rows} "
    "--batch_read={x}",
    "teacher audit DIR": "stepdistill teacher audit {x}",
    "teacher audit --vocabulary": "stepdistill teacher audit {records} "
    "--dataset=svamp --vocabulary={x}",
    "data lengths --records_dir": "stepdistill data lengths --dataset=svamp "
    "--teacher=palm540b --records={x}",
    "data lengths --vocabulary": "stepdistill data lengths --dataset=svamp "
    "--teacher=palm540b --records={records} --vocabulary={x}",
    "data cache --records_dir": "stepdistill data cache "
    "--tasks=svamp_label_gold --output={tmp}/cached --records={x}",
    "checkpoint import-hf FOLDER|NAME": "stepdistill checkpoint import-hf {x} "
    "--output={tmp}/o",
    "checkpoint export-hf CHECKPOINT": "stepdistill checkpoint export-hf {x} "
    "--output={tmp}/o",
    **{f"checkpoint export-hf --{option}": "stepdistill checkpoint export-hf a "
       f"--output={{tmp}}/o --{option}={{x}}"
       for option in ("results", "tokenizer", "records_dir")},
    "data list --records_dir": "stepdistill data list --records_dir={x}",
    "data show --gin_file": "stepdistill data show --gin_file={x}",
    "data show --records_dir": "stepdistill data show svamp_label_gold "
    "--records_dir={x}",
    "data show --tokenizer": "stepdistill data show svamp_label_gold "
    "--records_dir={records} --tokenizer={x}",
    **{f"judge --{option}": f"stepdistill judge --output={{tmp}}/j --{option}="
       "{x}" for option in ("first", "second", "questions")},
    "judge --scores": "stepdistill judge --output={tmp}/j --names=a,b "
    "--scores={x}",
    "judge --verdicts": "stepdistill judge {pairs} --output={tmp}/j "
    "--verdicts={x}",
    "scorecard --scores": "stepdistill scorecard --output={tmp}/c "
    "--scores={x}",
    "scorecard --judged": "stepdistill scorecard --output={tmp}/c "
    "--scores={tmp} --judged={x}",
    "study FILE|NAME": "stepdistill study {x}",
    "study --records_dir": "stepdistill study table1 --dry_run "
    "--records_dir={x}",
    "predict --records_dir": "stepdistill predict a b --records_dir={x}",
    "checkpoint import-t5x CHECKPOINT": "stepdistill checkpoint import-t5x {x} "
    "--output={tmp}/o",
    "checkpoint inspect PATH": "stepdistill checkpoint inspect {x}",
    "checkpoint verify PATH": "stepdistill checkpoint verify {x}",
    "report RUN": "stepdistill report {x} --output={tmp}/report",
    "stepdistill-eval --checkpoint": "stepdistill-eval --json --checkpoint={x}",
    "stepdistill-eval --checkpoint STEP": "stepdistill-eval --json "
    "--checkpoint={x}/checkpoint_5",
    "stepdistill-eval --hf": "stepdistill-eval --json --hf={x}",
    "stepdistill-eval --predictions": "stepdistill-eval --json "
    "--predictions={x} --records_dir={records}",
    "stepdistill-eval --teacher": "stepdistill-eval --json --teacher={x}",
    "stepdistill-eval --records_dir": "stepdistill-eval --json --teacher=a "
    "--records_dir={x}",
    "stepdistill-eval --embeddings": "stepdistill-eval --json --teacher=a "
    "--embeddings={x}",
    "stepdistill-eval --gin_file": "stepdistill-eval --json --teacher=a "
    "--gin_file={x}",
    "t5x --gin_file": "t5x train --gin_file={x}",
    "t5x --tfds_data_dir": "t5x train "
    "--gin_file=gin/recipes/svamp_step_by_step.gin --tfds_data_dir={x} "
    "--gin.MODEL_DIR='{tmp}/run'",
    "t5x INITIAL_CHECKPOINT_PATH": "t5x train "
    "--gin_file=tests/support/testing.gin --gin.TRAIN_STEPS=2 "
    "--gin.MODEL_DIR='{tmp}/run' "
    "--gin.INITIAL_CHECKPOINT_PATH='{x}/checkpoint_7'",
    "t5x eval CHECKPOINT_PATH": "t5x eval " + _STUDENT
    + "--gin.CHECKPOINT_PATH='{x}/checkpoint_7' --gin.EVAL_OUTPUT_DIR='{tmp}/e'"
    " --gin_file=gin/runs/eval.gin" + _TASK,
    "t5x infer CHECKPOINT_PATH": "t5x infer " + _STUDENT
    + "--gin.CHECKPOINT_PATH='{x}/checkpoint_7' "
    "--gin.INFER_OUTPUT_DIR='{tmp}/e' --gin_file=gin/runs/infer.gin" + _TASK,
}
# Written, not read; or of a command that this machine may not have; or looked
# at late, on the way of what another option has.
OTHERS = {
    "teacher import --output", "teacher import --records_dir",
    "teacher collect --output", "teacher collect --records_dir",
    "teacher collect --records", "teacher collect --batch_write",
    "teacher audit --html", "teacher audit --records_dir",
    "data cache --output", "data lengths --records",
    "data cache --records", "checkpoint import-hf --output",
    "checkpoint export-hf --output", "checkpoint import-t5x --output",
    "predict --output", "report --output", "data show --html",
    "data show --gin_search_paths", "judge --output", "judge --export_sheet",
    "judge --tokenizer", "scorecard --output",
    "study --output", "study --write_commands",
    "quickstart --output_dir", "stepdistill-eval --output",
    "stepdistill-eval --export_inputs", "plan --gin_file",
    "plan --gin_search_paths", "t5x --gin_search_paths", "t5x --records_dir",
    "t5x --seqio_additional_cache_dirs",
}
_PATHS = re.compile(r"\b(DIR|FILE|PATH|RUN|CHECKPOINT|FOLDER|CACHE)\b")


def path_options(parser: argparse.ArgumentParser):
  """Yields (command and option, action) of all arguments that are paths."""
  command = parser.prog.removeprefix("stepdistill ")
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for subparser in argument_parser.subcommands(action):
        yield from path_options(subparser)
    elif _PATHS.search(str(action.metavar)):
      name = (action.option_strings or [action.metavar])[-1]
      yield f"{command} {name}", action


ALL = {name: action for parser in (
    cli.build_parser(), t5x_command.build_parser(), eval_main.build_parser())
       for name, action in path_options(parser)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  tmp = tmp_path_factory.mktemp("paths")
  records = tmp / "records"
  evaluation_testing.write_records(records)
  rows = tmp / "rows.jsonl"
  rows.write_text('{"Body": "Two pears.", "Question": "How many?", '
                  '"Equation": "( 1.0 + 1.0 )", "Answer": 2.0, "ID": "1"}\n')
  pairs = tmp / "pairs.jsonl"
  pairs.write_text('{"question": "q", "first": "a", "second": "b"}\n')
  return {"x": NOWHERE, "pairs": pairs, "tmp": tmp, "records": records,
          "rows": rows}


@pytest.fixture(autouse=True)
def _vocabulary(folders, monkeypatch):
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      folders["records"] / evaluation_testing.VOCABULARY))


def one_line(capsys, command: str) -> str:
  assert argument_parser_test.ends_at_once(command) == (
      errors.USER_ERROR_EXIT_CODE)
  output = capsys.readouterr()
  lines = [line for line in output.err.splitlines()
           if line.startswith("error: ")]
  # A run's first lines say what it is, before what is wrong.
  rest = [line for line in output.err.splitlines() if line not in lines]
  assert len(lines) == 1, output.err
  assert all(line.startswith("t5x ") for line in rest), output.err
  return lines[0]


def test_all_paths_are_in_a_table():
  assert set(ALL) <= {*READ, *OTHERS}


@pytest.mark.parametrize("name", READ)
def test_missing_is_called_missing(capsys, folders, name):
  line = one_line(capsys, READ[name].format(**folders))
  assert MISSING.search(line), line
  assert NOWHERE in line
  assert "damaged" not in line


@pytest.mark.parametrize("name", [
    name for name, action in ALL.items()
    if action.type is not argument_parser.local_or_remote])
def test_what_must_be_local_says_so(capsys, tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  command, _, option = name.rpartition(" ")
  program = command if command in ("t5x", "stepdistill-eval") else (
      f"stepdistill {command}")
  value = (f"{option}=gs://bucket/x" if option.startswith("-")
           else "gs://bucket/x")
  line = one_line(capsys, f"{program} {value}")
  assert "must be a local path, got gs://bucket/x; copy it" in line
  assert not list(tmp_path.iterdir())
