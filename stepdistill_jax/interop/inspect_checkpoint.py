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


def _stored_bytes(folder: pathlib.Path) -> int:
  return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _describe(arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
  return [{"name": name, "shape": list(a.shape), "dtype": str(a.dtype),
           "bytes": a.nbytes} for name, a in sorted(arrays.items())]


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


def inspect_t5x(path) -> dict[str, Any]:
  """Describes a T5X checkpoint.

  Returns:
    path, format, step, model (or None), parameters (their number), bytes,
    stored_bytes (None if it is remote) and arrays.
  """
  checkpoint = t5x_reader.open_checkpoint(path)
  parameters = checkpoint.parameters
  local = "://" not in checkpoint.path
  return {
      "path": checkpoint.path,
      "format": f"T5X ({checkpoint.layout})",
      "step": checkpoint.step,
      "model": _model_of(checkpoint),
      "parameters": sum(a.nbytes // a.dtype.itemsize
                        for a in parameters.values()),
      "bytes": sum(a.nbytes for a in checkpoint.arrays.values()),
      "stored_bytes": (
          _stored_bytes(pathlib.Path(checkpoint.path)) if local else None),
      "arrays": _describe(checkpoint.arrays),
  }


def inspect_hf(folder: pathlib.Path) -> dict[str, Any]:
  """Describes a Hugging Face folder, likewise."""
  tensors = hf_weights.open_folder(folder)
  return {
      "path": str(folder),
      "format": "Hugging Face",
      "step": None,
      "model": None,
      "parameters": sum(t.nbytes // t.dtype.itemsize
                        for t in tensors.values()),
      "bytes": sum(t.nbytes for t in tensors.values()),
      "stored_bytes": _stored_bytes(folder),
      "arrays": _describe(tensors),
  }


def inspect_file(file: pathlib.Path) -> dict[str, Any]:
  """Describes one safetensors file, likewise."""
  slots = safetensors_files.read_header(file)
  return {
      "path": str(file), "format": "safetensors", "step": None, "model": None,
      "parameters": sum(s.nbytes // s.dtype.itemsize for s in slots.values()),
      "bytes": sum(s.nbytes for s in slots.values()),
      "stored_bytes": file.stat().st_size,
      "arrays": _describe(slots),
  }


def inspect(path: str) -> dict[str, Any]:
  """Describes whatever checkpoint is at `path`.

  Raises:
    errors.UserError: there is none.
  """
  path = locations.absolute(path)
  if "://" in path:
    return inspect_t5x(path)
  local = pathlib.Path(path)
  if local.suffix == ".safetensors" and local.is_file():
    return inspect_file(local)
  if (local / "config.json").is_file():
    return inspect_hf(local)
  return inspect_t5x(path)


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
  model = found["model"]
  if model and "num_kv_heads" in model:
    lines.append(
        f"decoder: {model['num_layers']} layers, width {model['emb_dim']}, "
        f"{model['num_heads']} heads and {model['num_kv_heads']} key-value "
        f"heads of {model['head_dim']}, MLP of {model['mlp_dim']}, "
        f"vocabulary {model['vocab_size']:,}, rotary positions to the base "
        f"{model['rope_theta']:g} (scaling: {model['rope_scaling']}), "
        f"{'tied' if model['logits_via_embedding'] else 'own'} head"
        + (f", adapters of rank {model['lora_rank']}" if model["lora_rank"]
           else "")
        + (f" ({model['gin_file']})" if model["gin_file"] else ""))
  elif model:
    lines.append(
        f"T5: {model['num_encoder_layers']} + {model['num_decoder_layers']} "
        f"layers, width {model['emb_dim']}, {model['num_heads']} heads of "
        f"{model['head_dim']}, {'gated' if model['gated_mlp'] else 'plain'} "
        f"MLP of {model['mlp_dim']}, vocabulary {model['vocab_size']:,}, "
        f"{'tied' if model['logits_via_embedding'] else 'own'} head"
        + (f" ({model['gin_file']})" if model["gin_file"] else ""))
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
