#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a pod slice, from creation to results.
#
#   tpu_vm.sh create --name=N --zone=Z --type=v5litepod-16 --spot
#   tpu_vm.sh setup  --name=N --zone=Z
#   tpu_vm.sh run    --name=N --zone=Z -- --gin_file=... --gin.MODEL_DIR=...
#   tpu_vm.sh logs   --name=N --zone=Z
#   tpu_vm.sh fetch  --name=N --zone=Z --from=gs://bucket/run --to=run
#   tpu_vm.sh delete --name=N --zone=Z
#   tpu_vm.sh watch  (create's flags) -- (run's arguments)
#
# `watch` does create, setup and run, and keeps the run alive: a preempted VM
# cannot be started again, so it is deleted and made anew, and training goes on
# from the last checkpoint. MODEL_DIR must therefore be a gs:// path.
set -euo pipefail

# What `t5x train` returns after it saved because of a SIGTERM: EX_TEMPFAIL.
readonly EXIT_PREEMPTED=75
readonly REMOTE_DIR='stepdistill_run'  # Below the home folder of each worker.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly ROOT
# shellcheck source=launch/common.sh
source "${ROOT}/launch/common.sh"

usage() {
  cat <<'EOF'
usage: tpu_vm.sh SUBCOMMAND --name=NAME --zone=ZONE [options] [-- T5X_ARGS]

subcommands
  create   make the TPU VM (on demand; --spot; or --queued)
  setup    copy this checkout to all workers and install it with [tpu]
  run      start `t5x train T5X_ARGS` on all workers, in the background
  logs     follow worker 0's log (--worker=N for another)
  status   the VM's state, and the run's exit code once it has one
  watch    create, setup, run; make anew after each preemption until done
  fetch    copy --from (gs:// folder, or a path on worker 0) to --to
  delete   delete the VM (and its queued resource with --queued)

options
  --project=ID       default: gcloud's current project
  --type=TYPE        accelerator type, e.g. v4-32, v5litepod-16, v5p-8, v6e-8
  --version=VERSION  runtime; default: the one that fits --type
  --spot             cheaper, may be preempted
  --queued           through a queued resource: waits for capacity
  --poll=SECONDS     how often `watch` looks (60)
  --restarts=N       how many preemptions `watch` survives (100)
  --dry-run          print every command instead of running it

example
  tpu_vm.sh watch --name=svamp --zone=us-central2-b --type=v4-8 --spot -- \
    --gin_file=gin/recipes/svamp_step_by_step_base.gin \
    --gin.MODEL_DIR='"gs://bucket/svamp"'
EOF
}

say() { echo "[tpu_vm] $*" >&2; }

parse_arguments() {
  [[ $# -gt 0 ]] || { usage >&2; exit 2; }
  case "$1" in -h|--help|help) usage; exit 0 ;; esac
  SUBCOMMAND="$1"; shift
  NAME='' ZONE='' PROJECT='' TYPE='' VERSION='' SPOT='' QUEUED='' DRY_RUN=''
  WORKER=0 FROM='' TO='' POLL=60 RESTARTS=100
  T5X_ARGS=()
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --name=*) NAME="${1#*=}" ;;
      --zone=*) ZONE="${1#*=}" ;;
      --project=*) PROJECT="${1#*=}" ;;
      --type=*) TYPE="${1#*=}" ;;
      --version=*) VERSION="${1#*=}" ;;
      --worker=*) WORKER="${1#*=}" ;;
      --from=*) FROM="${1#*=}" ;;
      --to=*) TO="${1#*=}" ;;
      --poll=*) POLL="${1#*=}" ;;
      --restarts=*) RESTARTS="${1#*=}" ;;
      --spot) SPOT=1 ;;
      --queued) QUEUED=1 ;;
      --dry-run) DRY_RUN=1 ;;
      -h|--help) usage; exit 0 ;;
      --) shift; T5X_ARGS=("$@"); break ;;
      *) die "unknown option $1: options are written --option=VALUE, T5X's" \
           "own arguments go after --" ;;
    esac
    shift
  done
  whole_number --worker "${WORKER}"
  whole_number --poll "${POLL}"
  whole_number --restarts "${RESTARTS}"
  [[ -n "${NAME}" ]] || die "--name is missing"
  [[ -n "${ZONE}" ]] || die "--zone is missing, e.g. --zone=us-central2-b"
  LOCATION=(--zone="${ZONE}")
  [[ -z "${PROJECT}" ]] || LOCATION+=(--project="${PROJECT}")
}

