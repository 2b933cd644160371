# shellcheck shell=sh
# Sourced by box.sh and vm.sh: how they speak and how they go on, step by step. $speaker is whose words they are, $log
# keeps what the commands say. What the steps are does not belong here.

say() { echo "$speaker: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# Where else to look after a step that failed.
hint() { :; }

# step WORDS COMMAND...: runs it with its output in the log; shows how long it took, or why it failed.
step() {
    words=$1
    shift
    started=$(date +%s)
    say "$words"
    # Waited for, not tested: where a function is tested the shell ignores that its commands fail.
    (set -e && "$@") >>"$log" 2>&1 </dev/null &
    if ! wait $!; then
        tail -n 20 "$log" | sed 's/^/    /' >&2
        die "$words: failed; all that was said is in $log$(hint)"
    fi
    say "    done after $(($(date +%s) - started)) s"
}
