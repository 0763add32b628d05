# shellcheck shell=bash
# Sourced by tools/setup and tools/ffmpeg. `again COMMAND...` runs one command that needs the network,
# and what fails now and then is tried again, later each time. Not for a list of commands: within
# one that is tried, `set -e` does not hold.
again() {
    local pause
    for pause in 5 20 60; do
        "$@" && return
        printf '%s failed; again in %s s\n' "$1" "$pause" >&2
        sleep "$pause"
    done
    "$@"
}
