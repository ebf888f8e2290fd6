"""Batches depend on the position alone, not on workers, threads, hosts or resuming."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data._util import parallel
from jaxrep.data.loading import loader as loading
from jaxrep.data.loading.loader import Loader, Tokenize, chunks_ahead, to_arrays
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Columns, Examples
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.storage import read_bytes

N = 37


class Squares(Examples):
    """Make example i when it is read."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        if not 0 <= index < N:
            raise IndexError(index)
        return {"image": np.full((2, 2, 3), index, np.uint8), "text": f"number {index}", "label": np.int32(index**2)}


EXAMPLES = Squares()
IN_MEMORY = Columns({name: EXAMPLES.column(name) for name in ("image", "text", "label")})
ORDER = Shuffle(seed=5).indices(EXAMPLES, 1)
TOKENS = Tokenize(Bytes(length=14).load())


def _take(count, **changes):
    settings = {"examples": EXAMPLES, "order": ORDER, "batch_size": 8, "transform": TOKENS} | changes
    loader = Loader(**settings)
    try:
        return [next(loader) for _ in range(count)], loader.position
    finally:
        loader.close()


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, values in batch.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])


@pytest.fixture(scope="module")
def unbroken():
    return _take(12)[0]


def test_batches_follow_the_order(unbroken):
    tokens = Bytes(length=14).load()
    for step, batch in enumerate(unbroken):
        positions = np.arange(8 * step, 8 * step + 8)
        rows = [EXAMPLES[int(index)] for index in ORDER(positions)]
        ids, valid = tokens([row["text"] for row in rows])
        expected = {
            "image": np.stack([row["image"] for row in rows]),
            "label": np.array([row["label"] for row in rows], np.int32),
            "text": ids,
            "text/valid": valid,
            "position": np.stack([np.zeros(8), positions], axis=1).astype(np.uint32),
        }
        _assert_equal([batch], [expected])


def test_columns_equal_examples_by_index(unbroken):
    _assert_equal(_take(12, examples=IN_MEMORY)[0], unbroken)


@settings(max_examples=15, deadline=None)
@given(steps=st.integers(0, 11), threads=st.integers(0, 3))
def test_loader_resumes_at_any_position(unbroken, steps, threads):
    _, position = _take(steps, threads=threads)
    assert position == 8 * steps
    resumed, end = _take(12 - steps, position=position, threads=3 - threads)
    _assert_equal(resumed, unbroken[steps:])
    assert end == 96