# The runtime that Cloud TPU documents for each generation.
runtime_version() {
  case "${TYPE}" in
    v2-*|v3-*|v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "no runtime known for --type='${TYPE}'; known: v2-, v3-, v4-," \
      "v5litepod-, v5p-, v6e-; give --version" ;;
  esac
}

tpu_vm() { do_it gcloud compute tpus tpu-vm "$@" "${LOCATION[@]}"; }
queued() { do_it gcloud compute tpus queued-resources "$@" "${LOCATION[@]}"; }
on_all() { tpu_vm ssh "${NAME}" --worker=all --command="$1"; }

# READY, PREEMPTED, ...; ABSENT, or UNKNOWN where gcloud could not find out.
vm_state() {
  local answer
  if answer="$(gcloud compute tpus tpu-vm describe "${NAME}" \
      "${LOCATION[@]}" --format='value(state)' 2>&1)"; then
    echo "${answer##*$'\n'}"  # After what it may warn of.
  elif [[ "${answer,,}" == *not*found* ]]; then
    echo ABSENT
  else
    say "${answer%%$'\n'*}"
    echo UNKNOWN
  fi
}

create() {
  [[ -n "${TYPE}" ]] || die "--type is missing, e.g. --type=v5litepod-16"
  local version="${VERSION}"
  # Assigned apart from `local`, which would hide a failure.
  [[ -n "${version}" ]] || version="$(runtime_version)" || return 2
  local spot=()
  [[ -z "${SPOT}" ]] || spot=(--spot)
  if [[ -n "${QUEUED}" ]]; then
    queued create "${NAME}" --node-id="${NAME}" --accelerator-type="${TYPE}" \
      --runtime-version="${version}" ${spot[@]+"${spot[@]}"} || return
    wait_until_ready
  else
    tpu_vm create "${NAME}" --accelerator-type="${TYPE}" \
      --version="${version}" ${spot[@]+"${spot[@]}"}
  fi
}

# A queued resource answers before it has capacity; its VM exists once it has.
wait_until_ready() {
  [[ -z "${DRY_RUN}" ]] || return 0
  local state
  while state="$(vm_state)"; [[ "${state}" != READY ]]; do
    say "waiting for capacity (VM ${state})"
    sleep "${POLL}"
  done
}

# The runtimes' own Python is 3.10: uv brings a newer one.
setup() {
  local archive='/tmp/stepdistill_jax.tar.gz'
  [[ -n "${DRY_RUN}" ]] || archive="$(mktemp -d)/stepdistill_jax.tar.gz"
  [[ -n "${DRY_RUN}" ]] || git -C "${ROOT}" diff --quiet HEAD \
    || say "changes that are not committed are not sent"
  do_it git -C "${ROOT}" archive --format=tar.gz -o "${archive}" HEAD || return
  tpu_vm scp "${archive}" "${NAME}:stepdistill_jax.tar.gz" --worker=all \
    || return
  on_all "mkdir -p ${REMOTE_DIR}/source \
&& tar -xzf stepdistill_jax.tar.gz -C ${REMOTE_DIR}/source \
&& python3 -m pip install --quiet --user uv \
&& ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 \
${REMOTE_DIR}/venv \
&& ~/.local/bin/uv pip install --quiet --python ${REMOTE_DIR}/venv \
--constraint ${REMOTE_DIR}/source/constraints.txt \
'${REMOTE_DIR}/source[tpu]'" || return
  [[ -n "${DRY_RUN}" ]] || rm -rf "$(dirname "${archive}")"
}

