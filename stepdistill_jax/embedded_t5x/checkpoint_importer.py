"""TensorFlow checkpoints of Mesh T5, under T5X's names of variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import re
from typing import Any

from flax import traverse_util
import numpy as np

from stepdistill_jax.runs import lazy_arrays
from stepdistill_jax.runs.lazy_arrays import *  # noqa: F403
from stepdistill_jax.util import errors


class CheckpointTranslator:
  """Rules that give a checkpoint's variables other names, or other values.

  Attributes:
    rules: (compiled pattern, function) pairs; the first that matches counts.
  """

  def __init__(self):
    self.rules: list[tuple[re.Pattern[str], Callable[..., Any]]] = []

  def add(self, pattern: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorates `fn(options, name, value, *groups) -> (name, value)`.

    A name of None drops the variable.
    """
    def register(fn):
      self.rules.append((re.compile(pattern), fn))
      return fn
    return register

  def apply(self, flatdict: Mapping[str, Any], **opts: Any) -> dict[str, Any]:
    """Translates variables by name.

    Raises:
      ValueError: variables that no rule matches.
    """
    translated, unmatched = {}, []
    for name, value in flatdict.items():
      matches = ((pattern.fullmatch(name), fn) for pattern, fn in self.rules)
      match, fn = next((m for m in matches if m[0]), (None, None))
      if match is None:
        unmatched.append(name)
        continue
      new_name, value = fn(opts, name, value, *match.groups())
      if new_name is not None:
        translated[new_name] = value
    if unmatched:
      raise errors.InvalidValue(f"no rule for the variables {unmatched}")
    return translated


t5_importer = CheckpointTranslator()
# Adafactor's statistics of a variable have its name with one of these endings.
_SLOTS = {"_slot_vc": "v_col", "_slot_vr": "v_row", "_slot_v": "v"}
_STACK = r"(encoder|decoder|transformer)"
_LAYER = _STACK + r"/block_(\d+)/layer_(\d+)"
_NORMS = {
    "encoder": ("pre_attention", "pre_mlp"),
    "decoder": ("pre_self_attention", "pre_cross_attention", "pre_mlp"),
    "transformer": ("pre_self_attention", "pre_mlp")}


def _stack(name: str) -> str:
  return "encoder" if name == "encoder" else "decoder"


def _in_layer(stack: str, block: str, name: str) -> str:
  return f"{_stack(stack)}/layers_{int(block)}/{name}"


def _attention(stack: str, block: str, _, kind: str, matrix: str) -> str:
  kind = ("attention" if stack == "encoder" else
          "self_attention" if kind == "SelfAttention" else
          "encoder_decoder_attention")
  matrix = {"q": "query", "k": "key", "v": "value", "o": "out"}[matrix]
  return _in_layer(stack, block, f"{kind}/{matrix}/kernel")


# Pattern of a variable -> the parameter's name, of the pattern's groups.
_NAMES: Mapping[str, Callable[..., str]] = {
    "shared/embedding": lambda: "token_embedder/embedding",
    _STACK + "/embedding":
        lambda stack: f"{_stack(stack)}/token_embedder/embedding",
    _LAYER + "/SelfAttention/relative_attention_bias":
        lambda stack, block, _: _in_layer(
            stack, block, "relpos_bias/rel_embedding"),
    _LAYER + "/(SelfAttention|EncDecAttention)/([qkvo])": _attention,
    _LAYER + r"/DenseReluDense/(w[io](?:_\d+)?)/kernel":
        lambda stack, block, _, matrix: _in_layer(
            stack, block, f"mlp/{matrix}/kernel"),
    _LAYER + "/(?:layer|rms)_norm/scale":
        lambda stack, block, layer: _in_layer(
            stack, block, f"{_NORMS[stack][int(layer)]}_layer_norm/scale"),
    _STACK + "/(?:final_layer|rms)_norm/scale":
        lambda stack: f"{_stack(stack)}/{_stack(stack)}_norm/scale",
    "(?:decoder|transformer)/logits/kernel":
        lambda: "decoder/logits_dense/kernel"}


@t5_importer.add("global_step")
def _(unused_options, unused_name, value):
  return "state/step", np.asarray(lazy_arrays.fetch(value), np.int32)


def _add(pattern: str, name_of: Callable[..., str]) -> None:
  @t5_importer.add(pattern + r"(_slot_\w+)?")
  def _(unused_options, unused_name, value, *groups):
    *groups, slot = groups
    if slot:
      return (f"state/param_states/{name_of(*groups)}/{_SLOTS[slot]}", value)
    return f"target/{name_of(*groups)}", value


for _item in _NAMES.items():
  _add(*_item)


def load_tf_ckpt(path: str) -> dict[str, lazy_arrays.LazyArray]:
  """A TensorFlow checkpoint's variables by name, read when asked for."""
  import tensorflow as tf
  reader = tf.train.load_checkpoint(path)
  dtypes = reader.get_variable_to_dtype_map()
  return {
      name: lazy_arrays.LazyThreadPoolArray(
          shape, dtypes[name].as_numpy_dtype,
          lambda name=name: reader.get_tensor(name))
      for name, shape in reader.get_variable_to_shape_map().items()}


def restore_from_t5_checkpoint(
    state_dict: Mapping[str, Any], path: str, lazy_parameters: bool = False,
    strict: bool = True, translator: CheckpointTranslator | None = None
) -> Mapping[str, Any]:
  """A train state's dict with the values of a TensorFlow checkpoint.

  Args:
    state_dict: of a T5 that Adafactor trains; for its shapes.
    lazy_parameters: leave the arrays to be read one by one.
    strict: every variable must be one of the state's; False leaves out others.
    translator: gives the variables their names; None is `t5_importer`.

  Raises:
    ValueError: a variable that the state lacks, or of another shape.
  """
  arrays = (translator or t5_importer).apply(load_tf_ckpt(path))
  none = lambda: np.zeros((1,), np.float32)
  for name in [n for n in arrays if n.startswith("target/")]:
    slot = "state/param_states/" + name.removeprefix("target/")
    slots = {s for s in ("v", "v_row") if f"{slot}/{s}" in arrays}
    if slots:  # What TensorFlow's Adafactor does without.
      for missing in ("m", *(("v_row", "v_col") if "v" in slots else ("v",))):
        arrays[f"{slot}/{missing}"] = none()
  relative = re.compile(r"layers_(\d+)/relpos_bias")
  if not any(int(m[1]) for m in map(relative.search, arrays) if m):
    # One for the whole stack is stored with its first layer.
    arrays = {relative.sub("relpos_bias", n): x for n, x in arrays.items()}
  known = traverse_util.flatten_dict(dict(state_dict), sep="/")
  if not strict:
    arrays = {n: x for n, x in arrays.items() if n in known}
  for name, array in arrays.items():
    if name not in known or tuple(known[name].shape) != tuple(array.shape):
      raise errors.InvalidValue(
          f"{path} has {name} of shape {tuple(array.shape)}; the model has "
          + (f"{tuple(known[name].shape)}" if name in known else "none such"))
  if not lazy_parameters:
    arrays = {n: lazy_arrays.fetch(x) for n, x in arrays.items()}
  return traverse_util.unflatten_dict(arrays, sep="/")
