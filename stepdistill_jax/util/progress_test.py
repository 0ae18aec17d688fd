import io

import rich.console

from stepdistill_jax.util import progress


def shown(console, now):
  return progress.Bars("rows", console=console, clock=lambda: now[0])


def test_rate_and_time_left():
  file, now = io.StringIO(), [100.0]
  console = rich.console.Console(file=file, force_terminal=True, width=100)
  with shown(console, now) as bars:
    now[0] = 110.0
    bars.update(640, 640 * 10)
    bars._bars.refresh()
    now[0] = 120.0
    bars.update(1280)
    bars.update(1300, 6400)  # Too soon.
    bars._bars.refresh()
  assert "640 of 6,400 rows, 64/s, 1m 30s left" in file.getvalue()
  assert "1,280 rows, 64/s" in file.getvalue()
  assert "1,300" not in file.getvalue()


def test_a_line_every_minute_without_a_terminal():
  file, now = io.StringIO(), [0.0]
  console = rich.console.Console(file=file)
  with shown(console, now) as bars:
    for second in range(150):
      now[0] = second
      bars.update(10 * second, 6000)
  assert file.getvalue().splitlines() == [
      "600 of 6,000 rows, 10/s, 9m 00s left",
      "1,200 of 6,000 rows, 10/s, 8m 00s left"]


def test_works_begin_their_own_counts():
  file, now = io.StringIO(), [0.0]
  console = rich.console.Console(file=file, force_terminal=True, width=100)
  with shown(console, now) as bars:
    for second in range(1, 5):
      now[0] = second
      bars.update(100 + second, 200, "one")
      bars.update(second, None, "two", note="thinking")
    bars._bars.refresh()
  # From the first call on, so three in three seconds.
  assert "104 of 200 rows, 1/s, 1m 36s left" in file.getvalue()
  assert "thinking" in file.getvalue()


def test_quiet_shows_nothing():
  file = io.StringIO()
  with progress.Bars(console=rich.console.Console(
      file=file, force_terminal=True), quiet=True) as bars:
    bars.update(1, 2)
  assert not file.getvalue().strip("\x1b[?25lh\n")
