"""Collectives are counted from XLA's text, with the turns of loops."""

import pytest

from stepdistill_jax.plan import hlo

_TEXT = """\
HloModule jit_f, is_scheduled=true

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (p: f32[64]) -> f32[16] {
  %p = f32[64]{0} parameter(0)
  ROOT %all-reduce.9 = f32[64]{0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.1
}

%body (arg: (s32[], bf16[8,32])) -> (s32[], bf16[8,32]) {
  %arg = (s32[], bf16[8,32]) parameter(0)
  %w = bf16[4,32]{1,0} get-tuple-element(%arg), index=1
  %all-gather.2 = bf16[8,32]{1,0:T(8,128)(2,1)} all-gather(%w), replica_groups=[4,2]<=[8], dimensions={0}
  %fusion.1 = f32[16]{0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t = (s32[], bf16[8,32]) tuple(%w)
}

%condition (arg.1: (s32[], bf16[8,32])) -> pred[] {
  %arg.1 = (s32[], bf16[8,32]) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p0: f32[100]) -> f32[100] {
  %p0 = f32[100]{0} parameter(0)
  %while.1 = (s32[], bf16[8,32]) while(%p0), condition=%condition, body=%body
  %all-reduce.1 = f32[100]{0} all-reduce(%p0), replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add.1
  ROOT %r = f32[25]{0} reduce-scatter(%p0), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.1
}
"""


def test_bytes_and_counts_by_kind():
  found = hlo.collectives(_TEXT, num_devices=8)
  assert found.count == {
      "all-gather": 5, "reduce-scatter": 6, "all-reduce": 1}
  assert found.unknown_loops == 0
  assert found.bytes["all-gather"] == pytest.approx(5 * 8 * 32 * 2 / 2)
  assert found.bytes["all-reduce"] == pytest.approx(2 * 400 * 3 / 4)
  # 5 turns of the fused one, and the plain one, whose text has a part.
  assert found.bytes["reduce-scatter"] == pytest.approx(
      5 * 256 * 3 / 4 + 400 * 3 / 4)


def test_a_loop_without_a_constant_end_is_reported():
  text = _TEXT.replace("constant(5)", "parameter(1)")
  found = hlo.collectives(text, num_devices=8)
  assert found.unknown_loops == 1
  assert found.count["all-gather"] == 1


def test_transfers_between_slices_are_a_kind_of_their_own():
  text = """\
ENTRY %main (p0: f32[100]) -> f32[100] {
  %p0 = f32[100]{0} parameter(0)
  %send = (f32[32,8]{1,0:T(8,128)}, u32[], token[]) send(%p0, %t), is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM"}
  ROOT %s2 = (f32[32,8]{1,0}, u32[], token[]) send(%p0, %t), is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
}
"""
  found = hlo.collectives(text, num_devices=8, num_slices=4)
  assert found.count == {"between slices": 2}
  assert found.bytes_between_slices == pytest.approx(1024 * (2 * 3 / 4 + 3))
  assert found.bytes_in_slice == 0


@pytest.mark.parametrize("groups, inside, between", [
    ("{{0,1},{2,3},{4,5},{6,7}}", 2 * 400 / 2, 0),
    ("{{0,4},{1,5},{2,6},{3,7}}", 0, 2 * 400 / 2),
    # Four in each of two hosts: a quarter of the array goes between them.
    ("{}", 2 * 400 * 3 / 4, 2 * 100 / 2),
    ("[1,8]<=[8]", 2 * 400 * 3 / 4, 2 * 100 / 2),
    ("[4,2]<=[2,4]T(1,0)", 0, 2 * 400 / 2),
    ("mesh['a'=2,'b'=4] {'a'}", 0, 2 * 400 / 2),
    ("mesh['a'=2,'b'=4] {'b'}", 2 * 400 * 3 / 4, 0)])
def test_gpus_of_several_hosts(groups, inside, between):
  text = ("ENTRY %main (p0: f32[100]) -> f32[100] {\n"
          "  ROOT %r = f32[100]{0} all-reduce(%p0), "
          f"replica_groups={groups}, to_apply=%add\n}}\n")
  found = hlo.collectives(text, 8, 2, split=False)
  assert found.bytes_in_slice == pytest.approx(inside)
  assert found.bytes_between_slices == pytest.approx(between)


def test_a_ring_of_gpus_is_as_slow_as_the_link_between_its_hosts():
  text = ("ENTRY %main (p0: f32[100]) -> f32[100] {\n  ROOT %r = f32[100]{0} "
          "collective-permute(%p0), source_target_pairs={{0,1},{1,2},{2,3},"
          "{3,0}}\n}\n")
  found = hlo.collectives(text, 4, 2, split=False)
  assert (found.bytes_in_slice, found.bytes_between_slices) == (0, 400)
  assert hlo.collectives(text, 4).bytes == {"collective-permute": 400}


def test_kernels_count_for_each_turn_of_their_loop():
  # Twice in each of five turns, and the two behind the loop.
  assert hlo.kernels(_TEXT) == 5 * 2 + 2
  assert hlo.kernels(_TEXT, each_turn=False) == 2 + 2
