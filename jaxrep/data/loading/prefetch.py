"""Batches on the devices before the loop asks for them."""

import queue
import threading
import time
from typing import Any

import jax

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.loading.loader import Loader
from jaxrep.mesh import put_batch


class Prefetch:
    """The loader's batches on the devices, up to ``ahead`` of them before they are asked for, by one thread.

    ``position`` and ``ledger`` belong to the batch handed out last, so a checkpoint stores what was trained on and not
    what was read. An error of the loader is raised where its batch is asked for, and ``ledger`` is then the one that
    explains it. Close it, or use it in a ``with``; the loader closes with it.
    """

    def __init__(self, loader: Loader, sharding: jax.sharding.Sharding, ahead: int = 2):
        self.data_wait = 0.0
        """Seconds that the last ``next`` waited for its batch."""
        self._sharding, self._ahead = sharding, ahead
        self._start(loader)

    def _start(self, loader: Loader) -> None:
        self.position, self.ledger = loader.position, loader.ledger
        self._loader = loader
        self._ready: queue.Queue[tuple[Any, int, BadSampleReport]] = queue.Queue()
        self._room = threading.Semaphore(self._ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def go_on_with(self, loader: Loader) -> None:
        """Takes the next batches from another loader; what was read ahead by the one before is dropped."""
        self.close()
        self._start(loader)

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        if self._closing.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch, position, ledger = self._ready.get()
        self.data_wait = time.perf_counter() - start
        if isinstance(batch, BaseException):
            self.ledger = ledger
            self.close()
            raise batch
        self._room.release()
        self.position, self.ledger = position, ledger
        return batch

    def metrics(self) -> dict[str, float]:
        """The share of each source of a mixture in the examples so far, and the number of bad ones."""
        counts = self._loader.order.counts(self.position)
        return {f"data/share/{name}": n / self.position for name, n in counts.items()} | self.ledger.metrics()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and the loader; what was read ahead is dropped."""
        self._closing.set()
        self._room.release()
        self._thread.join()
        self._loader.close()

    def _work(self) -> None:
        try:
            while self._room.acquire() and not self._closing.is_set():
                batch = put_batch(next(self._loader), self._sharding, self._loader.batch_size)
                self._ready.put((batch, self._loader.position, self._loader.ledger))
        except BaseException as error:  # raised again by __next__, in the thread that can handle it
            self._ready.put((error, self._loader.position, self._loader.ledger))
