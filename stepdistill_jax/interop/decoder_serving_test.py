"""A decoder's export under `transformers serve`, and asked by `predict`."""

import json
import urllib.request

import pytest

import stepdistill_jax as sd
from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.interop.hf import exporting, importing
from tests.support import decoder_fixtures as fixtures, serving

pytestmark = pytest.mark.interop
QUESTION = "Stop! Who has 3 pens?"
TOKENS = 8


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp("decoder")
  fixtures.write_folder(folder / "hf", "qwen2_5")
  importing.import_hf(folder / "hf", folder / "t5x", quiet=True)
  exporting.export_hf(folder / "t5x", folder / "out", exporting.Options(
      quiet=True, max_new_tokens=TOKENS))
  return folder / "out"


def ask(url, body):
  request = urllib.request.Request(
      f"{url}/v1/completions", json.dumps(body).encode(),
      {"content-type": "application/json"})
  with urllib.request.urlopen(request, timeout=60) as response:
    return json.load(response)["choices"][0]["text"]


def test_a_server_gives_the_students_answer(exported):
  transformers = pytest.importorskip("transformers")
  model = transformers.AutoModelForCausalLM.from_pretrained(exported)
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  prompt = f"predict: {QUESTION}\n"
  given = tokenizer(prompt, return_tensors="pt")
  tokens = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)
  expected = tokenizer.decode(
      tokens[0, given["input_ids"].shape[1]:], skip_special_tokens=True)
  with serving.transformers_server(exported) as url:
    found = ask(url, {"model": str(exported), "prompt": prompt,
                      "temperature": 0, "max_tokens": TOKENS})
  assert found.strip() == expected.strip() and expected


def test_predict_asks_a_decoder(exported, tmp_path):
  (tmp_path / "texts.txt").write_text(f"{QUESTION}\nAnd now?\n")
  assert cli.main(["predict", str(exported), str(tmp_path / "texts.txt"),
                   "--prefix=predict: ",
                   f"--output={tmp_path / 'answers.jsonl'}"]) == 0
  rows = [json.loads(line) for line in
          (tmp_path / "answers.jsonl").read_text().splitlines()]
  assert [row["input"] for row in rows] == [QUESTION, "And now?"]
  student = sd.load(exported, prefix="predict: ")
  assert [row["answer"] for row in rows] == student.predict(
      [QUESTION, "And now?"])
