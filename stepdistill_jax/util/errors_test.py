"""Users' mistakes end in one line and exit code 2."""

import subprocess
import sys

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.util import entry_points, errors


def test_user_error_is_one_line_and_code_2(capsys):
  @entry_points.command
  def main():
    raise errors.UserError("no such file: x")

  assert main() == errors.USER_ERROR_EXIT_CODE
  assert capsys.readouterr().err == "error: no such file: x\n"


def test_gin_s_call_stack_is_left_out(capsys):
  @entry_points.command
  def main():
    raise errors.UserError(
        "no such file: x\n  In call to configurable 'f' (<function f at 0x7f>)"
        "\n  In file \"a.gin\", line 17\n    import tasks")

  assert main() == errors.USER_ERROR_EXIT_CODE
  assert capsys.readouterr().err == "error: no such file: x\n"


def test_other_errors_keep_their_traceback():
  @entry_points.command
  def main():
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    main()


@pytest.mark.parametrize("main, code, expected", [
    ("raise errors.UserError('no such file: x')", 2, "error: no such file: x"),
    ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ("threading.Thread(target=lambda: 1 / 0).start(); busy.join()", 1,
     "error in the thread Thread-2"),
])
def test_an_error_ends_a_command_whatever_its_threads_do(main, code, expected):
  """A compilation or a pipeline of data may never end."""
  program = f"""
import threading
from stepdistill_jax.util import entry_points
from stepdistill_jax.util import errors

@entry_points.ending_process
@entry_points.command
def main():
  busy = threading.Thread(target=threading.Event().wait)
  busy.start()
  {main}

main()
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True,
                        text=True, timeout=60, check=False)
  assert done.returncode == code, done.stderr
  assert expected in done.stderr


def test_near_names_come_first():
  names = ["svamp_label_gold", "cqa_label_gold", "svamp_step_gold_palm540b"]
  assert errors.near_names("svamp_lable_gold", names)[0] == "svamp_label_gold"


def test_unknown_command_is_a_user_error(capsys):
  with pytest.raises(SystemExit) as exit_info:
    cli.main(["traim"])
  assert exit_info.value.code == errors.USER_ERROR_EXIT_CODE
  assert "traim" in capsys.readouterr().err


def test_an_error_has_one_line_and_a_user_error_keeps_its_own():
  def message_of(error):
    with pytest.raises(errors.UserError) as raised, errors.reported(
        Exception, lambda error: f"outer: {error}"):
      raise error
    return raised.value

  assert str(message_of(OSError("full"))) == "outer: full"
  inner = errors.InvalidValue("inner")
  assert message_of(inner) is inner
