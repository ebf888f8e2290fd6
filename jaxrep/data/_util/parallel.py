"""Run tasks in processes and in threads of this machine, with their results in order."""

import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

P = TypeVar("P")
T = TypeVar("T")


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


def end_with_parent(*_: Any) -> None:
    """End this process when its parent ends, even if that is killed: a worker waits for work without a limit."""
    if parent := parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), name="end-with-parent", daemon=True).start()


def thread_map(
    work: Callable[[int], T], items: Iterable[int], ahead: int, threads: int | None = None
) -> Generator[Future[T], None, None]:
    """Yield the future of ``work(item)`` of each item, in their order. Threads are up to ``ahead`` items ahead.

    ``threads``: one per core by default. Close the generator if it is not read to its end.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        futures = deque(pool.submit(work, item) for item in itertools.islice(items, ahead))
        try:
            while futures:
                yield futures.popleft()
                futures.extend(pool.submit(work, item) for item in itertools.islice(items, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