@pytest.mark.parametrize("workers", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_batches_do_not_depend_on_workers(unbroken, workers):
    _assert_equal(_take(9, position=24, workers=workers)[0], unbroken[3:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_do_not_depend_on_hosts(unbroken, hosts):
    size = 8 // hosts
    parts = [_take(12, rows=slice(host * size, host * size + size))[0] for host in range(hosts)]
    joined = [
        {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} for rows in zip(*parts, strict=True)
    ]
    _assert_equal(joined, unbroken)


def test_batches_do_not_depend_on_chunks(unbroken, monkeypatch):
    monkeypatch.setattr("jaxrep.data.loading.loader.MAX_CHUNK_ROWS", 3)  # 8 rows in 4 reads of 2
    _assert_equal(_take(12, threads=3)[0], unbroken)


def test_position_has_64_bits():
    start = 2**40 + 3
    (batch,), position = _take(1, position=start)
    assert position == start + 8
    high, low = batch["position"].astype(np.uint64).T
    np.testing.assert_array_equal((high << np.uint64(32)) + low, np.arange(start, start + 8, dtype=np.uint64))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], ORDER(np.arange(start, start + 8)))


def test_several_texts_per_example_add_an_axis():
    examples = Columns({"text": [("a", "bc"), ("d", ""), ("ef", "g")]})
    batch = to_arrays(examples.gather(np.array([2, 0])), TOKENS)
    for view, texts in enumerate((["ef", "a"], ["g", "bc"])):
        ids, valid = Bytes(length=14).load()(texts)
        np.testing.assert_array_equal(batch["text"][:, view], ids)
        np.testing.assert_array_equal(batch["text/valid"][:, view], valid)


def test_transform_error_is_raised():
    def broken(columns):
        raise FileNotFoundError("picture 7 is missing")

    for threads in (0, 2):
        with pytest.raises(FileNotFoundError, match="picture 7 is missing"):
            _take(1, transform=broken, threads=threads)


def test_killed_worker_is_an_error():
    loader = Loader(EXAMPLES, ORDER, 8, workers=1)
    try:
        next(loader)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(JaxrepError, match=r"^a worker process .* was ended .*: take fewer data.workers, or none"):
            for _ in range(1000):
                next(loader)
    finally:
        loader.close()


def test_worker_that_ends_with_an_error_says_how_scripts_begin():
    def ended():
        raise RuntimeError("Worker process was terminated unexpectedly with exit code 1. Search the logs above.")
        yield

    with pytest.raises(JaxrepError, match=r"ended with an error, .*: below if __name__ == '__main__': lies what"):
        loading._next_part(ended())


def test_invalid_rows():
    for change in ({"rows": slice(8, 16)}, {"rows": slice(0, 8, 2)}):
        with pytest.raises(ValueError, match=r"rows"):
            _take(1, **change)


def test_invalid_columns():
    with pytest.raises(ValueError, match="one length"):
        Columns({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(UsageError, match="there are: image, text, label"):
        IN_MEMORY.column("caption")


class Watched(Squares):
    """Take a while to read an example, and note the threads that read, their niceness, and how many read at once."""

    def __init__(self):
        self.threads, self.niceness, self.read, self.reading, self.most = set(), set(), [], 0, 0

    def __getitem__(self, index):
        self.threads.add(threading.get_ident())
        self.read.append(index)
        self.niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.reading += 1
        self.most = max(self.most, self.reading)
        time.sleep(0.002)
        self.reading -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_as_many_threads_read_as_are_asked_for(unbroken, threads):
    examples = Watched()
    _assert_equal(_take(12, examples=examples, threads=threads)[0], unbroken)
    assert examples.most == max(threads, 1) and len(examples.threads - {threading.get_ident()}) == threads


def test_threads_of_the_background_yield_to_others(unbroken):
    here = os.getpriority(os.PRIO_PROCESS, 0)
    for background, expected in ((False, {here}), (True, {min(here + parallel.NICENESS, 19), here})):
        examples = Watched()
        _assert_equal(_take(12, examples=examples, background=background)[0], unbroken)
        assert examples.niceness == expected  # the first row is read by the thread that asks
    assert os.getpriority(os.PRIO_PROCESS, 0) == here


@given(
    rows=st.integers(1, 5000),
    row_bytes=st.integers(0, 2**33),
    threads=st.integers(1, 256),
    workers=st.integers(0, 64),
)
def test_chunks_ahead_fit_the_bound(rows, row_bytes, threads, workers):
    size, ahead = chunks_ahead(rows, row_bytes, threads, workers)
    assert 1 <= size <= min(rows, loading.MAX_CHUNK_ROWS) and rows % size == 0 and ahead >= 1
    assert ahead == 1 or ahead * size * row_bytes <= loading.MAX_BYTES_AHEAD
    if 2 * threads * max(workers, 1) * loading.MAX_CHUNK_ROWS * row_bytes <= loading.MAX_BYTES_AHEAD:
        assert ahead >= 2 * threads * max(workers, 1)  # small rows: every thread has a chunk, and one waits


def test_large_rows_are_read_ahead_within_the_bound(unbroken, monkeypatch):
    row_bytes = sum(values.nbytes for values in unbroken[0].values()) // 8
    for ahead in (0, 1, 3, 20):
        monkeypatch.setattr(loading, "MAX_BYTES_AHEAD", ahead * row_bytes)
        examples = Watched()
        loader = Loader(examples, ORDER, 8, transform=TOKENS, threads=4)
        try:
            batches = []
            for taken in range(1, 5):
                batches.append(next(loader))
                time.sleep(0.05)
                assert 1 + 8 * taken <= len(examples.read) <= 1 + 8 * taken + max(ahead, 1)
        finally:
            loader.close()
        _assert_equal(batches, unbroken[:4])


class Files(Squares):
    """Read four bytes of a file per example."""

    def __init__(self, path):
        self.path = str(path)

    def __getitem__(self, index):
        read_bytes(self.path, index, 4)
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_reads_of_all_processes_are_counted(unbroken, tmp_path, workers):
    (tmp_path / "a").write_bytes(bytes(100))
    loader = Loader(Files(tmp_path / "a"), ORDER, 8, transform=TOKENS, workers=workers, threads=1)
    try:
        _assert_equal([next(loader) for _ in range(6)], unbroken[:6])
        usage = loader.usage
        assert 49 <= usage.requests <= 49 + 8 * 8  # one row first, then 6 batches, and what is read ahead
        assert usage.bytes == 4 * usage.requests and not usage.hits and usage.cpu_ns > 0
        next(loader)
        assert loader.usage.since(usage).requests >= 0
    finally:
        loader.close()
