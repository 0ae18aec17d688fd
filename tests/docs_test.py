"""The commands of the README and of docs/*.md, run as a reader would run them.

The blocks of a page run in order, in one shell; the pages one after the other
in one folder, which has what they say one needs:

| block | what happens |
|---|---|
| `sh`, `python` | runs; it must succeed |
| `gin` | is parsed behind a recipe, by `t5x train --dry_run` |
| `text`, behind one of these | each of its lines is in what that one printed |

A block that cannot run here has `<!-- not run: REASON -->` before it, which
no reader of the page sees. Blocks of other languages are files and figures.
What would take long is made shorter by `_SHORTER`, by fewer and smaller steps
(`t5x`) and by the smallest quickstart (`make`): the commands are those of the
page. `make test-docs` runs them.
"""

import dataclasses
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import threading

import gin
import pytest

from stepdistill_jax.config import gin_config
from tests.support import decoder_fixtures, real_data as testing

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The README's first: the other pages go on with its records and run.
PAGES = ["README.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
_STEPS = 4
# What a page has -> what runs here.
_SHORTER = {
    "checkpoint_400": f"checkpoint_{_STEPS}",
    "for seed in 0 1 2 3": "for seed in 0",
    # Of the decoder's recipe, whose rows are long.
    "models/smollm2/student.gin": "models/smollm2/student.gin "
    "--gin.BATCH_SIZE=4 --gin.EVAL_STEPS=1 "
    "--gin.train_script.train.infer_eval_dataset_cfg=None",
    # Of long texts.
    "azureml_conversation_synthetic_vanilla.gin":
        "azureml_conversation_synthetic_vanilla.gin --gin.BATCH_SIZE=2",
    "dialogsum_synthetic_chain_of_density.gin":
        "dialogsum_synthetic_chain_of_density.gin --gin.BATCH_SIZE=2",
    "--limit=100": "--limit=8",
    "for share in 0.125 0.25 0.5 1.0": "for share in 0.5",
}
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?"
    r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE)
_RUNS = ("sh", "python", "gin")


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page, and the line on which it begins."""

  line: int
  language: str
  text: str
  reason: str | None


def blocks_of(page: str) -> list[Block]:
  text = (ROOT / page).read_text("utf-8")
  return [Block(text[:m.start("language")].count("\n") + 1, m["language"],
                m["text"], m["reason"]) for m in _BLOCK.finditer(text)]


def script_of(blocks: list[Block], replacements: dict[str, str]) -> str:
  """A bash script whose block at line N prints into N.out."""
  lines = ["set -euo pipefail", ""]
  for block in blocks:
    if block.language not in _RUNS or block.reason is not None:
      continue
    text = block.text
    for old, new in replacements.items():
      text = text.replace(old, new)
    name = f"block_{block.line}"
    if block.language != "sh":
      lines += [f"cat > {name} <<'END_OF_BLOCK'", text + "END_OF_BLOCK"]
    command = {
        "sh": text.rstrip("\n"), "python": f"python {name}",
        "gin": f"mv {name} {name}.gin; t5x train --dry_run "
        "--gin_file=gin/recipes/svamp_step_by_step.gin "
        f"--gin_file={name}.gin '--gin.MODEL_DIR=\"unused\"' "
        "--gin.INITIAL_CHECKPOINT_PATH=None",
    }[block.language]
    lines += [f"echo {block.line} > at", "{", command,
              f"}} > {block.line}.out 2>&1", ""]
  return "\n".join(lines)


class _Desk(http.server.BaseHTTPRequestHandler):
  """A teacher that always finds the desk of docs/own_data/messages.csv."""

  def log_message(self, *unused_args):
    pass

  def do_POST(self):
    body = self.rfile.read(int(self.headers["content-length"])).decode()
    asked = json.loads(body)["messages"][-1]["content"]
    (desk,) = [desk for text, desk in self.server.desks.items()
               if f"Message: {text}\n" in asked.rpartition("\n\n")[2]]
    reply = json.dumps({
        "id": "1", "object": "chat.completion", "created": 0, "model": "desk",
        "usage": {"prompt_tokens": 300, "completion_tokens": 20,
                  "total_tokens": 320},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant",
            "content": f"The message is for a desk. So the answer is {desk}."
        }}]}).encode()
    self.send_response(200)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(reply)))
    self.end_headers()
    self.wfile.write(reply)


@pytest.fixture
def desk_url():
  """The base URL of a server that is the page's stand-in for a teacher."""
  import csv
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Desk) as server:
    with (ROOT / "docs/own_data/messages.csv").open(encoding="utf-8") as file:
      server.desks = {row["message"]: row["desk"]
                      for row in csv.DictReader(file)}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def _write_program(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, "utf-8")
  path.chmod(0o755)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """What the pages' commands find: a checkout's folders, data, a small T5."""
  tmp_path = tmp_path_factory.mktemp("pages")
  for name in ("docs", "gin", "launch", "benchmarks"):
    (tmp_path / name).symlink_to(ROOT / name)
  _write_program(tmp_path / ".venv/bin/activate", "")
  programs = pathlib.Path(sys.executable).parent
  _write_program(tmp_path / "bin/t5x", textwrap.dedent(f"""\
      #!/bin/sh
      [ "$1" = train ] && shift && set -- train --gin.BATCH_SIZE=4 "$@" \\
        --gin.TRAIN_STEPS={_STEPS} --gin.EVAL_PERIOD={_STEPS} \\
        --gin.CHECKPOINT_PERIOD={_STEPS} --gin.EVAL_STEPS=1
      exec {programs}/t5x "$@"
      """))
  _write_program(tmp_path / "bin/make", textwrap.dedent(f"""\
      #!{sys.executable}
      import dataclasses, pathlib, sys
      from stepdistill_jax.quickstart import command, plan
      if __name__ == "__main__" and "quickstart" in sys.argv:
        command.run_plan(pathlib.Path("quickstart_output"), dataclasses.replace(
            plan.BUDGETS["small"], train_stories=40, validation_stories=8,
            test_stories=12, shares=(1.0,), seeds=(0,), steps=2,
            methods=("finetune", "step_by_step")))
      """))
  _write_t5(tmp_path / "flan-t5-base")
  decoder_fixtures.write_folder(tmp_path / "SmolLM2-135M", "smollm2")
  return tmp_path


