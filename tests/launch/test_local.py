"""The local launcher: environments of processes, failures, preemption and signals."""

import ast
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrep.runs.exit_codes import ExitCode

LAUNCHER = Path(__file__).parents[2] / "launch" / "local.py"
HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
WAITS = "import time; time.sleep(3600)"


def command(tmp_path, *programs, options=(), arguments=("train", "mine.py")):
    """Return the command that runs the i-th program as process i."""
    child = tmp_path / "child.py"
    child.write_text(f"import os, sys\nexec({programs!r}[int(os.environ['JAX_PROCESS_ID'])])\n")
    program = shlex.join([sys.executable, str(child)])
    flags = ("--processes", str(len(programs)), "--program", program, *options)
    return [sys.executable, str(LAUNCHER), *flags, "--", *arguments]


def launch(tmp_path, *programs, **named):
    """Run the launcher with these programs."""
    environment = {"TMPDIR": str(tmp_path), **os.environ, **named.pop("env", {})}
    return subprocess.run(command(tmp_path, *programs, **named), capture_output=True, text=True, env=environment)


@contextlib.contextmanager
def launched(tmp_path, *programs, **named):
    """Start the launcher as the leader of a process group, and wait until all programs finished their first part."""
    ready = tmp_path / "ready"
    ready.mkdir()
    tell = f"open({str(ready)!r} + '/' + os.environ['JAX_PROCESS_ID'], 'w').close()"
    programs = tuple(f"{first}\n{tell}\n{rest}" for first, rest in programs)
    process = subprocess.Popen(
        command(tmp_path, *programs, **named), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(ready.iterdir())) < len(programs):
        assert process.poll() is None
        time.sleep(0.02)
    assert process.stdout is not None
    with process.stdout:
        yield process, process.stdout
    process.wait()


def test_environment_of_each_process(tmp_path):
    program = "print([os.environ.get(k) for k in sys.argv[1].split(',')])"
    names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "XLA_FLAGS", "JAX_PLATFORMS")
    run_dir = tmp_path / "runs" / "mine"
    run = launch(
        tmp_path,
        *(program,) * 3,
        options=("--devices", "4"),
        arguments=(",".join(names), f"--run-dir={run_dir}"),
        env={"XLA_FLAGS": "--xla_dump_to=x", "JAX_PLATFORMS": ""},
    )
    assert run.returncode == ExitCode.DONE, run.stderr
    outputs = [run.stdout, *((run_dir / f"process-{index}.log").read_text() for index in (1, 2))]
    values = [ast.literal_eval(output) for output in outputs]
    assert [one[:2] for one in values] == [["0", "3"], ["1", "3"], ["2", "3"]]
    assert len({one[2] for one in values}) == 1
    assert re.fullmatch(r"127\.0\.0\.1:\d+", values[0][2])
    assert {one[3] for one in values} == {"--xla_dump_to=x --xla_force_host_platform_device_count=4"}
    assert {one[4] for one in values} == {""}, "the user's value stays"
    assert sorted(path.name for path in run_dir.iterdir()) == ["process-1.log", "process-2.log"]


