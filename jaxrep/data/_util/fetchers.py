"""Run reads in threads of their own, the most urgent one first, and end them at any time."""

import abc
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")
CLOSE_SECONDS = 4.0
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


class Planner(abc.ABC):
    """Follow what is read in a thread of its own, and let fetchers read what comes next. A subclass plans.

    A subclass calls ``start`` when it is set up, and changes what ``has_work`` looks at while it holds ``changed``.
    """

    def __init__(self, threads: int, name: str):
        self.fetchers, self.changed = Fetchers(threads, name), threading.Condition()
        self.passed, self.closed = -1, False  # the first chunk that is not over; -1: none has been read
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

    @abc.abstractmethod
    def has_work(self) -> bool:
        """Return whether ``work`` would plan anything."""

    @abc.abstractmethod
    def work(self) -> None:
        """Plan one piece."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Drop what is over; the thread that reads calls this, with ``changed`` held."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def move(self, passed: int) -> None:
        """Note that all chunks before ``passed`` are over."""
        with self.changed:
            self.passed = max(self.passed, passed)
            self.forget()
            self.changed.notify_all()

    def close(self) -> None:
        """Cancel all, and return when no thread is left, or after ``CLOSE_SECONDS``."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.fetchers.close()
        self._thread.join(CLOSE_SECONDS)

    def _follow(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.has_work())
                if self.closed:
                    return
            self.work()
