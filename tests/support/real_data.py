"""What tests share."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


def find_real_data() -> pathlib.Path | None:
  """The folder of real data, or None.

  `$STEPDISTILL_DATA`, else `../shared/data` beside the checkout. In tests the
  variable has another name (see conftest.py), so that nothing else finds it.
  """
  configured = os.environ.get("STEPDISTILL_TEST_DATA") or os.environ.get(
      "STEPDISTILL_DATA")
  folder = (pathlib.Path(configured) if configured
            else _CHECKOUT.parent / "shared" / "data")
  return folder if (folder / "svamp").is_dir() else None


def real_data_dir() -> pathlib.Path:
  """The folder of real data; skips the calling test where there is none."""
  folder = find_real_data()
  if folder is None:
    pytest.skip("the real data is not here; set STEPDISTILL_DATA to its "
                "folder to run this test")
  return folder


def write_tiny_vocabulary(path: pathlib.Path) -> pathlib.Path:
  """Writes a SentencePiece model with T5's special ids; takes 0.1 s.

  Every text of ASCII letters, digits and signs has pieces in it.
  """
  import sentencepiece

  characters = "".join(chr(code) for code in range(33, 127))
  sentences = [f"{a}{b} the answer is" for a in characters for b in "aeiou1"]
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=file, vocab_size=200,
        hard_vocab_limit=False, character_coverage=1.0, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2)
  return path


def find_browser() -> str:
  """Chromium's path; skips the calling test where there is none."""
  programs = ("chromium", "chromium-browser", "google-chrome", "chrome")
  program = next(filter(None, map(shutil.which, programs)), None)
  if program is None:
    pytest.skip(f"none of {', '.join(programs)} is on PATH")
  return program


def open_in_browser(
    page: pathlib.Path, *options: str) -> tuple[str, list[str]]:
  """Opens a page in Chromium, without a window; skips where there is none.

  Args:
    page: an HTML file.
    *options: further ones of Chromium.

  Returns:
    The document after its scripts have run, and what the console shows:
    messages of scripts, their errors, and what the page's policy refused.
  """
  program = find_browser()
  with tempfile.TemporaryDirectory() as profile:
    process = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu",
         "--disable-quic", "--no-first-run", "--disable-component-update",
         "--disable-background-networking", "--disable-sync",
         f"--user-data-dir={profile}", "--enable-logging=stderr",
         "--virtual-time-budget=8000", *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
  return process.stdout, [
      line for line in process.stderr.splitlines() if ":CONSOLE" in line]


# Chromium's options for a page as it is seen.
LOOKS = {
    "light": ("--blink-settings=preferredColorScheme=1",),
    "dark": ("--blink-settings=preferredColorScheme=0",),
    "narrow": ("--window-size=500,900",)}
_ASK_AXE = """
axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const pre = document.createElement("pre");
  pre.id = "axe-found";
  pre.textContent = JSON.stringify({
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    violations: found.violations.map(v => v.id + ": " + v.help + ": " +
      v.nodes.map(n => n.target + " " + n.failureSummary).join("; "))});
  document.body.append(pre);
});
"""


def accessibility_problems(page: pathlib.Path) -> list[str]:
  """What axe-core finds wrong with a page, light, dark and narrow.

  Also a page that is wider than its window.
  """
  import html
  import importlib.util
  import json

  spec = importlib.util.find_spec("axe_playwright_python")
  if spec is None or spec.origin is None:
    pytest.skip("axe-playwright-python, which has axe-core, is not installed")
  axe = pathlib.Path(spec.origin).with_name("axe.min.js").read_text("utf-8")
  text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "",
                page.read_text("utf-8"))
  found = []
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "page.html"
    copy.write_text(text.replace("</body>", (
        f"<script>{axe}</script><script>{_ASK_AXE}</script></body>")), "utf-8")
    for look, options in LOOKS.items():
      shown, _ = open_in_browser(copy, *options)
      answer = re.search(r'<pre id="axe-found">(.*?)</pre>', shown, re.DOTALL)
      assert answer, f"axe-core did not end on {page}"
      result = json.loads(html.unescape(answer[1]))
      assert result["dark"] == (look == "dark")
      found += [f"{look}: {line}" for line in result["violations"]]
      if result["wide"] > 0:
        found.append(f"{look}: wider than the window by {result['wide']} px")
  return found


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
  """Counts programs that JAX compiles, or fetches compiled, meanwhile.

  Yields:
    A list that grows by an entry with each program.
  """
  import jax
  programs = []
  active = True

  def listen(event: str, unused_seconds: float, **unused_metadata) -> None:
    if active and event.endswith("backend_compile_duration"):
      programs.append(event)

  # JAX has no public way to take a listener away: it falls silent instead.
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield programs
  finally:
    active = False
