#!/usr/bin/env bash
# Commands of launch/tpu_pod.sh on each host of a slice. The run continues without a connection.
#
#   start RECIPE ...   start jaxrep train, unless it runs
#   follow             show its output until it ends; exit status: that of the run, or 143 after stop
#   stop               ask it to save and exit
set -uo pipefail

STOPPED=143
state=~/jaxrep-run # pid, status, stopped, log
here=$(cd "$(dirname "$0")" && pwd)

runs() {
    [[ -s $state/pid ]] && kill -0 "$(<"$state/pid")" 2>/dev/null
}

start() {
    if runs; then
        echo "a run is already active, as process $(<"$state/pid")"
        return
    fi
    mkdir -p "$state"
    rm -f "$state"/{pid,status,stopped}
    nohup bash "$here/tpu_host.sh" train "$@" >>"$state/log" 2>&1 </dev/null &
    until [[ -s $state/pid ]]; do sleep 0.1; done
}

train() {
    cd "$here/.." || return
    JAXREP_HOSTS=auto "${JAXREP:-.venv/bin/jaxrep}" train "$@" &
    echo "$!" >"$state/pid"
    wait "$!"
    echo "$?" >"$state/status"
}

follow() {
    if [[ ! -s $state/pid ]]; then
        echo 'no run was started on this host' >&2
        return 1
    fi
    tail -n 100 -F --pid="$(<"$state/pid")" "$state/log"
    [[ -e $state/stopped ]] && return "$STOPPED"
    for _ in {1..50}; do [[ -s $state/status ]] && return "$(<"$state/status")"; sleep 0.1; done
    echo 'the host restarted during training' >&2
    return 1
}

stop() {
    touch "$state/stopped"
    runs && kill -TERM "$(<"$state/pid")"
}

"$@"
