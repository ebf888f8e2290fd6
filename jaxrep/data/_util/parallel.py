"""Run tasks in processes and in threads of this machine, with their results in order."""

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

P = TypeVar("P")
T = TypeVar("T")

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows control groups (version 2), which bound the cores of a container."""
OWN_CGROUP = Path("/proc/self/cgroup")

MAX_THREADS = 16
"""Most threads that are chosen for a process. More of them wait for Python's lock, and so does the thread that feeds
the device (measured in docs/data.md); further cores are used by worker processes.
"""

NICENESS = 10
"""Niceness of threads in the background, which get a tenth of a core that another thread wants as well."""

_this_thread = threading.local()


def usable_cores() -> int:
    """Return the cores that this process may use, by its affinity and by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        own = CGROUPS / OWN_CGROUP.read_text().partition("0::/")[2].partition("\n")[0]
        for limit in (group / "cpu.max" for group in (own, *own.parents)):
            if limit.exists():
                quota, period = limit.read_text().split()
                cores = cores if quota == "max" else min(cores, int(quota) // int(period))
    return max(cores, 1)


def decoding_threads(threads: int = 0, workers: int = 0) -> int:
    """Return the threads of each process that reads: as given, or for 0 one per usable core.

    The cores are divided by ``workers``; a process gets at most ``MAX_THREADS``.
    """
    return threads or min(max(usable_cores() // max(workers, 1), 1), MAX_THREADS)


def parallel_map(work: Callable[[P, int], T], plan: P, numbers: Sequence[int], workers: int, title: str) -> Iterator[T]:
    """Yield ``work(plan, number)`` of each number, in their order, with a progress bar on stderr.

    ``workers``: processes, to which ``plan`` and ``work`` are pickled; 0: this process.
    """
    task = functools.partial(work, plan)
    with_bar = functools.partial(track, description=title, total=len(numbers), console=Console(stderr=True))
    if not workers:
        yield from with_bar(map(task, numbers))
        return
    with process_pool(workers) as pool:
        try:
            yield from with_bar(pool.map(task, numbers))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of new processes that end with this one."""
    return ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent)


def go_to_background() -> None:
    """Let other threads have a core before this thread, from now on (on Linux alone)."""
    if sys.platform == "linux" and not getattr(_this_thread, "in_background", False):
        _this_thread.in_background = True
        thread = threading.get_native_id()  # which Linux schedules as a process
        with contextlib.suppress(OSError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


def end_with_parent(*_: Any) -> None:
    """End this process when its parent ends, even if that is killed: a worker waits for work without a limit."""
    if parent := parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), name="end-with-parent", daemon=True).start()


def thread_map(
    work: Callable[[int], T], items: Iterable[int], ahead: int, threads: int = 0
) -> Generator[Future[T], None, None]:
    """Yield the future of ``work(item)`` of each item, in their order. Threads are up to ``ahead`` items ahead.

    ``threads``: see ``decoding_threads``. Close the generator if it is not read to its end.
    """
    items = iter(items)
    with ThreadPoolExecutor(decoding_threads(threads)) as pool:
        futures = deque(pool.submit(work, item) for item in itertools.islice(items, ahead))
        try:
            while futures:
                yield futures.popleft()
                futures.extend(pool.submit(work, item) for item in itertools.islice(items, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