run() {
  [[ ${#T5X_ARGS[@]} -gt 0 ]] || die "t5x's arguments are missing: put them" \
    "after --, e.g. -- --gin_file=gin/recipes/svamp_step_by_step.gin"
  local quoted
  quoted="$(printf '%q ' "${T5X_ARGS[@]}")"
  # The exit code is left in a file for `status` and `watch`; the process id
  # tells whether one may still come.
  on_all "cd ${REMOTE_DIR} && rm -f exit_code \
&& (nohup sh -c 'echo \$\$ > pid; venv/bin/t5x train \"\$@\"; \
echo \$? > exit_code' t5x ${quoted}> train.log 2>&1 &)"
}

# The run's exit code; nothing while it runs; `lost` if a restart of the VM
# ended it.
run_exit_code() {
  gcloud compute tpus tpu-vm ssh "${NAME}" --worker=0 "${LOCATION[@]}" \
    --command="cat ${REMOTE_DIR}/exit_code 2>/dev/null \
|| kill -0 \$(cat ${REMOTE_DIR}/pid) 2>/dev/null || echo lost"
}

logs() {
  tpu_vm ssh "${NAME}" --worker="${WORKER}" \
    --command="tail -n 100 -F ${REMOTE_DIR}/train.log"
}

status() {
  if [[ -n "${DRY_RUN}" ]]; then
    tpu_vm describe "${NAME}" --format='value(state)'
    return
  fi
  need gcloud
  local state
  state="$(vm_state)"
  echo "VM: ${state}"
  [[ "${state}" != READY ]] || echo "exit code: $(run_exit_code)"
}

fetch() {
  [[ -n "${FROM}" && -n "${TO}" ]] || die "fetch needs --from and --to"
  if [[ "${FROM}" == gs://* ]]; then
    do_it gcloud storage cp --recursive "${FROM}" "${TO}"
  else
    tpu_vm scp --recurse "${NAME}:${FROM}" "${TO}" --worker=0
  fi
}

delete() {
  tpu_vm delete "${NAME}" --quiet
  if [[ -n "${QUEUED}" ]]; then
    queued delete "${NAME}" --quiet --force
  fi
}

# Called where a failure does not end the script: each step is asked.
start() { setup && run; }

watch() {
  [[ ${#T5X_ARGS[@]} -gt 0 ]] || die "t5x's arguments are missing: put them" \
    "after --, e.g. -- --gin_file=gin/recipes/svamp_step_by_step.gin"
  if [[ -n "${DRY_RUN}" ]]; then
    create
    start
    return
  fi
  need gcloud
  local restarts=0 started='' state code
  state="$(vm_state)"
  [[ "${state}" != UNKNOWN ]] || die "gcloud cannot find out about" \
    "--name=${NAME} --zone=${ZONE}; see above"
  # A mistake in its arguments ends it here; later failures are waited out.
  [[ "${state}" != ABSENT ]] || create
  while true; do
    state="$(vm_state)"
    case "${state}" in
      READY)
        if [[ -z "${started}" ]]; then
          if start; then started=1; else say "set-up failed; once more"; fi
        else
          # No answer is no news: the VM may be gone a moment later.
          code="$(run_exit_code)" || code=''
          case "${code}" in
            '') ;;
            0) say "done after ${restarts} restarts"; return 0 ;;
            "${EXIT_PREEMPTED}"|lost)
              say "the run was ended (${code}); starting it again"
              restarts=$((restarts + 1))
              run || say "no answer; once more" ;;
            *) say "the run failed with exit code ${code}; its log:" \
                 "tpu_vm.sh logs --name=${NAME} --zone=${ZONE}"
               return 1 ;;
          esac
        fi ;;
      CREATING|STARTING|RESTARTING|REPAIRING|REIMAGING|UNKNOWN) ;;
      *)
        say "VM ${state}: deleting it and making it anew"
        restarts=$((restarts + 1)) started=''
        [[ "${state}" == ABSENT && -z "${QUEUED}" ]] || delete || true
        create || say "no VM yet; trying again in ${POLL} s" ;;
    esac
    if [[ ${restarts} -gt ${RESTARTS} ]]; then
      say "gave up after ${RESTARTS} restarts"
      return 1
    fi
    sleep "${POLL}"
  done
}

parse_arguments "$@"
case "${SUBCOMMAND}" in
  create|setup|run|logs|status|watch|fetch|delete) "${SUBCOMMAND}" ;;
  *) usage >&2; die "unknown subcommand ${SUBCOMMAND}" ;;
esac
