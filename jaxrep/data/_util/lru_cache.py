"""Cache values in memory by last use: indices of shards, row groups, open readers."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class LruCache(Generic[T]):
    """Hold the values that were used last, up to a total ``size`` (or number) of ``capacity``; the last one always.

    Threads may use it at the same time. It pickles without its values, so that another process fills its own.
    """

    def __init__(self, capacity: int, size: Callable[[T], int] | None = None):
        self._capacity, self._size = capacity, size
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Event] = {}
        self._used = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of ``key``; call ``make`` if it is missing. Other threads that ask for it wait for that."""
        while True:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key][0]
                if (made := self._making.get(key)) is None:
                    self._making[key] = threading.Event()
                    break
            made.wait()  # if the other thread fails, this one makes the value itself
        try:
            return self._put(key, make())
        finally:
            self._making.pop(key).set()

    def _put(self, key: Hashable, value: T) -> T:
        with self._lock:
            size = self._size(value) if self._size else 1
            self._values[key] = value, size
            self._used += size
            while self._used > self._capacity and len(self._values) > 1:
                _, (_, size) = self._values.popitem(last=False)
                self._used -= size
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self):
        return type(self), (self._capacity, self._size)
