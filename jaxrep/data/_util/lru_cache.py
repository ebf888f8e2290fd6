"""What is held in memory because it was used lately: indices of shards, row groups, open readers."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class LruCache(Generic[T]):
    """The values that were used last, of a total ``size`` (or number) of at most ``capacity``; the last one always.

    Threads may ask at the same time; it pickles empty, so that another process fills its own.
    """

    def __init__(self, capacity: int, size: Callable[[T], int] | None = None):
        self._capacity, self._size = capacity, size
        self._clear()

    def _clear(self) -> None:
        self._held: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made if it is not held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        value = make()  # outside the lock: two threads may make the same one, none waits for another's
        with self._lock:
            if key not in self._held:
                size = self._size(value) if self._size else 1
                self._held[key] = value, size
                self._used += size
            while self._used > self._capacity and len(self._held) > 1:
                _, (_, size) = self._held.popitem(last=False)
                self._used -= size
        return value

    def __len__(self) -> int:
        return len(self._held)

    def __reduce__(self):
        return type(self), (self._capacity, self._size)
