"""Processes that work for another one end with it, even if it is killed."""

import contextlib
import os
import re
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
