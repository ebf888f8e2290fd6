"""Run reads in threads of their own, the most urgent one first, and end them at any time."""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")
CLOSE_SECONDS = 10.0
"""Longest wait for a store that does not answer, when all is to end."""


class Fetchers:
    """Run reads in daemon threads, so that an interpreter that ends does not wait for a store. Close it."""

    def __init__(self, threads: int, name: str):
        self._queue: queue.PriorityQueue[tuple[float, int, Future[Any] | None, Callable[[], Any]]]
        self._queue = queue.PriorityQueue()
        self._numbers, self._lock, self._closed = itertools.count(), threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, urgency: int, read: Callable[[], T]) -> Future[T]:
        """Return the future of ``read()``; what has a smaller ``urgency`` starts earlier."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed.is_set():
                future.cancel()
            else:
                self._queue.put((urgency, next(self._numbers), future, read))
        return future

    def pause(self, seconds: float) -> None:
        """Wait in a read. Raises CancelledError: this is closed."""
        if self._closed.wait(seconds):
            raise CancelledError

    def close(self) -> None:
        """Cancel the reads that wait, and return when those under way have ended, or after ``CLOSE_SECONDS``."""
        with self._lock:
            self._closed.set()
            for _ in self._threads:
                self._queue.put((float("inf"), next(self._numbers), None, lambda: None))
        end = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def _work(self) -> None:
        while True:
            _, _, future, read = self._queue.get()
            if future is None:
                return
            if self._closed.is_set():
                future.cancel()
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(read())
                except BaseException as error:  # raised again where the result is requested
                    future.set_exception(error)
