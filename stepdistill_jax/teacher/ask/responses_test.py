"""Servers' answers: OpenAI's form, others' ways with it, and their costs."""

import json

import pytest

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, requests, responses


def request(samples=(0,), max_tokens=9):
  body = {"model": "m", "max_tokens": max_tokens,
          "messages": [{"role": "user", "content": "1 and 2"}]}
  return requests.Request(
      "ab" * 32, "/chat/completions", body, tuple(samples))


@pytest.mark.parametrize("status, text, reason", [
    (400, "maximum context length is 8192 tokens", failures.CONTEXT_LENGTH),
    (400, '{"code": "content_filter"}', failures.CONTENT_FILTER),
    (400, "no such field", failures.BAD_REQUEST),
    (402, "", failures.QUOTA),
    (403, "", failures.UNAUTHORIZED),
    (404, "no such model", failures.NOT_FOUND),
    (501, "Unsupported method ('POST')", failures.NOT_FOUND),
    (405, "Method Not Allowed", failures.NOT_FOUND),
    (408, "", failures.TIMEOUT),
    (422, "", failures.BAD_REQUEST),
    (429, "slow down", failures.RATE_LIMITED),
    (429, '{"code": "insufficient_quota"}', failures.QUOTA),
    (503, "", failures.SERVER_ERROR),
    (529, "overloaded", failures.SERVER_ERROR),
])
def test_every_status_has_its_name(status, text, reason):
  assert responses.status_reason(status, text) == reason


@pytest.mark.parametrize("headers, seconds", [
    ({}, None),
    ({"retry-after": "3"}, 3.0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "-3"}, 0.0),
    ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
    ({"retry-after": "soon"}, None),
])
def test_retry_after(headers, seconds):
  assert responses.retry_after_s(headers, now=60.0) == seconds


def _chat(message, finish_reason="stop"):
  return json.dumps({"choices": [
      {"message": message, "finish_reason": finish_reason}]})


@pytest.mark.parametrize("content, output, finish_reason", [
    (_chat({"content": " as it is\n"}), " as it is\n", "stop"),
    (_chat({"content": ""}), "", "stop"),
    (_chat({"content": "cut"}, "length"), "cut", "length"),
    (_chat({"content": None}, "content_filter"), "", "content_filter"),
    (_chat({"content": None, "refusal": "No."}), "No.", failures.REFUSAL),
    (_chat({"content": "x"}, None), "x", None),
    ('{"choices": [{"text": "plain", "finish_reason": "stop"}]}', "plain",
     "stop"),
    (_chat({"content": "\\ud800"}).replace("\\\\", "\\"), "\ud800", "stop"),
])
def test_endings_that_are_no_failures(content, output, finish_reason):
  (choice,) = responses.parse(content, request()).choices
  assert (choice.output, choice.finish_reason) == (output, finish_reason)


@pytest.mark.parametrize("content", [
    "", "<html>", "[]", "{}", "null", '{"choices": null}', '{"choices": []}',
    '{"choices": [{}]}', '{"choices": [null]}', '{"choices": [{"text": 1}]}',
    _chat({"content": None}), _chat({"content": 7}), _chat("text"),
    _chat({"content": "x"}, 5), "[" * 100_000,
])
def test_what_is_no_completion(content):
  with pytest.raises(failures.Failure) as caught:
    responses.parse(content, request())
  assert caught.value.reason == failures.MALFORMED


def test_what_came_instead_is_reported_without_the_key():
  with pytest.raises(failures.Failure, match="but '<html>log in, ") as caught:
    responses.parse("<html>log in, my-own-secret\n" + "x" * 1000,
                        request(), "my-own-secret")
  assert "my-own" not in str(caught.value)
  assert len(str(caught.value)) < 300


THOUGHT = [{"type": "text", "text": "A book "},
           {"type": "text", "text": "is lent."}]


@pytest.mark.parametrize("message, output, thinking", [
    ({"content": "loans", "reasoning_content": "A book is lent."}, "loans",
     "A book is lent."),
    ({"content": "loans", "reasoning": "lent"}, "loans", "lent"),
    ({"content": "loans", "reasoning": None, "thinking": "lent"}, "loans",
     "lent"),
    ({"content": "loans", "reasoning": "", "reasoning_details": [
        {"type": "reasoning.text", "text": "le"}, {"summary": "nt"}]},
     "loans", "lent"),
    ({"content": [{"type": "thinking", "thinking": THOUGHT},
                  {"type": "text", "text": "lo"},
                  {"type": "output_text", "text": "ans"}]}, "loans",
     "A book is lent."),
    ({"content": [{"type": "reasoning", "summary": [
        {"type": "summary_text", "text": "lent"}]}, "loans"]}, "loans",
     "lent"),
    ({"content": [{"text": "loans"}], "reasoning": "lent"}, "loans", "lent"),
    ({"content": []}, "", ""),
])
def test_text_and_thinking_wherever_they_stand(message, output, thinking):
  (choice,) = responses.parse(_chat(message), request()).choices
  assert (choice.output, choice.thinking) == (output, thinking)
  assert choice.finish_reason == "stop"


def test_a_part_without_a_list():
  (choice,) = responses.parse(_chat({"content": {
      "type": "text", "text": "x"}}), request()).choices
  assert choice.output == "x"


