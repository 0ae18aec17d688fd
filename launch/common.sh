# shellcheck shell=bash
# Sourced by the launch scripts. They set DRY_RUN before they call `do_it`.

die() { echo "error: $*" >&2; exit 2; }

# Runs a command, or prints it so that it can be pasted into a shell.
do_it() {
  if [[ -n "${DRY_RUN}" ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}