def _write_t5(path: pathlib.Path) -> None:
  """A T5 v1.1 of T5's vocabulary and random weights, as transformers saves."""
  import transformers
  transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=32128, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=2,
      feed_forward_proj="gated-gelu", tie_word_embeddings=False,
      decoder_start_token_id=0)).save_pretrained(path)
  shutil.copy(testing.real_data_dir() / "vocab/spiece.model", path)
  (path / "tokenizer_config.json").write_text(json.dumps(
      {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))


def test_every_block_runs_or_says_why_not():
  for page in PAGES:
    for block in blocks_of(page):
      where = f"{page}:{block.line}"
      assert block.language, f"{where}: say the block's language"
      assert block.reason != "", f"{where}: say why it is not run"
      assert block.language in _RUNS or block.reason is None, where


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page):
  text = (ROOT / page).read_text("utf-8")
  for link in re.findall(r"\]\(\s*([^)#]+?)(?:#[^)]*)?\s*\)", text):
    if "://" not in link:
      assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_own_data_shows_what_its_files_have():
  (rows,) = [b.text for b in blocks_of("docs/own_data.md")
             if b.language == "csv"]
  folder = ROOT / "docs/own_data"
  assert rows in (folder / "messages.csv").read_text("utf-8")
  (train,) = re.findall(r"-> (\d+) train,", (
      ROOT / "docs/own_data.md").read_text("utf-8"))
  assert f"TRAIN_RECORDS = {train}" in (
      folder / "desk_step_by_step.gin").read_text("utf-8")


_BINDING = re.compile(r"`((?:\w+\.)+\w+ = [^`]+)`|--gin\.((?:\w+\.)+\w+)=")


@pytest.mark.parametrize("page", PAGES)
def test_gin_knows_what_a_page_binds(page):
  """Behind a recipe of the kind of student that the binding is of."""
  from t5x import train
  bindings = {m[1] or f"{m[2]} = None" for m in _BINDING.finditer(
      (ROOT / page).read_text("utf-8"))}
  for binding in sorted(bindings):
    if binding.startswith("EvalConfig."):
      continue  # Of the eval binary.
    recipe = ("decoder/gsm8k_step_by_step_smollm2_135m" if "Llama" in binding
              else "svamp_step_by_step")
    with gin_config.main_module(train=train.train):
      gin_config.parse(
          [f"gin/recipes/{recipe}.gin"],
          ['MODEL_DIR = "unused"', "INITIAL_CHECKPOINT_PATH = None",
           'TOKENIZER = "unused"',
           re.sub(r"= [NM]$", "= 1", binding)])
    gin.clear_config()


@pytest.mark.pages
@pytest.mark.timeout(1800)  # A page trains, and scores what it trained.
@pytest.mark.parametrize("page", [
    page for page in PAGES if any(
        block.language in _RUNS and block.reason is None
        for block in blocks_of(page))])
def test_page(page, folder, desk_url):
  data = testing.real_data_dir()
  blocks = blocks_of(page)
  replacements = {**_SHORTER, "/path/to/published/data": str(data),
                  "http://localhost:8000/v1": desk_url}
  environment = {
      **os.environ, "XDG_DATA_HOME": str(folder / "data_home"),
      "STEPDISTILL_VOCAB": str(data / "vocab/spiece.model"),
      "STEPDISTILL_DATA": str(data), "OPENAI_API_KEY": "none",
      "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [
          os.environ.get("PYTHONPATH")])]),
      "PATH": os.pathsep.join([
          str(folder / "bin"), str(pathlib.Path(sys.executable).parent),
          os.environ["PATH"]])}
  (folder / "page.sh").write_text(script_of(blocks, replacements), "utf-8")
  result = subprocess.run(
      [shutil.which("bash"), "page.sh"], cwd=folder, env=environment,
      timeout=1800, stdin=subprocess.DEVNULL)
  at = (folder / "at").read_text().strip()
  assert result.returncode == 0, (
      f"{page}:{at}\n" + (folder / f"{at}.out").read_text("utf-8"))
  for before, block in zip(blocks, blocks[1:]):
    if (block.language == "text" and before.language in _RUNS
        and before.reason is None):
      printed = (folder / f"{before.line}.out").read_text("utf-8").replace(
          str(folder / "data_home"), "~/.local/share")
      for line in block.text.splitlines():
        assert line.strip() in printed, f"{page}:{block.line}: {printed}"
