"""`make docs`: the site builds, and loads nothing from elsewhere."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

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


def test_search_has_what_the_pages_say(site):
  index = json.loads((site / "search/search_index.json").read_text("utf-8"))
  assert any("LEARNING_RATE_SCHEDULE" in entry["text"]
             for entry in index["docs"])
