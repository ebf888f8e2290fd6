"""Processes that work for another one end with it, even if it is killed; as many threads read as may run at once."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrep.data._util import parallel
from jaxrep.data._util.parallel import decoding_threads, thread_map, usable_cores

LOADER = """
import numpy as np
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.base import ShuffledIndices
from jaxrep.data.source import Columns

if __name__ == "__main__":
    loader = Loader(Columns({"x": np.zeros((50, 2**12))}), ShuffledIndices(0, 50), 8, workers=2)
    next(loader)
    print("started", flush=True)
    input()
"""
MAP = """
import time
from jaxrep.data._util.parallel import parallel_map

def work(plan, number):
    print("started", flush=True)
    time.sleep(plan)

if __name__ == "__main__":
    list(parallel_map(work, {seconds}, range(2), 2, "sleeping"))
"""
WAITING = """
import time
from jaxrep.data._util.parallel import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        list(pool.map(abs, range(9)))
        print("started", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("program", [LOADER, MAP.format(seconds=600), WAITING], ids=["loader", "map", "waiting"])
def test_no_process_stays_when_the_main_process_is_killed(tmp_path, program):
    (tmp_path / "program.py").write_text(program)
    main = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert main.stdout and main.stdout.readline() == "started\n"
        maps = "".join((folder / "maps").read_text() for folder in processes(main.pid))
        shared = set(re.findall("/dev/shm/.*", maps))
        assert len(processes(main.pid)) >= 3 and (shared or program is not LOADER)
        os.kill(main.pid, signal.SIGKILL)
        main.wait()
        stop = time.monotonic() + 60
        while processes(main.pid) and time.monotonic() < stop:
            time.sleep(0.1)
        assert not processes(main.pid)
        assert not [path for path in shared if os.path.exists(path)]
    finally:
        if processes(main.pid):
            os.killpg(main.pid, signal.SIGKILL)


def processes(group):
    """Return the folders in /proc of the processes of a group; one that ended and was not waited for is none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, of, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(of) == group and state not in "ZX":
                found.append(folder)
    return found


def test_cores_are_those_of_the_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "CGROUPS", tmp_path)
    cores = os.sched_getaffinity(0)
    assert usable_cores() == len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


@pytest.mark.parametrize(
    "own, limits, expected",
    [
        ("0::/\n", {"": "max 100000"}, 16),
        ("0::/\n", {"": "250000 100000"}, 2),
        ("0::/\n", {"": "50000 100000"}, 1),
        ("0::/a/b\n", {"a": "400000 100000", "a/b": "max 100000"}, 4),
        ("12:cpu:/x\n0::/a/b\n", {"a": "400000 100000", "a/b": "300000 100000"}, 3),
        ("0::/a\n", {"a": "not a limit"}, 16),
        ("1:cpu:/old\n", {}, 16),
        (None, {}, 16),
    ],
)
def test_cores_follow_the_quota_of_the_control_group(monkeypatch, tmp_path, own, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(parallel, "CGROUPS", tmp_path)
    monkeypatch.setattr(parallel, "OWN_CGROUP", tmp_path / "own")
    if own is not None:
        (tmp_path / "own").write_text(own)
    for group, limit in limits.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(limit + "\n")
    assert usable_cores() == expected


def test_threads_are_divided_among_workers(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 6)
    threads = [decoding_threads(0, workers) for workers in (0, 1, 2, 4, 6, 7)]
    assert threads == [6, 6, 3, 1, 1, 1] and decoding_threads(5, 3) == 5
    monkeypatch.setattr(parallel, "usable_cores", lambda: 96)
    assert [decoding_threads(0, workers) for workers in (0, 4, 12)] == [16, 16, 8] and decoding_threads(96) == 96
    monkeypatch.setattr(parallel, "usable_cores", lambda: 6)
    seen = set()
    for future in thread_map(lambda _: (seen.add(threading.get_ident()), time.sleep(0.02)), range(30), 30):
        future.result()
    assert len(seen) == 6
