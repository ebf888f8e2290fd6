"""Run numbered tasks in processes of this machine."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import track

P = TypeVar("P")
T = TypeVar("T")


def parallel_map(work: Callable[[P, int], T], plan: P, numbers: Sequence[int], workers: int, title: str) -> Iterator[T]:
    """Yield ``work(plan, number)`` of each number, in their order, with a progress bar on stderr.

    ``workers``: processes, to which ``plan`` and ``work`` are pickled; 0: this process.
    """
    yield from track(_results(work, plan, numbers, workers), title, len(numbers), console=Console(stderr=True))


def _results(work: Callable[[P, int], T], plan: P, numbers: Sequence[int], workers: int) -> Iterator[T]:
    if not workers:
        yield from (work(plan, number) for number in numbers)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield from pool.map(work, [plan] * len(numbers), numbers)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
