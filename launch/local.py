"""Several processes of jaxrep on this machine, each with simulated devices of its own: a pod in miniature.

    python launch/local.py --processes 2 --devices 2 -- train experiments/clip.py:tiny --run-dir runs/two

Process 0 writes to this terminal, the others to ``process-<i>.log`` in the run directory. Signals are passed on to all.
The first process that fails ends the others, which jax alone would do after 100 s at best, and gives the exit status.
"""

import argparse
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

PREEMPTED = os.EX_TEMPFAIL
"""A process that leaves with this status has saved, and its peers are about to do the same."""

POLL_SECONDS = 0.05
LAST_LINES = 20


@dataclasses.dataclass(frozen=True)
class Peer:
    """One process of the run."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path | None
    """Where its output goes; None: to this terminal."""

    @property
    def status(self) -> int | None:
        """Its exit status as shells have it (128 and the number of the signal that ended it); None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def last_lines(self) -> str:
        """The end of what it wrote to its file."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return "".join(f"  {line}\n" for line in lines[-LAST_LINES:])


def main(args: Sequence[str] | None = None) -> int:
    """Runs all processes to their end and returns the status of the first that failed, or 0."""
    options = parser().parse_args(args)
    folder = log_folder(options.command) if options.processes > 1 else None
    with signals() as received:
        return watch(start(options, folder), received, options.grace)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Several processes of jaxrep on this machine, each with simulated devices of its own.",
        usage="python launch/local.py [--processes N] [--devices M] -- COMMAND ...",
        epilog="Exit status: of the first process that failed, 128 and the number of a signal that ended it; or 0.",
    )
    parser.add_argument("--processes", type=positive, default=2, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--devices", type=positive, default=1, metavar="M", help="simulated for each (%(default)s)")
    parser.add_argument(
        "--grace", type=float, default=15, metavar="SECONDS", help="from SIGTERM to SIGKILL for the peers (%(default)s)"
    )
    parser.add_argument(
        "--program",
        type=shlex.split,
        default=[sys.executable, "-m", "jaxrep.cli"],
        help="what each process runs, before COMMAND (python -m jaxrep.cli)",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="of jaxrep: train FILE ... --run-dir DIR")
    return parser


def positive(text: str) -> int:
    """A count of at least one."""
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {count}")
    return count


def log_folder(command: Sequence[str]) -> Path:
    """The run directory that the command names, if it is on this machine, or a new temporary folder."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--run-dir", default="")
    run_dir = finder.parse_known_args(command)[0].run_dir
    if not run_dir or "://" in run_dir:
        return Path(tempfile.mkdtemp(prefix="jaxrep-"))
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    return Path(run_dir)


def start(options: argparse.Namespace, folder: Path | None) -> list[Peer]:
    """Starts all processes. Each has its own group, so that a Ctrl-C reaches it through this one alone, and once."""
    port, peers = free_port(), []
    for index in range(options.processes):
        log = folder / f"process-{index}.log" if folder and index else None
        with open(log, "ab") if log else nullcontext() as output:
            process = subprocess.Popen(
                [*options.program, *options.command],
                env=environment(index, options.processes, options.devices, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        peers.append(Peer(index, process, log))
    if folder:
        tell(f"process 0 writes here, the others to {folder}/process-*.log")
    return peers


def environment(index: int, processes: int, devices: int, port: int) -> dict[str, str]:
    """This process's environment, and what tells a process who it is and what it computes on."""
    simulated = f"--xla_force_host_platform_device_count={devices}"
    return {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {simulated}".strip(),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(index),
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within, SIGINT and SIGTERM are only noted, in the list that is given."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(peers: Sequence[Peer], received: list[int], grace: float) -> int:
    """Waits for the end of all, passing on signals; the first that fails ends the others. Returns its status, or 0."""
    first, due = 0, []
    while True:
        running = [peer for peer in peers if peer.status is None]
        if not first and (failed := [peer for peer in peers if peer.status]):
            first, due = failed[0].status or 0, farewell(failed, grace)
        if not running:
            return first
        while received:
            send(received.pop(0), running)
        while due and due[0][0] <= time.monotonic():
            send(due.pop(0)[1], running)
        time.sleep(POLL_SECONDS)


def farewell(failed: Sequence[Peer], grace: float) -> list[tuple[float, int]]:
    """Tells who failed, and returns when which signal is due for the others.

    Those of a process that failed may wait for it for ever. Those of one that was preempted leave on their own.
    """
    for peer in failed:
        if peer.status != PREEMPTED:
            where = f"; the end of {peer.log}:\n{peer.last_lines}" if peer.log else ""
            tell(f"process {peer.index} ended with status {peer.status}{where}")
    now = time.monotonic() + grace * all(peer.status == PREEMPTED for peer in failed)
    return [(now, signal.SIGTERM), (now + grace, signal.SIGKILL)]


def send(number: int, peers: Sequence[Peer]) -> None:
    """Sends a signal to each process that is there."""
    for peer in peers:
        peer.process.send_signal(number)


def tell(sentence: str) -> None:
    """For the user; standard output belongs to process 0."""
    print(f"launch/local.py: {sentence.rstrip()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
