"""The collector against a real server: `transformers serve`, a random Llama.

The Llama is made on the spot: nothing is downloaded, and what it says is
noise. Slow to start (some 20 s), so one server serves all tests.
"""

import json
import pathlib
import subprocess

import pytest

from stepdistill_jax.teacher import completions
from tests.support import asking as testing, serving

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}")

pytestmark = pytest.mark.interop


def make_llama(folder: pathlib.Path) -> pathlib.Path:
  """Writes a random Llama of 100,000 parameters with a byte tokenizer."""
  import tokenizers
  import torch
  import transformers

  torch.manual_seed(0)
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {piece: i for i, piece in enumerate(
      ["<s>", "</s>", "<unk>", *alphabet])}
  tokenizer = tokenizers.Tokenizer(
      tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
      unk_token="<unk>", pad_token="</s>", chat_template=_TEMPLATE,
  ).save_pretrained(folder)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      max_position_embeddings=4096, bos_token_id=0, eos_token_id=1))
  # Letters only, so that texts are short, readable and never end by chance.
  model.generation_config.suppress_tokens = [
      i for piece, i in vocabulary.items() if not (
          piece.isascii() and piece.islower() and len(piece) == 1)]
  model.generation_config.do_sample = True
  model.save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  folder = tmp_path_factory.mktemp("llama")
  with serving.transformers_server(make_llama(folder)) as url:
    yield testing.Server(f"{url}/v1"), str(folder)


def _collect(tmp_path, server, *more, rows=3):
  address, model = server
  output = tmp_path / "cache"
  argv = testing.command(
      testing.write_rows(tmp_path / "rows.csv", rows), output, address,
      f"--model={model}", "--teacher=noise", "--json", "--concurrency=2",
      "--top_p=1", "--min_success_ratio=0", *more)
  ended = subprocess.run(argv, env=testing.environment(), check=False,
                         capture_output=True, text=True, timeout=120)
  assert ended.returncode == 0, ended.stderr
  lines = [entry.value for entry in completions.read_completions(output)]
  return json.loads(ended.stdout), lines


def test_a_chat_with_several_samples(tmp_path, server):
  # Its requests share one generator of random numbers: one at a time.
  more = ("--samples=2", "--temperature=1", "--max_tokens=12", "--seed=5",
          "--concurrency=1")
  # This server ignores `n`: each row's second sample is asked for by itself.
  outcome, lines = _collect(
      tmp_path, server, "--samples_per_request=2", *more)
  assert outcome["endings"] == {"length": 6} and outcome["missing"] == 0
  assert outcome["progress"]["requests"] == 6
  assert sorted((line["position"], line["sample"]) for line in lines) == [
      (row, sample) for row in range(3) for sample in range(2)]
  for line in lines:
    assert len(line["output"]) == 12 and line["output"].islower()
    assert line["usage"]["completion_tokens"] == 12
    assert line["usage"]["prompt_tokens"] > 100  # Bytes of the instruction.
  # A row's samples have seeds 5 and 6.
  assert len({(line["position"], line["output"]) for line in lines}) == 6
  outcome, _ = _collect(tmp_path, server, "--samples_per_request=2", *more)
  assert outcome["progress"]["requests"] == 0


def test_plain_completion_and_stop_strings(tmp_path, server):
  # A greedy text's own letters are what to stop at.
  plain = ("--endpoint=completion", "--temperature=0", "--max_tokens=24")
  (tmp_path / "whole").mkdir()
  _, whole = _collect(tmp_path / "whole", server, *plain, rows=1)
  text = whole[0]["output"]
  assert whole[0]["finish_reason"] == "length" and len(text) == 24
  stop = text[7:10]
  outcome, lines = _collect(
      tmp_path, server, *plain, f"--stop={stop}", rows=1)
  assert outcome["endings"] == {"stop": 1}
  assert lines[0]["output"] == text[:text.index(stop) + len(stop)] or (
      lines[0]["output"] == text[:text.index(stop)])


def test_a_model_that_it_does_not_have_is_reported(tmp_path, server):
  address, _ = server
  rows = testing.write_rows(tmp_path / "rows.csv", 2)
  argv = testing.command(rows, tmp_path / "cache", address,
                         "--model=no/such-model", "--attempts=1")
  ended = subprocess.run(argv, env=testing.environment(), check=False,
                         capture_output=True, text=True, timeout=120)
  assert ended.returncode == 2 and "Traceback" not in ended.stderr
  assert ended.stderr.count("error:") >= 1
