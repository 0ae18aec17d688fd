"""What a model card says of licences."""

import pytest

from stepdistill_jax.interop import architecture, run_folder
from stepdistill_jax.interop.hf import model_card

_LLAMA = "a name that begins with \"Llama\""
_DECODER = architecture.DecoderArchitecture(128, 8, 2, 1, 4, 8, 1)
_T5 = architecture.Architecture(128, 8, 2, 4, 8, 1, 1, ("relu",), True)


def _text(teacher, origin, arch=_DECODER, name="student", licence=""):
  decoder = arch is _DECODER
  return model_card.Card(
      name=name, step=4, task_name=f"gsm8k_step_gold_{teacher}",
      trained_on=run_folder.parse_task_name(f"gsm8k_step_gold_{teacher}"),
      origin=origin, scores=(), licence=licence,
      prompt={"chat": False, "prompt_suffix": "\n"} if decoder else None,
  ).text(arch, "float32")


@pytest.mark.parametrize("arch", [_DECODER, _T5], ids=["decoder", "t5"])
def test_teacher_and_base_are_named_with_llamas_rule(arch):
  found = _text("llama405b", "flan", arch)
  assert "comes from flan and llama405b: their licences hold" in found
  assert f"{_LLAMA}, as student does not" in found
  assert f"{_LLAMA}, for" in _text(
      "llama405b", "flan", arch, name="Llama-student")


def test_llamas_licence_is_known_by_its_text_too():
  found = _text("human", "base", licence="LLAMA 3.2 COMMUNITY LICENSE")
  assert "comes from base: their licences" in found and _LLAMA in found
  assert "The licence that came with the initial checkpoint" in found


def test_others_have_no_rule_of_llamas():
  found = _text("palm540b", "Qwen2.5-0.5B", licence="Apache License")
  assert "comes from Qwen2.5-0.5B and palm540b" in found
  assert _LLAMA not in found
  assert "## Licences" not in _text("human", None)
