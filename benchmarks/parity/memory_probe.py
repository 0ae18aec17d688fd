"""Compiles a gin file's train step for a slice, on the engine that is set.

    python -m benchmarks.parity.memory_probe OUT.json TOPOLOGY FILES BINDINGS

FILES and BINDINGS are JSON lists; what XLA says of the memory goes to OUT.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from unittest import mock

from stepdistill_jax.plan import chips, programs
from stepdistill_jax.util import t5x_finder


@contextlib.contextmanager
def _devices_for_google(devices):
  """Google's T5X asks JAX for the devices; the embedded engine gets them."""
  import jax
  if t5x_finder.current_engine() == "embedded":
    yield
    return
  local = [d for d in devices if d.process_index == 0]
  with mock.patch.object(jax, "devices", lambda *_: list(devices)), \
       mock.patch.object(jax, "local_devices", lambda *_, **__: local), \
       mock.patch.object(jax, "device_count", lambda *_: len(devices)), \
       mock.patch.object(jax, "local_device_count", lambda *_: len(local)):
    yield


def main() -> None:
  output, topology, files, bindings = sys.argv[1:]
  programs.prepare_process(chips.parse(topology), engine=None)
  devices = programs.devices_of(chips.parse(topology))
  with _devices_for_google(devices), programs.parsed(
      json.loads(files), json.loads(bindings), devices) as config:
    compiled = programs.build(config).compile("train", quick=True)
  stats = compiled.executable.memory_analysis()
  found = {
      "arguments": stats.argument_size_in_bytes,
      "outputs": stats.output_size_in_bytes,
      "aliased": stats.alias_size_in_bytes,
      "temporaries": stats.temp_size_in_bytes,
      "program": stats.generated_code_size_in_bytes}
  found["total"] = sum(found.values()) - 2 * found["aliased"]
  pathlib.Path(output).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
  main()
