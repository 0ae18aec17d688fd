"""Prompts that are too long lose of their question alone."""

import json

import gin
import pytest
import tensorflow as tf

from stepdistill_jax.data import (
  exact_order,
  feature_converter,
  hugging_face_vocabulary,
  lengths,
  task_names,
  task_registry,
  tokenizer_files,
  truncation,
)
from stepdistill_jax.embedded_t5x import utils
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors
from tests.support import decoder_fixtures as fixtures

QUESTION = "explain: Ann has 3 apples, and who has 4 more? Wow! 5 6 7 8 9"
CHAT = ("user: Natalia sold 48 clips.\nassistant: Wow!\n"
        "user: How many in April, and in May? She sold half as many. Who?")


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  fixtures.write_tokenizer(folder, fixtures.FAMILIES["llama3_1"])
  return folder / "tokenizer.json"


def cut(vocabulary, text, limit, keeps_end):
  ids = vocabulary.encode_prompt(text, limit, keeps_end)
  assert len(ids) <= limit
  return vocabulary._tokenizer.decode(
      [vocabulary._moved(i) for i in ids], skip_special_tokens=False)


@pytest.mark.parametrize("fewer", [1, 7, 20])
def test_prefix_and_suffix_stay_whole(file, fewer):
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(str(file))
  limit = len(vocabulary.encode_prompt(QUESTION)) - fewer
  question = QUESTION.removeprefix("explain: ")
  for keeps_end in (False, True):
    text = cut(vocabulary, QUESTION, limit, keeps_end)
    assert text.startswith("<|begin_of_text|>explain: ")
    assert text.endswith("\n")
    kept = text.removeprefix("<|begin_of_text|>explain: ")[:-1]
    assert kept and kept != question and (
        question.endswith(kept) if keeps_end else question.startswith(kept))
  assert vocabulary.encode_prompt(QUESTION, limit + fewer) == (
      vocabulary.encode_prompt(QUESTION))


@pytest.mark.parametrize("fewer", [1, 9, 14])
def test_chat_templates_stay_whole(file, fewer):
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
      str(file), chat=True, system="Be short.")
  whole = vocabulary.prompt_text(CHAT)
  last = CHAT.rpartition("user: ")[2]
  head, tail = whole.split(last)
  limit = len(vocabulary.encode_prompt(CHAT)) - fewer
  for keeps_end in (False, True):
    text = cut(vocabulary, CHAT, limit, keeps_end)
    assert text.startswith(head) and text.endswith(tail)
    kept = text[len(head):-len(tail)]
    assert kept != last and (
        last.strip().endswith(kept) if keeps_end else last.startswith(kept))
  with pytest.raises(errors.UserError, match="pass a larger MAX_INPUTS"):
    vocabulary.encode_prompt(CHAT, 5)


def test_of_messages_the_longest_is_cut_first(file):
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
      str(file), chat=True)
  text = f"user: {QUESTION}\nassistant: Wow!\nuser: Who?"
  limit = len(vocabulary.encode_prompt(text)) - 9
  assert "Who?<|eot_id|>" in cut(vocabulary, text, limit, False)
  none_left = cut(vocabulary, text, len(vocabulary.encode_prompt(
      "user: explain: \nassistant: Wow!\nuser: ")), True)
  assert "Who?" not in none_left and "Wow!" in none_left


@pytest.fixture(name="dataset")
def _dataset(file, tmp_path, monkeypatch):
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  task_registry.register_dataset("asked_long", ["someone"])
  record_writer.write_records(tmp_path, "asked_long", "someone", {
      split: [records.Record(
          id=f"asked_long/{split}/{i}", inputs="ab " * i + "end", label="ab",
          teacher_label="ab", rationale="xyz", split=split) for i in range(8)]
      for split in ("train", "validation")})
  with gin.unlock_config():
    gin.clear_config()
    gin.bind_parameter(
        "hugging_face_vocabulary.tokenizer.vocabulary",
        hugging_face_vocabulary.HuggingFaceVocabulary(str(file)))
    yield lambda limit: exact_order.get_dataset(utils.DatasetConfig(
        mixture_or_task_name=task_names.task_name(
            "step", "asked_long", "gold", "someone"), split="train",
        batch_size=4, task_feature_lengths={
            "inputs": limit, "targets": 8, "rationale_targets": 16},
        shuffle=True, seed=0), 0, 1,
        feature_converter.StepDistillFeatureConverter)
    gin.clear_config()


