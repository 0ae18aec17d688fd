import io

from stepdistill_jax.teacher import progress
from stepdistill_jax.teacher.importing import formats as importing


class Terminal(io.StringIO):

  def isatty(self):
    return True


def test_rate_and_time_left():
  file, now = Terminal(), [100.0]
  with progress.shown("rows", file=file, clock=lambda: now[0]) as report:
    now[0] = 110.0
    report(640, 640 * 10)
    now[0] = 120.0
    report(1280)
    report(1300, 6400)  # Too soon.
  lines = [line.strip().removesuffix("\x1b[K")
           for line in file.getvalue().split("\r")]
  assert lines == ["", "640 of 6,400 rows, 64/s, 1:30 left",
                   "1,280 rows, 64/s", ""]


def test_nothing_without_a_terminal():
  file = io.StringIO()
  with progress.shown("rows", file=file) as report:
    assert report is None
  assert not file.getvalue()


def test_imports_tell_of_how_many(tmp_path):
  (tmp_path / "asdiv_train.jsonl").write_text("")
  (tmp_path / "svamp_test.json").write_text(
      '{"input": "a", "label": "(1)"}\n' * 3)
  (tmp_path / "test_CoT_0.json").write_text(
      '["The answer is (1).", "b", "c"]')
  calls = []
  importing.import_published(
      dataset="svamp", rows=tmp_path, outputs=tmp_path, teacher="t",
      output=tmp_path / "records", progress=lambda *numbers: calls.append(
          numbers))
  assert calls == [(1, 3), (2, 3), (3, 3)]
