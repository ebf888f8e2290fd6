"""Prefetched batches equal the loader's batches."""

import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.loading import prefetch
from jaxrep.data.loading.prefetch import Prefetch
from jaxrep.data.loading.usage import Usage
from jaxrep.data.orders.base import ShuffledIndices
from jaxrep.mesh import AXES, ROWS


class Counting:
    """Count upwards in 6 batches [8,2]; the batch ``fails_at`` cannot be read."""

    batch_size = 8
    order = ShuffledIndices(0, 48)
    usage = Usage()

    @property
    def bad_samples(self):
        return BadSampleReport(self.position, {("a.tar", "the image is empty"): 2} if self.position > 8 else {})

    def __init__(self, fails_at=None):
        self.position, self.fails_at, self.closed = 0, fails_at, False

    def __next__(self):
        if self.position // 8 == self.fails_at:
            raise FileNotFoundError("shard 3 is missing")
        if self.position == 48:
            raise StopIteration
        self.position += 8
        return {"x": np.arange(self.position * 2 - 16, self.position * 2, dtype=np.int32).reshape(8, 2)}

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def sharding():
    return NamedSharding(Mesh(np.array(jax.devices()).reshape(2, 2, -1), AXES), ROWS)


def test_prefetch_keeps_order_and_positions(sharding):
    loader = Counting()
    with Prefetch(loader, sharding) as batches:
        assert batches.position == 0
        for step, batch in enumerate(batches):
            assert batches.position == 8 * step + 8 and batches.bad_samples.rows == batches.position
            assert batches.metrics() == ({"data/bad": 2.0} if step else {})
            assert batch["x"].sharding == sharding
            np.testing.assert_array_equal(batch["x"], np.arange(16 * step, 16 * step + 16).reshape(8, 2))
    assert batches.position == 48 and loader.closed


def test_metrics_have_the_reads_since_the_last_metrics(sharding):
    loader = Counting()
    with Prefetch(loader, sharding) as batches:
        next(batches)
        for total, expected in (((7, 100, 3), (7, 100, 3)), ((9, 130, 3), (2, 30, 0))):
            loader.usage = Usage(*total, cpu_ns=5)
            metrics = batches.metrics()
            names = ("data/requests", "data/bytes_read", "data/cache_hits")
            assert tuple(metrics[name] for name in names) == expected
        assert "data/requests" not in batches.metrics()


def test_prefetch_reads_at_most_ahead_batches(sharding):
    loader = Counting()
    with Prefetch(loader, sharding, ahead=3) as batches:
        next(batches)
        assert loader.position <= 8 * (1 + 3)
    assert loader.position <= 8 * (1 + 3)


def test_loader_error_is_raised_at_its_batch(sharding):
    with Prefetch(Counting(fails_at=2), sharding) as batches:
        next(batches), next(batches)
        with pytest.raises(FileNotFoundError, match="shard 3 is missing"):
            next(batches)
        assert batches.position == 16


def test_close_stops_the_thread(sharding):
    batches = Prefetch(Counting(), sharding)
    next(batches)
    batches.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
    assert list(batches) == []
    batches.close()


def test_data_wait(sharding, monkeypatch):
    clock = iter([10.0, 12.5])
    with Prefetch(Counting(), sharding) as batches:
        monkeypatch.setattr(prefetch.time, "perf_counter", lambda: next(clock))
        next(batches)
        monkeypatch.undo()
        assert batches.data_wait == 2.5