@pytest.mark.parametrize("do", ["cut_tail", "cut_head", "refuse"])
def test_runs_cut_and_count_prompts(dataset, do):
  gin.bind_parameter("long_prompts.do", do)
  vocabulary = hugging_face_vocabulary.tokenizer()
  prompts = [[*map(int, vocabulary.encode_prompt(prefix + "ab " * i + "end"))]
             for i in range(8) for prefix in ("predict: ", "explain: ")]
  limit = sorted(map(len, prompts))[8]
  if do == "refuse":
    with pytest.raises(errors.UserError, match="LONG_PROMPT is 'refuse'"):
      dataset(limit).cut()
    return
  (found,) = dataset(limit).cut()
  too_long = {len(a) > limit or len(b) > limit
              for a, b in zip(prompts[::2], prompts[1::2])}
  assert too_long == {True, False} and found["inputs"] == {
      "cut": sum(len(a) > limit or len(b) > limit for a, b in zip(
          prompts[::2], prompts[1::2])), "length": limit, "done": do,
      "median": found["inputs"]["median"],
      "most": max(map(len, prompts)) - limit}
  texts = {vocabulary.decode([*filter(None, row.tolist())])
           for batch in dataset(limit).take(4).as_numpy_iterator()
           for row in batch["encoder_input_tokens"].reshape(-1, limit)
           if row.any()}
  assert texts and all(text.startswith(("predict: ", "explain: "))
             and text.endswith("\n") for text in texts)
  assert all(text.endswith("end\n") for text in texts) == (do == "cut_head")


def test_unknown_choices_are_refused():
  with gin.unlock_config():
    gin.bind_parameter("long_prompts.do", "drop")
    with pytest.raises(errors.UserError, match="LONG_PROMPT"):
      truncation.long_prompts()
    gin.clear_config()


def test_lengths_in_its_tokens_hold_all_that_a_run_reads(file):
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(str(file))
  texts = ["Wow!", QUESTION, f"Ann!{records.EOS_TEXT}Who?"]
  measured = lengths.measure(
      [records.Record(id=text, inputs=text, label="72!", rationale="Wow! 5 6")
       for text in texts], tokenizer_files.token_counter(file))
  targets = len(vocabulary.encode("Wow! 5 6")) + 1
  for text, inputs, rationale in zip(
      texts, measured.inputs, measured.rationale):
    longest = max(len(vocabulary.encode_prompt(prefix + text))
                  for prefix in lengths.PREFIXES)
    # BOS may count twice, and newlines alone.
    assert longest <= inputs <= longest + 2, text
    assert targets <= rationale <= targets + 1


def test_an_answer_ends_with_any_end_token_of_the_student(tmp_path):
  fixtures.write_tokenizer(tmp_path, fixtures.FAMILIES["llama3_1"])
  file = tmp_path / "tokenizer.json"
  plain = hugging_face_vocabulary.HuggingFaceVocabulary(str(file))
  other, ids = plain.encode("Who?")[-1], plain.encode("5 6 Who? 7")
  assert other != plain.eos_id and plain.decode(ids) == "5 6 Who? 7"
  (tmp_path / "generation_config.json").write_text(json.dumps(
      {"eos_token_id": [plain._moved(plain.eos_id), plain._moved(other)]}))
  tokenizer_files.beside.cache_clear()
  tokenizer_files.end_ids.cache_clear()
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(str(file))
  expected = plain.decode(ids[:ids.index(other)])
  assert vocabulary.decode(ids) == expected
  assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == expected
