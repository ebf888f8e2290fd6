"""Move batches to the devices before the loop asks for them."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.loading.loader import Loader
from jaxrep.mesh import put_batch


class Prefetch(Iterator[dict[str, jax.Array]], contextlib.AbstractContextManager["Prefetch"]):
    """Yield the loader's batches on the devices; one thread prepares up to ``ahead`` batches in advance.

    ``position`` and ``bad_samples`` belong to the last batch that was returned, so that a checkpoint stores what was
    trained on and not what was read. An error of the loader is raised where its batch is requested, with the
    ``bad_samples`` that explain it. Close it, or use it in a ``with``; the loader closes with it.
    """

    def __init__(self, loader: Loader, sharding: jax.sharding.Sharding, ahead: int = 2):
        self.data_wait = 0.0
        """Seconds that the last ``next`` waited for its batch."""
        self._sharding, self._ahead = sharding, ahead
        self._start(loader)

    def _start(self, loader: Loader) -> None:
        self.position, self.bad_samples = loader.position, loader.bad_samples
        self._loader, self._logged = loader, loader.usage
        self._ready: queue.Queue[tuple[Any, int, BadSampleReport]] = queue.Queue()
        self._free = threading.Semaphore(self._ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def switch_to(self, loader: Loader) -> None:
        """Take the next batches from another loader, and drop the batches of the previous one."""
        self.close()
        self._start(loader)

    def __next__(self) -> dict[str, jax.Array]:
        if self._closing.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch, position, bad_samples = self._ready.get()
        self.data_wait = time.perf_counter() - start
        if isinstance(batch, BaseException):
            self.bad_samples = bad_samples
            self.close()
            raise batch
        self._free.release()
        self.position, self.bad_samples = position, bad_samples
        return batch

    def metrics(self) -> dict[str, float]:
        """Return metrics of the data.

        They are the share of each source of a mixture in the examples so far, the number of bad examples, and the reads
        of files, by this process and its workers, since the last call.
        """
        counts = self._loader.order.source_counts(self.position)
        shares = {f"data/share/{name}": n / self.position for name, n in counts.items()}
        usage = self._loader.usage
        reads, self._logged = usage.since(self._logged), usage
        return shares | self.bad_samples.metrics() | reads.metrics()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and the loader, and drop the batches in advance."""
        self._closing.set()
        self._free.release()
        self._thread.join()
        self._loader.close()

    def _work(self) -> None:
        try:
            while self._free.acquire() and not self._closing.is_set():
                batch = put_batch(next(self._loader), self._sharding, self._loader.batch_size)
                self._ready.put((batch, self._loader.position, self._loader.bad_samples))
        except BaseException as error:  # raised again by __next__, in the thread that can handle it
            self._ready.put((error, self._loader.position, self._loader.bad_samples))
