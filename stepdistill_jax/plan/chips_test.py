"""Names of slices as people write them."""

import pytest

from stepdistill_jax.plan import chips
from stepdistill_jax.util import errors


@pytest.mark.parametrize("written, name, num_chips", [
    ("v5e:4x4", "v5e:4x4", 16), ("v5e-16", "v5e:4x4", 16),
    ("v5litepod-16", "v5e:4x4", 16), ("V5LitePod-4", "v5e:2x2", 4),
    ("v4-32", "v4:2x2x4", 16), ("v4-8", "v4:2x2x1", 4),
    ("tpu v4:2x2", "v4:2x2x1", 4), ("v5p-8", "v5p:2x2x1", 4),
    ("v6e-8", "v6e:2x4", 8), ("trillium-256", "v6e:16x16", 256),
    ("h100-1", "h100-1", 1), ("H200-8", "h200-8", 8), ("a100-4", "a100-4", 4),
    ("b200-16", "2 x b200-8", 16)])
def test_names_as_people_write_them(written, name, num_chips):
  topology = chips.parse(written)
  assert (topology.name, topology.num_chips) == (name, num_chips)


def test_every_known_name_is_understood_and_names_itself():
  for name in chips.known_names():
    topology = chips.parse(name)
    assert chips.parse(topology.name) == topology
    assert chips.parse(topology.accelerator_type) == topology


@pytest.mark.parametrize("written, words", [
    ("v9-8", r"v6e-\{1,4,8,"), ("", r"known: v4-\{8,"),
    ("v5e-17", "v5e-16"), ("v4-9", "v4-32"), ("v5e:3x5", "v5e:4x4"),
    ("v5e:0x0", "v5e:4x4"), ("h1000-8", r"v5e-\{1,.*v5litepod-16"),
    ("h100-12", "h100-8, or hosts of 8, such as h100-16"),
    ("h100:2x4", "h100-8, or hosts")])
def test_unknown_names_are_answered_with_the_known(written, words):
  with pytest.raises(errors.UserError, match=words):
    chips.parse(written)


def test_every_chip_has_a_source():
  for chip in chips.CHIPS.values():
    assert chip.source and min(
        chip.flops, chip.hbm_bytes, chip.hbm_bandwidth, chip.ici_bandwidth) > 0


def test_jax_takes_a_share_of_a_gpu_s_memory(monkeypatch):
  gpu = chips.CHIPS["h100"]
  monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
  assert gpu.usable_bytes == 0.92 * gpu.hbm_bytes
  monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".95")
  assert gpu.usable_bytes == 0.95 * gpu.hbm_bytes
  assert chips.CHIPS["v5e"].usable_bytes == chips.CHIPS["v5e"].hbm_bytes
  monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
  with pytest.raises(errors.UserError, match="MEM_FRACTION=most: expected"):
    assert gpu.usable_bytes