def test_another_interface_is_not_asked_again_and_again():
  for body in ('{"response": "x", "done": true}',
               '{"message": {"role": "assistant", "content": "x"}}'):
    with pytest.raises(failures.Failure) as error:
      responses.parse(body, request())
    assert (error.value.reason, error.value.paid) == (
        failures.MALFORMED, True)


def test_a_refusal_among_the_parts():
  (choice,) = responses.parse(_chat({"content": [
      {"type": "refusal", "refusal": "I cannot."}]}), request()).choices
  assert (choice.output, choice.finish_reason) == (
      "I cannot.", failures.REFUSAL)


@pytest.mark.parametrize("name, ending", [
    (name, completions.STOP) for name in (
        "stop", "STOP", "eos_token", "stop_sequence", "end_turn",
        "COMPLETE", "eos", "FINISH_REASON_STOP", "", None)] + [
    (name, completions.LENGTH) for name in (
        "length", "MAX_TOKENS", "max_tokens", "model_length")] + [
    ("SAFETY", completions.FILTERED), ("tool_calls", "tool_calls"),
    ("aborted_by_moon", "aborted_by_moon")])
def test_endings_by_other_names(name, ending):
  (choice,) = responses.parse(_chat({"content": "x"}, name),
                              request()).choices
  assert choice.finish_reason == name  # Raw is raw.
  assert completions.ending_of(choice.finish_reason) == ending


@pytest.mark.parametrize(
    "used, ending", [(8, None), (9, "length"), (500, None)])
def test_without_an_ending_all_tokens_used_means_cut(used, ending):
  content = json.dumps({
      "choices": [{"message": {"content": "x"}, "finish_reason": None}],
      "usage": {"prompt_tokens": 3, "completion_tokens": used}})
  (choice,) = responses.parse(content, request(max_tokens=9)).choices
  assert choice.finish_reason == ending


PAID = {"prompt_tokens": 1000, "completion_tokens": 500}


@pytest.mark.parametrize("usage, paid", [
    (PAID, PAID), ({"input_tokens": 1000, "output_tokens": 500}, PAID),
    ({"prompt_tokens": 7, "completion_tokens": None}, {"prompt_tokens": 7}),
    ({"prompt_tokens": -1, "completion_tokens": True}, {}), (None, {}),
])
@pytest.mark.parametrize("message, reason, thinking, words", [
    ({"content": None, "reasoning_content": "lent"}, failures.ONLY_THINKING,
     "lent", "content is null beside 4 characters of reasoning"),
    ({"content": None, "reasoning": "lent"}, failures.ONLY_THINKING, "lent",
     "content is null"),
    ({"content": None}, failures.MALFORMED, "", "content is null"),
    ({"content": 7}, failures.MALFORMED, "", "content is of type int"),
    ({"content": {"a": 1}}, failures.MALFORMED, "", "content is of type dict"),
    ({"content": [{"type": "image_url"}]}, failures.MALFORMED, "",
     "content is a list with a part of type 'image_url'"),
])
def test_what_was_paid_is_known_whatever_came(
    usage, paid, message, reason, thinking, words):
  content = json.dumps({"usage": usage, "choices": [
      {"message": message, "finish_reason": "eos_token"}]})
  with pytest.raises(failures.Failure, match=words) as caught:
    responses.parse(content, request())
  failure = caught.value
  assert (failure.reason, failure.thinking) == (reason, thinking)
  assert failure.usage == paid and failure.paid and failure.passing


def test_an_answer_without_choices_was_paid_only_if_it_says_so():
  for usage, paid in ((PAID, True), (None, False)):
    with pytest.raises(failures.Failure) as caught:
      responses.parse(json.dumps({"choices": [], "usage": usage}), request())
    assert caught.value.paid == paid
    assert caught.value.usage == (usage or {})


@pytest.mark.parametrize("error, reason", [
    ({"message": "slow down", "code": 429}, failures.RATE_LIMITED),
    ({"message": "slow down", "code": "rate_limit_exceeded"},
     failures.RATE_LIMITED),
    ({"message": "x", "status": "RESOURCE_EXHAUSTED"}, failures.RATE_LIMITED),
    ({"message": "pay", "type": "insufficient_quota"}, failures.QUOTA),
    ({"message": "who", "code": "invalid_api_key"}, failures.UNAUTHORIZED),
    ({"message": "x", "code": "model_not_found"}, failures.NOT_FOUND),
    ({"message": "x", "code": "502"}, failures.SERVER_ERROR),
    ({"message": "maximum context length is 8",
      "type": "invalid_request_error"},
     failures.CONTEXT_LENGTH),
    ({"message": "no top_p here", "type": "invalid_request_error"},
     failures.BAD_REQUEST),
    ({"message": "busy", "code": None}, failures.SERVER_ERROR),
    ("busy", failures.SERVER_ERROR),
])
@pytest.mark.parametrize("form", ["error", "choice", "vllm"])
def test_an_error_object_with_status_200(error, reason, form):
  value = {
      "error": {"error": error},
      "choice": {"choices": [{"error": error, "finish_reason": "error",
                              "message": {"content": None}}]},
      "vllm": {"object": "error", **error} if isinstance(error, dict)
              else {"detail": error},
  }[form]
  with pytest.raises(failures.Failure, match="HTTP 200 with the error") as (
      caught):
    responses.parse(json.dumps(value), request())
  assert caught.value.reason == reason
