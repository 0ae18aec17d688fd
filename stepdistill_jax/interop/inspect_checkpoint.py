"""`stepdistill checkpoint inspect`: what a checkpoint holds, weights unread."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from stepdistill_jax.interop import (
  architecture,
  gin_decoder,
  gin_model,
  run_context,
)
from stepdistill_jax.interop.hf import (
  exporting,
  safetensors_files,
  weights as hf_weights,
)
from stepdistill_jax.runs import array_reader as t5x_reader
from stepdistill_jax.util import errors, locations


def _describe(
    path: str, layout: str, arrays: Mapping[str, Any],
    parameters: Mapping[str, Any], step: int | None = None,
    model: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """What is printed of any checkpoint; its `stored_bytes` if it is local."""
  local = pathlib.Path(path)
  files = local.rglob("*") if local.is_dir() else [local]
  return {
      "path": path, "format": layout, "step": step, "model": model,
      "parameters": sum(a.nbytes // a.dtype.itemsize
                        for a in parameters.values()),
      "bytes": sum(a.nbytes for a in arrays.values()),
      "stored_bytes": None if "://" in path else sum(
          f.stat().st_size for f in files if f.is_file()),
      "arrays": [{"name": name, "shape": list(a.shape), "dtype": str(a.dtype),
                  "bytes": a.nbytes} for name, a in sorted(arrays.items())]}


def _model_of(checkpoint: t5x_reader.Checkpoint) -> dict[str, Any] | None:
  """The architecture, as far as it can be seen; None of other networks.

  A decoder's heads are seen in the configuration beside it alone.
  """
  shapes = {n: a.shape for n, a in checkpoint.parameters.items()}
  decodes = architecture.is_decoder(shapes)
  try:
    arch = (exporting.architecture_of(
        checkpoint, run_context.find(checkpoint.path)) if decodes
            else architecture.infer(shapes))
  except errors.UserError:
    return None
  fields = dataclasses.asdict(arch)
  if isinstance(arch, architecture.DecoderArchitecture):
    adapters = [shape for name, shape in shapes.items()
                if name.endswith("lora_a")]
    return {**fields, "gin_file": gin_decoder.known_file(fields),
            "lora_rank": adapters[0][-1] if adapters else 0}
  # A tree does not show these.
  del fields["dropout_rate"], fields["mlp_activations"]
  return {**fields, "gated_mlp": len(arch.mlp_activations) > 1,
          "gin_file": gin_model.known_file(arch)}


def inspect(path: str) -> dict[str, Any]:
  """Describes whatever checkpoint is at `path`.

  Returns:
    path, format, step, model (or None), parameters (their number), bytes,
    stored_bytes (None if it is remote) and arrays.

  Raises:
    errors.UserError: there is none.
  """
  path = locations.absolute(path)
  if "://" not in path:
    local = pathlib.Path(path)
    if local.suffix == ".safetensors" and local.is_file():
      slots = safetensors_files.read_header(local)
      return _describe(path, "safetensors", slots, slots)
    if (local / "config.json").is_file():
      tensors = hf_weights.open_folder(local)
      return _describe(path, "Hugging Face", tensors, tensors)
  checkpoint = t5x_reader.open_checkpoint(path)
  return _describe(
      checkpoint.path, f"T5X ({checkpoint.layout})", checkpoint.arrays,
      checkpoint.parameters, checkpoint.step, _model_of(checkpoint))


def size(count: float) -> str:
  """Bytes, in words: `1.3 GB`."""
  for unit in ("B", "kB", "MB"):
    if count < 1000:
      return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
    count /= 1000
  return f"{count:.1f} GB"


def text(found: Mapping[str, Any]) -> str:
  """The description as a table for people."""
  lines = [f"{found['path']}: {found['format']}"
           + (f", step {found['step']:,}" if found["step"] is not None else "")]
  if model := found["model"]:
    if "num_kv_heads" in model:
      network = (
          f"decoder: {model['num_layers']} layers, width {model['emb_dim']}, "
          f"{model['num_heads']} heads and {model['num_kv_heads']} key-value "
          f"heads of {model['head_dim']}, MLP of {model['mlp_dim']}, "
          f"vocabulary {model['vocab_size']:,}, rotary positions to the base "
          f"{model['rope_theta']:g} (scaling: {model['rope_scaling']})")
    else:
      network = (
          f"T5: {model['num_encoder_layers']} + {model['num_decoder_layers']} "
          f"layers, width {model['emb_dim']}, {model['num_heads']} heads of "
          f"{model['head_dim']}, {'gated' if model['gated_mlp'] else 'plain'} "
          f"MLP of {model['mlp_dim']}, vocabulary {model['vocab_size']:,}")
    rank, file = model.get("lora_rank"), model["gin_file"]
    lines.append(
        f"{network}, {'tied' if model['logits_via_embedding'] else 'own'} head"
        + (f", adapters of rank {rank}" if rank else "")
        + (f" ({file})" if file else ""))
  lines.append("")
  width = max((len(a["name"]) for a in found["arrays"]), default=0)
  for array in found["arrays"]:
    shape = " x ".join(map(str, array["shape"])) or "scalar"
    lines.append(f"{array['name']:<{width}}  {shape:>14}  "
                 f"{array['dtype']:<8}  {size(array['bytes']):>8}")
  stored = found["stored_bytes"]
  lines.append("")
  lines.append(
      f"{len(found['arrays'])} arrays, {found['parameters']:,} parameters, "
      f"{size(found['bytes'])}"
      + (f", {size(stored)} on disk" if stored is not None else ""))
  return "\n".join(lines)
