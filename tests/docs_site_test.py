"""`make docs`: the site builds, and loads nothing from elsewhere."""

import functools
import http.server
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from tests.support import real_data

pytestmark = pytest.mark.interop
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory):
  pytest.importorskip("material", reason="needs mkdocs-material")
  folder = tmp_path_factory.mktemp("site")
  built = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
       f"--site-dir={folder}"], cwd=ROOT, capture_output=True, text=True,
      check=False)
  assert built.returncode == 0, built.stderr
  return folder


def test_every_page_is_in_the_site(site):
  pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
  assert pages <= {path.stem for path in site.glob("*.html")}
  # Not only built: the navigation has it.
  text = (site / "index.html").read_text("utf-8")
  for page in pages:
    assert f'href="{page}.html"' in text, page


def test_it_loads_nothing_from_elsewhere(site):
  for path in site.rglob("*.html"):
    text = path.read_text("utf-8")
    for tag in re.findall(r"<(?:script|link|img)[^>]*>", text):
      loaded = re.search(r'(?:src|href)="(https?:[^"]*)"', tag)
      assert not loaded or 'rel="canonical"' in tag, (path.name, tag)


def test_search_finds_a_setting_and_asks_nobody_else(site):
  sync_api = pytest.importorskip("playwright.sync_api")
  handler = functools.partial(_Quiet, directory=str(site))
  with (http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_api.sync_playwright() as playwright):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = playwright.chromium.launch(
        executable_path=real_data.find_browser(), args=["--no-sandbox"])
    tab, asked = browser.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    address = f"http://127.0.0.1:{server.server_port}/"
    tab.goto(f"{address}index.html")
    tab.keyboard.press("/")
    tab.keyboard.type("WARMUP_STEPS")
    tab.wait_for_selector(".md-search-result__item")
    found = tab.locator(".md-search-result__item h1").all_inner_texts()
    browser.close()
    server.shutdown()
  assert {"Methods", "Recipes: what to train, and how to change it"} <= {
      *found}
  assert all(url.startswith(address) for url in asked)


class _Quiet(http.server.SimpleHTTPRequestHandler):
  """Serves a folder, and logs nothing."""

  def log_message(self, *unused_args):
    pass
