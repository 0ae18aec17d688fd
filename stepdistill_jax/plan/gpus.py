"""GPUs as XLA's compiler asks to have an absent one described.

The numbers are those that OpenXLA keeps for its own compilations
without a GPU (`xla/backends/gpu/target_config/specs`).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
  """A GPU as XLA's compiler describes it.

  Attributes:
    description: the driver's name of it.
    capability: CUDA compute capability, the major number.
    cores: streaming multiprocessors.
    fpus: float32 units of a core.
    clock: in GHz.
    memory: in bytes.
    bandwidth: of memory, in bytes/s.
    l2_cache: in bytes.
    shared_memory: of a core, in bytes.
  """

  description: str
  capability: int
  cores: int
  fpus: int
  clock: float
  memory: int
  bandwidth: int
  l2_cache: int
  shared_memory: int

  def config(self) -> str:
    """A `stream_executor.GpuTargetConfigProto` in text form."""
    device: Mapping[str, float] = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32,
        "threads_per_core_limit": 2048, "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536, "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": self.shared_memory,
        # A block may take all of a core's but 1 KiB.
        "shared_memory_per_block_optin": self.shared_memory - 1024,
        "core_count": self.cores, "fpus_per_core": self.fpus,
        "clock_rate_ghz": self.clock, "l2_cache_size": self.l2_cache,
        "device_memory_size": self.memory, "memory_bandwidth": self.bandwidth}
    fields = " ".join(f"{name}: {value}" for name, value in device.items())
    return (f"gpu_device_info {{ {fields} "
            f"cuda_compute_capability {{ major: {self.capability} }} }} "
            'platform_name: "CUDA" '
            "dnn_version_info { major: 9 minor: 10 patch: 0 } "
            f'device_description_str: "{self.description}"')


TARGETS: Mapping[str, Target] = {
    "a100": Target("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 85100068864,
                   2039040000000, 41943040, 167936),
    "h100": Target("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 84942979072,
                   3352320000000, 52428800, 233472),
    "h200": Target("NVIDIA H200 141GB HBM3e", 9, 132, 128, 1.98, 151397597184,
                   4800000000000, 52428800, 233472),
    "b200": Target("NVIDIA B200", 10, 148, 128, 1.965, 191514411008,
                   7672320000000, 132644864, 233472),
}
