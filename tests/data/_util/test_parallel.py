"""Processes that work for another one end with it, even if it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    memory = set(Path("/dev/shm").iterdir())
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
        os.kill(main.pid, signal.SIGKILL)
        main.wait()
        stop = time.monotonic() + 60
        while group_lives(main.pid) and time.monotonic() < stop:
            time.sleep(0.1)
        assert not group_lives(main.pid)
        assert set(Path("/dev/shm").iterdir()) <= memory
    finally:
        if group_lives(main.pid):
            os.killpg(main.pid, signal.SIGKILL)


def group_lives(group):
    """Return whether a process of the group runs; one that ended and was not waited for does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False