def test_default_platform_is_cpu(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    run = launch(tmp_path, "print(os.environ['JAX_PLATFORMS'])")
    assert run.stdout == "cpu\n"


@pytest.mark.parametrize("arguments", [("train",), ("train", "--run-dir", "gs://bucket/run")])
def test_logs_go_to_a_temporary_folder_without_local_run_dir(tmp_path, arguments):
    run = launch(tmp_path, "print('zero')", "print('one')", arguments=arguments)
    assert (run.returncode, run.stdout) == (ExitCode.DONE, "zero\n")
    named = re.search(r"the others to (.*)/process", run.stderr)
    assert named and named[1].startswith(str(tmp_path))
    assert (Path(named[1]) / "process-1.log").read_text() == "one\n"


def test_failed_process_ends_the_others(tmp_path):
    fails = f"for line in range(100): print('line', line)\nsys.exit({ExitCode.DIVERGED})"
    run = launch(tmp_path, WAITS, WAITS, fails)
    assert run.returncode == ExitCode.DIVERGED
    assert "process 2 ended with status 3" in run.stderr
    assert "line 99" in run.stderr
    assert "line 9\n" not in run.stderr
    assert "process 1 ended" not in run.stderr, "processes that the launcher ends are not reported"


def test_process_that_ignores_sigterm_is_killed(tmp_path):
    run = launch(tmp_path, "import time; time.sleep(0.5); sys.exit(1)", HANGS, options=("--grace", "0.2"))
    assert run.returncode == ExitCode.FAILED


def test_status_of_a_killed_process_is_128_plus_signal(tmp_path):
    run = launch(tmp_path, WAITS, "import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run.returncode == 128 + signal.SIGKILL


def test_peers_of_a_preempted_process_exit_on_their_own(tmp_path):
    saves = f"import time; time.sleep(0.5); print('saved'); sys.exit({ExitCode.PREEMPTED})"
    run = launch(tmp_path, saves, f"sys.exit({ExitCode.PREEMPTED})", options=("--grace", "600"))
    assert (run.returncode, run.stdout) == (ExitCode.PREEMPTED, "saved\n")
    assert "ended with" not in run.stderr


def test_peers_of_a_preempted_process_are_killed_after_the_grace_time(tmp_path):
    run = launch(tmp_path, HANGS, f"sys.exit({ExitCode.PREEMPTED})", options=("--grace", "0.1"))
    assert run.returncode == ExitCode.PREEMPTED


def test_finished_process_ends_no_other(tmp_path):
    run = launch(tmp_path, "import time; time.sleep(0.5); print('evaluated')", "pass", options=("--grace", "0.1"))
    assert (run.returncode, run.stdout) == (ExitCode.DONE, "evaluated\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_every_process_once(tmp_path, number):
    counts = (
        "import signal, time\nseen = []\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, lambda n, _: seen.append(n))",
        "while not seen: time.sleep(0.02)\n"
        "time.sleep(0.4)\n"
        f"print([int(n) for n in seen], flush=True)\nsys.exit({ExitCode.PREEMPTED})",
    )
    run_dir = tmp_path / "run"
    with launched(tmp_path, counts, counts, arguments=("train", "--run-dir", str(run_dir))) as (process, output):
        os.killpg(process.pid, number)  # a terminal signals the group
        assert output.read() == f"[{int(number)}]\n"
        assert process.wait() == ExitCode.PREEMPTED
    assert (run_dir / "process-1.log").read_text() == f"[{int(number)}]\n"


def test_killed_launcher_leaves_no_process(tmp_path):
    """A run saves after SIGTERM; what ignores it is killed, and so are processes that a process started."""
    saves = ("import signal, time", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', flush=True)))")
    starts = "import subprocess\nprint(os.getpid(), subprocess.Popen(['sleep', '3600']).pid, flush=True)"
    run_dir = tmp_path / "run"
    programs = ((saves[0], f"{saves[1]}\ntime.sleep(3600)"), (starts, HANGS))
    options = ("--grace", "2")
    arguments = ("train", "--run-dir", str(run_dir))
    with launched(tmp_path, *programs, options=options, arguments=arguments) as (process, output):
        while not (told := (run_dir / "process-1.log").read_text()).endswith("\n"):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert output.read() == "saved\n"
    deadline = time.monotonic() + 30
    while any(map(runs, told.split())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, told.split()))


def runs(number):
    """Return whether a process runs: those that ended may wait for their new parent to notice."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_second_ctrl_c_is_forwarded(tmp_path):
    leaves = (
        "import signal, time\nseen = []\n"
        "signal.signal(signal.SIGINT, lambda n, _: (seen.append(n), print('one', flush=True)))",
        "while len(seen) < 2: time.sleep(0.02)\nsys.exit(130)",
    )
    with launched(tmp_path, leaves, leaves) as (process, output):
        process.send_signal(signal.SIGINT)
        assert output.readline() == "one\n"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


@pytest.mark.parametrize("arguments", [["--processes", "0", "--", "train"], ["--processes", "2"]])
def test_wrong_command_line_is_refused(arguments):
    run = subprocess.run([sys.executable, str(LAUNCHER), *arguments], capture_output=True, text=True)
    assert run.returncode == ExitCode.USAGE
    assert "error: " in run.stderr
