#!/usr/bin/env bash
# Train on all hosts of a slice of Cloud TPU VMs, and request a new slice after a preemption.
#
#   bash launch/tpu_pod.sh [--dry-run] COMMAND [RECIPE --run-dir gs://BUCKET/DIR [--field.path VALUE ...]]
#
#   create    request the slice, a queued resource, and wait until it is active
#   install   send the checked-out commit to all hosts and install it
#   start     start jaxrep train on all hosts; it continues without this machine
#   follow    show the output of host 0 until the run ends; exit status: that of the run
#   resume    run all of these as needed, again after each preemption
#   stop      ask the run to save and exit; a resume ends, too
#   delete    delete the slice
#
# RECIPE is an experiment and a preset, such as clip:vit_l14. --dry-run prints the commands and runs none. These
# variables describe the slice:
set -uo pipefail

NAME=${NAME:-jaxrep}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} # v5p: v2-alpha-tpuv5; v6e: v2-alpha-tpuv6e; v4: tpu-ubuntu2204-base
CAPACITY=${CAPACITY---spot}             # or --reserved, --guaranteed; empty: on demand
EXTRAS=${EXTRAS:-tpu,gcs}
PYTHON=${PYTHON:-3.12}
POLL_SECONDS=${POLL_SECONDS:-30}

# jaxrep/runs/exit_codes.py, and launch/tpu_host.sh
DONE=0 USAGE=2 DIVERGED=3 PREEMPTED=75 STOPPED=143

dry=
checkout=$(dirname "$0")/..

run() {
    if [[ -z $dry ]]; then
        "$@"
        return
    fi
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@~+-]+$ ]] || word="'${word//\'/"'\\''"}'"
        line+="$word "
    done
    echo "${line% }"
}

tpus() {
    run gcloud compute tpus "$@" --zone="$ZONE"
}

hosts() { # HOST COMMAND...: run a command of tpu_host.sh on one host, or on all
    local command
    printf -v command ' %q' "${@:2}"
    tpus tpu-vm ssh "$NAME" --worker="$1" --command="bash jaxrep/launch/tpu_host.sh$command"
}

state() { # of the queued resource; empty if there is none
    [[ -n $dry ]] ||
        gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>/dev/null
}

request() {
    # shellcheck disable=SC2086 # CAPACITY is several flags, or none
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
        $CAPACITY
}

await() {
    if [[ -n $dry ]]; then
        echo "# until queued-resources describe $NAME reports ACTIVE"
        return
    fi
    local now
    while true; do
        now=$(state)
        echo "the slice is ${now:-unknown}"
        case $now in
        ACTIVE) return ;;
        FAILED | SUSPEND*) return 1 ;;
        esac
        sleep "$POLL_SECONDS"
    done
}

create() {
    request && await
}

install() {
    if [[ -n $(git -C "$checkout" status --porcelain) ]]; then
        echo 'uncommitted changes are not sent' >&2
    fi
    local folder status remote
    remote="rm -rf jaxrep && git -c advice.detachedHead=false clone -q jaxrep.bundle jaxrep && cd jaxrep"
    remote+=" && python3 -m pip install -q --user uv && ~/.local/bin/uv venv -q --python $PYTHON"
    remote+=" && ~/.local/bin/uv pip install -q -e '.[$EXTRAS]'"
    folder=$(mktemp -d)
    run git -C "$checkout" bundle create -q "$folder/jaxrep.bundle" HEAD &&
        tpus tpu-vm scp "$folder/jaxrep.bundle" "$NAME:" --worker=all &&
        tpus tpu-vm ssh "$NAME" --worker=all --command="$remote"
    status=$?
    rm -r "$folder"
    return "$status"
}

start() {
    hosts all start "$@"
}

follow() {
    hosts 0 follow
}

attempt() {
    local before
    before=$(state)
    if [[ $before == FAILED || $before == SUSPEND* ]]; then
        delete || return
        before=
    fi
    if [[ -z $before ]]; then
        request || return
    fi
    if [[ $before != ACTIVE ]]; then
        await && install || return
    fi
    start "$@" && follow
}

resume() {
    local status
    while true; do
        attempt "$@"
        status=$?
        case $status in
        "$PREEMPTED") ;;
        "$DONE" | "$USAGE" | "$DIVERGED" | "$STOPPED") break ;;
        *) [[ $(state) == SUSPEND* ]] || break ;; # the slice is gone, and with it the run's status
        esac
        echo "the run was preempted: resuming"
    done
    if [[ -n $dry ]]; then
        echo "# again, after status $PREEMPTED or the loss of the slice"
    fi
    return "$status"
}

stop() {
    hosts all stop
}

delete() {
    tpus queued-resources delete "$NAME" --force --quiet
}

if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
case "${1:-}:$#" in
create:1 | install:1 | follow:1 | stop:1 | delete:1) "$1" ;;
start:1 | resume:1)
    echo "$1 needs RECIPE --run-dir gs://BUCKET/DIR" >&2
    exit "$USAGE"
    ;;
start:* | resume:*) "$@" ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
    exit "$USAGE"
    ;;
esac
