"""Chat templates: rendered in a sandbox, refused in a line."""

import json

import pytest

from stepdistill_jax.data import chat_template
from stepdistill_jax.util import errors
from tests.support import decoder_fixtures as fixtures

MESSAGES = [{"role": "system", "content": "Answer with a number."},
            {"role": "user", "content": " 1 < 2 & 3? "},
            {"role": "assistant", "content": "é"},
            {"role": "user", "content": "again"}]


def write(folder, template, **config):
  folder.mkdir(exist_ok=True)
  (folder / "tokenizer_config.json").write_text(
      json.dumps({"chat_template": template, **config}))
  return folder


def test_llamas_format(tmp_path):
  template = chat_template.read(write(
      tmp_path, fixtures.LLAMA_TEMPLATE,
      bos_token={"content": "<|begin_of_text|>", "lstrip": False}))
  assert template.render(MESSAGES[:2], add_generation_prompt=True) == (
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Today Date: 26 Jul 2024\n\nAnswer with a number.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\n1 < 2 & 3?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("prefix", ["", "predict: ", "explain: "])
def test_a_prefix_goes_to_the_message_that_is_answered(prefix):
  turns = "user: Hi!\nassistant: Hello.\nuser: Who?\nWe: 2"
  messages = chat_template.messages_of(prefix + turns, "Be short.")
  assert [(m["role"], m["content"]) for m in messages] == [
      ("system", "Be short."), ("user", "Hi!"), ("assistant", "Hello."),
      ("user", f"{prefix}Who?\nWe: 2")]
  for text in (f"{prefix}Who? user: no", f"{prefix}user: Hi\nassistant: No"):
    assert chat_template.messages_of(text) == [
        {"role": "user", "content": text}]


def test_what_templates_are_given_is_as_in_transformers():
  render = lambda text: chat_template.ChatTemplate(
      text, {}, "here").render(MESSAGES)
  assert render("{{ messages[2] | tojson(ensure_ascii=True, sort_keys=True, "
                "separators=(',', ':')) }}") == (
                    '{"content":"\\u00e9","role":"assistant"}')
  assert render("{% if tools is not none or documents is not none %}x"
                "{% endif %}y") == "y"
  assert render(
      "{% set a = 1 %}{% for message in messages %}"
      "{% generation %}{% set a = 2 %}{{ message.content }}{% endgeneration %}"
      "{{ a }}{% endfor %}") == "Answer with a number.1 1 < 2 & 3? 1é1again1"


def test_a_file_of_its_own_counts_more_and_lists_have_a_default(tmp_path):
  write(tmp_path, "a")
  (tmp_path / "chat_template.jinja").write_text("b{{ messages | length }}")
  assert chat_template.read(tmp_path).render(MESSAGES) == "b4"
  folder = write(tmp_path / "list", [
      {"name": "tool_use", "template": "t"},
      {"name": "default", "template": "{{ messages | tojson }}"}])
  assert chat_template.read(folder).render(MESSAGES[2:3]) == (
      '[{"role": "assistant", "content": "é"}]')


@pytest.mark.parametrize("template,expected", [
    (None, "has no chat template"), ("{% if %}", "is no chat template"),
    ("{{ raise_exception('no system') }}", "refuses the messages: no system"),
    ("{{ messages.append(1) }}", "refuses the messages"),
    ("{{ 1 // 0 }}", "refuses the messages"),
    ("{{ ''.__class__.__mro__ }}", "refuses the messages")])
def test_refused_in_a_line(template, expected, tmp_path):
  with pytest.raises(errors.UserError, match=expected) as caught:
    chat_template.read(write(tmp_path, template)).render(MESSAGES)
  assert "\n" not in str(caught.value)
