"""Which devices each of several processes has."""

import os

import pytest

from stepdistill_jax.study import places
from stepdistill_jax.util import devices, errors


@pytest.fixture(name="machine")
def _machine(monkeypatch):
  for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
    monkeypatch.delenv(name, raising=False)

  def machine(platform, nodes):
    monkeypatch.setattr(
        devices, "present", lambda: {platform: nodes} if nodes else {})

  return machine


def test_each_accelerator_has_a_process_of_its_own(machine, monkeypatch):
  machine("cuda", [f"/dev/nvidia{i}" for i in range(4)])
  place = places.of_machine()
  assert (place.number, place.platforms, place.threads) == (4, "", None)
  assert [e["CUDA_VISIBLE_DEVICES"] for e in place.environments] == list("0123")
  assert str(place) == "4 x cuda, 4 at a time"
  two = places.of_machine(2)
  assert [e["CUDA_VISIBLE_DEVICES"] for e in two.environments] == ["0,1", "2,3"]
  assert places.of_machine(1).environments == ()
  with pytest.raises(errors.UserError, match="--workers=3: 4 devices of cuda"):
    places.of_machine(3)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
  assert [e["CUDA_VISIBLE_DEVICES"] for e in places.of_machine().environments
          ] == ["2", "3"]
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert places.of_machine().environments == ()


def test_chips_of_a_tpu_have_a_process_each_or_one_together(machine):
  machine("tpu", ["/dev/vfio/0", "/dev/vfio/1"])
  assert [e["TPU_VISIBLE_CHIPS"] for e in places.of_machine().environments
          ] == ["0", "1"]
  assert places.of_machine(1).environments == ()
  machine("tpu", [f"/dev/accel{i}" for i in range(4)])
  with pytest.raises(errors.UserError, match="not shared by so many"):
    places.of_machine(2)


def test_processes_on_a_cpu_share_its_processors(machine, monkeypatch):
  machine("cpu", [])
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
  place = places.of_machine()
  assert (place.number, place.threads) == (1, None)
  assert places.of_machine(3).threads == 2
  assert str(places.of_machine(2)) == "the CPU's 8 processors, 2 at a time"
