#!/usr/bin/env bash
# Sets what matters for JAX on NVIDIA GPUs; source it before `t5x`.
#
#   source launch/gpu/environment.sh
#
# What is set already stays as it is.

# Matrix products of all sizes are timed and the best kernel taken: some of a
# T5's (head_dim 64, small decoders) are far from the heuristics' choice.
# The scheduler overlaps collectives with computation, at the cost of memory
# for what is in flight: with sharded parameters each layer's all-gather hides
# behind the layer before it.
_flags=(
  --xla_gpu_enable_latency_hiding_scheduler=true
  --xla_gpu_autotune_level=4
)
for _flag in "${_flags[@]}"; do
  case " ${XLA_FLAGS:-} " in
    *" ${_flag%%=*}="*) ;;  # The user's own value.
    *) XLA_FLAGS="${XLA_FLAGS:+${XLA_FLAGS} }${_flag}" ;;
  esac
done
export XLA_FLAGS

# JAX takes 75% of a GPU by default. TensorFlow, which only reads data, is kept
# off GPUs by `t5x` itself, so that nearly all can be JAX's.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"

# One connection queue: NCCL's kernels start in the order of the program, which
# is what lets the scheduler above overlap them.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"

unset _flag _flags
