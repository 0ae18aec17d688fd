#!/usr/bin/env bash
# Trains on the GPUs of this machine, one process for all of them.
#
#   launch/gpu/single_machine.sh train --gin_file=... --gin.MODEL_DIR=...
#
# Starts again, up to RESTARTS times (10), when training saved because it was
# told to end (exit code 75) or was killed by a signal; a mistake (2) ends it.
set -euo pipefail

[[ $# -gt 0 ]] || {
  echo "error: t5x's arguments are missing, such as: train --gin_file=..." >&2
  exit 2
}

command -v t5x > /dev/null || {
  echo "error: t5x is not on PATH; activate the environment that this project" \
    "is installed in" >&2
  exit 2
}
[[ "${RESTARTS:=10}" =~ ^[0-9]+$ ]] || {
  echo "error: RESTARTS=${RESTARTS}: expected a whole number" >&2
  exit 2
}

stopped=''
child=''
trap 'stopped=1; [[ -z "${child}" ]] || kill -TERM "${child}"' TERM INT

for ((restart = 0; restart <= RESTARTS; restart++)); do
  t5x "$@" &
  child=$!
  code=0
  # A trapped signal ends `wait` before the child does.
  while wait "${child}" || code=$?; [[ ${code} -gt 128 ]] \
      && kill -0 "${child}" 2>/dev/null; do code=0; done
  [[ -z "${stopped}" ]] || exit "${code}"
  if [[ ${code} -ne 75 && ${code} -le 128 ]]; then
    exit "${code}"
  fi
  echo "[launch] t5x ended with ${code}; starting it again" >&2
done
echo "[launch] gave up after ${RESTARTS} restarts" >&2
exit 1
