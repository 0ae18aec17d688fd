#!/usr/bin/env bash
# Trains on TPUs of a Google Kubernetes Engine cluster, with xpk.
#
#   gke.sh create --cluster=C --zone=Z --project=P --tpu-type=v5litepod-16 --spot
#   gke.sh image  --project=P --image=gcr.io/P/stepdistill
#   gke.sh run    --cluster=C --zone=Z --project=P --tpu-type=v5litepod-16 \
#                 --image=gcr.io/P/stepdistill --name=N -- --gin_file=... \
#                 --gin.MODEL_DIR=\"gs://bucket/run\"
#   gke.sh logs --name=N
#   gke.sh list | stop | delete  (with --cluster, --zone and --project)
#
# GKE restarts the workload's pods when one is lost or preempted; training goes
# on from the last checkpoint. So MODEL_DIR must be a gs:// path. `t5x`
# recognizes the variables that GKE sets in each pod.
set -euo pipefail

# What `t5x train` returns after it saved because of a SIGTERM: EX_TEMPFAIL. By
# default xpk restarts after 42 and 127 to 255 alone, and fails the workload
# after any other code: right for a user's mistake (2), not for this one.
readonly EXIT_PREEMPTED=75
# Between SIGTERM and SIGKILL: time to save. xpk's own 30 s are short for XXL.
readonly GRACE_SECONDS=180
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly ROOT
# shellcheck source=launch/common.sh
source "${ROOT}/launch/common.sh"

usage() {
  cat <<'EOF'
usage: gke.sh SUBCOMMAND [options] [-- T5X_ARGS]

subcommands
  create   make the cluster with one node pool a slice
  image    build and push the image of this checkout
  run      start `t5x train T5X_ARGS` as a workload on all slices
  list     the cluster's workloads
  logs     follow the log of worker 0 of slice 0
  stop     delete the workload
  delete   delete the cluster

options
  --cluster=NAME  --zone=ZONE  --project=ID
  --tpu-type=TYPE  e.g. v5litepod-16, v4-32, v5p-8, v6e-8
  --num-slices=N   slices joined over the data-center network (1)
  --image=NAME     docker image, e.g. gcr.io/PROJECT/stepdistill
  --name=NAME      of the workload
  --restarts=N     how often GKE restarts the workload (100)
  --spot           cheaper, may be preempted
  --dry-run        print every command instead of running it
EOF
}

require() {
  local option
  for option in "$@"; do
    local variable="${option//-/_}"
    variable="${variable^^}"
    [[ -n "${!variable}" ]] || die "--${option} is missing"
  done
}

parse_arguments() {
  [[ $# -gt 0 ]] || { usage >&2; exit 2; }
  SUBCOMMAND="$1"; shift
  CLUSTER='' ZONE='' PROJECT='' TPU_TYPE='' IMAGE='' NAME='' SPOT='' DRY_RUN=''
  NUM_SLICES=1 RESTARTS=100
  T5X_ARGS=()
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --cluster=*) CLUSTER="${1#*=}" ;;
      --zone=*) ZONE="${1#*=}" ;;
      --project=*) PROJECT="${1#*=}" ;;
      --tpu-type=*) TPU_TYPE="${1#*=}" ;;
      --num-slices=*) NUM_SLICES="${1#*=}" ;;
      --image=*) IMAGE="${1#*=}" ;;
      --name=*) NAME="${1#*=}" ;;
      --restarts=*) RESTARTS="${1#*=}" ;;
      --spot) SPOT=1 ;;
      --dry-run) DRY_RUN=1 ;;
      -h|--help) usage; exit 0 ;;
      --) shift; T5X_ARGS=("$@"); break ;;
      *) die "unknown option $1: options are written --option=VALUE, T5X's" \
           "own arguments go after --" ;;
    esac
    shift
  done
  whole_number --num-slices "${NUM_SLICES}"
  whole_number --restarts "${RESTARTS}"
}

on_cluster() {
  require cluster zone project
  do_it xpk "$@" --cluster="${CLUSTER}" --zone="${ZONE}" \
    --project="${PROJECT}"
}

create() {
  require tpu-type
  local kind=--on-demand
  [[ -z "${SPOT}" ]] || kind=--spot
  on_cluster cluster create --tpu-type="${TPU_TYPE}" \
    --num-slices="${NUM_SLICES}" "${kind}"
}

image() {
  require image project
  do_it docker build --file="${ROOT}/launch/gke/Dockerfile" \
    --tag="${IMAGE}" "${ROOT}"
  do_it docker push "${IMAGE}"
}

run() {
  require name image tpu-type
  [[ ${#T5X_ARGS[@]} -gt 0 ]] || die "t5x's arguments are missing: put them" \
    "after --, e.g. -- --gin_file=gin/recipes/svamp_step_by_step.gin"
  local quoted
  quoted="$(printf '%q ' "${T5X_ARGS[@]}")"
  on_cluster workload create --workload="${NAME}" \
    --docker-image="${IMAGE}" --tpu-type="${TPU_TYPE}" \
    --num-slices="${NUM_SLICES}" --max-restarts="${RESTARTS}" \
    --restart-on-exit-codes="${EXIT_PREEMPTED}" \
    --termination-grace-period-seconds="${GRACE_SECONDS}" \
    --command="t5x train ${quoted% }"
}

list() { on_cluster workload list; }
stop() { require name; on_cluster workload delete --workload="${NAME}"; }
delete() { on_cluster cluster delete; }

logs() {
  require name
  # With a selector kubectl begins 10 lines before the end, unless told.
  do_it kubectl logs --follow --tail=100 \
    --selector="jobset.sigs.k8s.io/jobset-name=${NAME},\
jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
}

parse_arguments "$@"
case "${SUBCOMMAND}" in
  create|image|run|list|logs|stop|delete) "${SUBCOMMAND}" ;;
  -h|--help|help) usage ;;
  *) usage >&2; die "unknown subcommand ${SUBCOMMAND}" ;;
esac
