# shellcheck shell=bash
# Sourced by the launch scripts. They set DRY_RUN before they call `do_it`.

die() { echo "error: $*" >&2; exit 2; }

# Dies unless a program is there; a dry run needs none.
need() {
  [[ -n "${DRY_RUN}" ]] || command -v "$1" > /dev/null \
    || die "$1 is not installed, or not on PATH; --dry-run shows what it" \
      "would be asked"
}

# Runs a command, or prints it so that it can be pasted into a shell.
do_it() {
  if [[ -n "${DRY_RUN}" ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    need "$1"
    "$@"
  fi
}

# Dies unless what an option was given is a whole number.
whole_number() {
  [[ "$2" =~ ^[0-9]+$ ]] || die "$1=$2: expected a whole number"
}
