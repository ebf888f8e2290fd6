"""Measure how late the thread that feeds a device comes to its work while the threads of a loader decode.

    python -m benchmarks.feed --threads 1 2 4 8 16 32 64 --sleep

The main thread does what a training loop does: it takes a batch, computes in Python for a millisecond, and sleeps as
long as the device would work. ``late``: milliseconds by which it awakes too late, for want of a core or of Python's
lock. ``--sleep`` replaces decoding by a sleep of its length: as on a machine with a core for each thread, only Python's
lock and the rest of the loader are left. ``--background`` gives the threads the lower priority that they have beside an
accelerator.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any
from unittest import mock

import numpy as np
import simplejpeg

from benchmarks.data import CASES, source, tars
from jaxrep.data import Shuffle
from jaxrep.data.loading.loader import Loader

BATCH, WARM_UP = 64, 3
DECODE_SECONDS = 0.0007
"""Time to decode a photograph of 400 x 300."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--device-ms", type=float, default=1.0, help="how long the device works on a batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per number of threads")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sleep", action="store_true", help="sleep instead of decoding")
    parser.add_argument("--background", action="store_true", help="threads of lower priority")
    parser.add_argument("--folder", type=Path, help="where tars are kept for the next run (default: nowhere)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    blank = np.zeros((300, 400, 3), np.uint8)
    decode: Any = (lambda *_, **__: (time.sleep(DECODE_SECONDS), blank)[1]) if given.sleep else simplejpeg.decode_jpeg
    with tempfile.TemporaryDirectory() as temporary, mock.patch.object(simplejpeg, "decode_jpeg", decode):
        os.environ["JAXREP_CACHE"] = temporary
        width, height, scale = CASES["crops"]
        pattern = tars((given.folder or Path(temporary)) / "400x300-q90", given.images, width, height, 90)
        examples = source(pattern, scale).open()
        rows = [measure(examples, threads, given) for threads in given.threads]
    if given.out:
        given.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1))


def measure(examples: Any, threads: int, given: argparse.Namespace) -> dict[str, float]:
    """Return examples per second, the share of the time that was waited for data, and how late the thread was."""
    order = Shuffle().indices(examples, BATCH)
    loader = Loader(examples, order, BATCH, threads=threads, background=given.background)
    batches, stop = Queue(2), threading.Event()
    feeder = threading.Thread(target=lambda: [batches.put(next(loader)) for _ in iter(stop.is_set, True)])
    feeder.start()
    waits, works, late = [], [], []
    for _ in range(WARM_UP):
        batches.get()
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < given.seconds:
        waits.append(seconds_of(batches.get))
        works.append(seconds_of(lambda: sum(i * i for i in range(15_000))))
        late.append(seconds_of(lambda: time.sleep(given.device_ms / 1e3)) - given.device_ms / 1e3)
    stop.set()
    while feeder.is_alive() or not batches.empty():
        batches.get()
        feeder.join(0.05)
    loader.close()
    row = {
        "threads": threads,
        "examples_per_second": len(waits) * BATCH / elapsed,
        "waited": sum(waits) / elapsed,
        "python_ms": 1e3 * float(np.mean(works)),
        "late_ms": 1e3 * float(np.mean(late)),
        "late_ms_95th_percentile": 1e3 * float(np.percentile(late, 95)),
    }
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
