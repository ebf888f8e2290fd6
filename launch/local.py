"""Run jaxrep in several processes on this machine, each with its own simulated devices.

    python launch/local.py --processes 2 --devices 2 -- train clip:tiny --run-dir runs/two

Process 0 writes to this terminal, the others to ``process-<i>.log`` in the run directory. Signals are forwarded to all
processes. The first process that fails ends the others, which JAX alone would do after 100 s at best; the launcher
returns its exit status. If the launcher itself is killed, a keeper ends all processes.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

PREEMPTED = os.EX_TEMPFAIL
"""Exit status of a process that has saved after a signal; its peers are about to do the same."""

POLL_SECONDS = 0.05
LAST_LINES = 20


@dataclasses.dataclass(frozen=True)
class Peer:
    """Hold one process of the run."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path | None  # None: this terminal

    @property
    def status(self) -> int | None:
        """The exit status as shells report it (128 plus the number of a signal that ended it); None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def last_lines(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return "".join(f"  {line}\n" for line in lines[-LAST_LINES:])


def main(args: Sequence[str] | None = None) -> int:
    """Run all processes to their end, and return the status of the first that failed, or 0."""
    options = parse(args)
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    with start_keeper(options.grace) as keeper:
        return watch(start(options, keeper), received, options.grace, keeper)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Run jaxrep in several processes on this machine, each with its own simulated devices.",
        usage="python launch/local.py [--processes N] [--devices M] -- COMMAND ...",
        epilog="Exit status: that of the first process that failed (128 plus the number of a signal), or 0.",
    )
    add = parser.add_argument
    add("--processes", type=int, default=2, metavar="N", help="number of processes (%(default)s)")
    add("--devices", type=int, default=1, metavar="M", help="simulated devices per process (%(default)s)")
    add("--grace", type=float, default=15, metavar="SECONDS", help="from SIGTERM to SIGKILL (%(default)s)")
    program = [sys.executable, "-m", "jaxrep.cli"]
    add("--program", type=shlex.split, default=program, help="program before COMMAND (python -m jaxrep.cli)")
    add("command", nargs="+", metavar="COMMAND", help="jaxrep's command: train RECIPE --run-dir DIR ...")
    options = parser.parse_args(args)
    if min(options.processes, options.devices) < 1:
        parser.error("--processes and --devices have to be at least 1")
    return options


def log_folder(command: Sequence[str]) -> Path:
    """Return the run directory of the command if it is on this machine, else a new temporary folder."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--run-dir", default="")
    run_dir = finder.parse_known_args(command)[0].run_dir
    if not run_dir or "://" in run_dir:
        return Path(tempfile.mkdtemp(prefix="jaxrep-"))
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    return Path(run_dir)


def start_keeper(grace: float) -> TextIO:
    """Fork a process that ends the others once the launcher ended, also by SIGKILL; return the file that it reads.

    A line is the number of a process that started, or its negative when it ended.
    """
    read, write = os.pipe()
    if os.fork():
        os.close(read)
        return os.fdopen(write, "w", buffering=1)
    os.close(write)
    os.setsid()  # signals of the terminal are the launcher's
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    with open(read) as lines:
        told = [int(line) for line in lines]
    end_groups([number for number in told if number > 0 and -number not in told], grace)
    os._exit(0)


def end_groups(groups: Sequence[int], grace: float) -> None:
    """End process groups: by SIGTERM, after which a run saves, and those that are left by SIGKILL."""
    deadline = time.monotonic() + grace
    left = signaled(groups, signal.SIGTERM)
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = signaled(left, 0)
    signaled(left, signal.SIGKILL)


def signaled(groups: Sequence[int], number: int) -> list[int]:
    """Send a signal to process groups, and return those that exist."""
    found = []
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
            found.append(group)
    return found


def start(options: argparse.Namespace, keeper: TextIO) -> list[Peer]:
    """Start all processes, each in its own process group, so that Ctrl-C reaches it once, through the launcher."""
    folder = log_folder(options.command) if options.processes > 1 else Path()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, peers = server.getsockname()[1], []  # a free port
    for index in range(options.processes):
        file = folder / f"process-{index}.log" if index else None
        with open(file, "ab") if file else contextlib.nullcontext() as output:
            process = subprocess.Popen(
                [*options.program, *options.command],
                env=environment(index, options.processes, options.devices, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        print(process.pid, file=keeper)
        peers.append(Peer(index, process, file))
    if options.processes > 1:
        log(f"process 0 writes here, the others to {folder}/process-*.log")
    return peers


def environment(index: int, processes: int, devices: int, port: int) -> dict[str, str]:
    """Return the environment of a process: its rank, the coordinator, and its simulated devices."""
    simulated = f"--xla_force_host_platform_device_count={devices}"
    return {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {simulated}".strip(),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(index),
    }


def watch(peers: Sequence[Peer], received: list[int], grace: float, keeper: TextIO) -> int:
    """Wait for all processes, and return the status of the first that fails, or 0; it ends the others.

    Received signals are forwarded.
    """
    first, due, before = 0, [], peers
    while True:
        running = [peer for peer in before if peer.status is None]
        for peer in before:
            if peer not in running:
                print(-peer.process.pid, file=keeper)
        before = running
        if not first and (failed := [peer for peer in peers if peer.status]):
            first, due = failed[0].status or 0, end_others(failed, grace)
        if not running:
            return first
        while received:
            send(received.pop(0), running)
        while due and due[0][0] <= time.monotonic():
            send(due.pop(0)[1], running)
        time.sleep(POLL_SECONDS)


def end_others(failed: Sequence[Peer], grace: float) -> list[tuple[float, int]]:
    """Report which processes failed, and return times and signals for the others.

    Peers of a failed process may wait for it forever. Peers of a preempted one exit on their own within ``grace``.
    """
    for peer in failed:
        if peer.status != PREEMPTED:
            where = f"; the end of {peer.log}:\n{peer.last_lines}" if peer.log else ""
            log(f"process {peer.index} ended with status {peer.status}{where}")
    now = time.monotonic() + grace * all(peer.status == PREEMPTED for peer in failed)
    return [(now, signal.SIGTERM), (now + grace, signal.SIGKILL)]


def send(number: int, peers: Sequence[Peer]) -> None:
    """Send a signal to processes."""
    for peer in peers:
        peer.process.send_signal(number)


def log(sentence: str) -> None:
    """Print a message to stderr; stdout belongs to process 0."""
    print(f"launch/local.py: {sentence.rstrip()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
