"""What is read ahead of a slow store gives what local files give, in few requests, within bounds, and ends on close."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrep import storage
from jaxrep.data.loading import copies_ahead, ranges_ahead
from jaxrep.data.loading.loader import Loader
from jaxrep.data.loading.read_ahead import ChunkRows, ReadAhead
from jaxrep.data.loading.readable import read_blocks
from jaxrep.data.loading.reader import Reader
from jaxrep.data.local_copy import alone, local_copy
from jaxrep.data.orders.base import Order, Shuffle
from jaxrep.data.orders.windows import ShuffledWindows, Windowed
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.arrays import ArrayShards
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tools.convert import Plan, convert
from jaxrep.data.tools.dedup import fingerprint
from jaxrep.data.tools.survey import survey
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.data.transforms.subsets import Fraction
from jaxrep.errors import BadShard, UsageError
from tests.helpers import data_formats, slow_store
from tests.helpers.slow_store import SlowStore
from tests.helpers.tars import pairs, picture, write

ROOT = Path(__file__).parents[3]
SHARDS, PER_SHARD, BATCH = 6, 200, 12
ORDER = Windowed(seed=3, shards=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    for shard in range(SHARDS):
        write(root / f"{shard}.tar", pairs(range(shard * PER_SHARD, (shard + 1) * PER_SHARD)))
    return root


@pytest.fixture
def sources(folder, cache, monkeypatch):
    """Return the tars as local files and behind the slow store; both are indexed."""
    monkeypatch.setattr(copies_ahead, "WARM_UP", 120)
    monkeypatch.setattr(copies_ahead, "SCAN", 24)
    monkeypatch.setattr(storage, "RETRY_WAITS", (0.0, 0.0))
    SlowStore.reset()
    near, far = (TarShards(shards=f"{root}{folder}/{{0..5}}.tar", image_size=4) for root in ("", "slow://"))
    for source in (near, far):
        source.open()
    SlowStore.reset(delay=0.002)
    yield near, far
    SlowStore.reset()
    assert not _threads()


def _threads():
    return [thread.name for thread in threading.enumerate() if thread.name.endswith("-ahead")]


def _copies():
    """Return the requests for whole tars of this process."""
    return [(path, size) for path, start, size in SlowStore.requests if not start and size == os.path.getsize(path)]


def _read(source, batches, order: Order = ORDER, threads=2, **options: Any):
    examples = source.open()
    loader = Loader(examples, order.indices(examples, BATCH), BATCH, threads=threads, **options)
    try:
        return [next(loader) for _ in range(batches)], loader
    finally:
        loader.close()


def _same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, other[name])


EPOCH = SHARDS * PER_SHARD // BATCH


def test_windows_are_copied_once_and_read_as_local_files(sources, cache):
    near, far = sources
    _same(_read(near, EPOCH)[0], _read(far, EPOCH)[0])
    assert len(_copies()) == SHARDS  # each as a whole, by one request
    # Two questions for the version of each shard, and the ranges of the warm-up, of which many are joined.
    assert SlowStore.count(".tar") <= 0.02 * EPOCH * BATCH + 10 * BATCH
    before = storage.traffic()
    SlowStore.reset(delay=0.002)
    _same(_read(near, EPOCH // 2)[0], _read(far, EPOCH // 2)[0])
    assert SlowStore.count(".tar") <= SHARDS + 10 * BATCH  # the copies are there still: only indices are checked
    assert storage.traffic().hits - before.hits >= 0.45 * EPOCH * BATCH


def test_few_requests_per_pair_once_the_copies_are_ahead(sources):
    _, far = sources
    examples = far.open()
    loader = Loader(examples, ORDER.indices(examples, BATCH), BATCH, threads=2)
    for _ in range(2 * PER_SHARD // BATCH):  # the first window
        next(loader)
    _wait_for(lambda: len(_copies()) == SHARDS)
    before = SlowStore.count(".tar")
    for _ in range(3 * PER_SHARD // BATCH):
        next(loader)
    loader.close()
    assert SlowStore.count(".tar") - before <= 0.02 * 3 * PER_SHARD


def _wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it took more than ten seconds")


def test_sparse_orders_read_the_ranges_of_single_examples(sources, cache, monkeypatch):
    near, far = sources
    monkeypatch.setenv("JAXREP_CACHE_GIB", "0")
    monkeypatch.setattr(ranges_ahead.join_ranges, "__defaults__", (100,))  # pictures of other examples are not joined
    _same(_read(near, 20, Shuffle(seed=1))[0], _read(far, 20, Shuffle(seed=1))[0])
    tars = [request for request in SlowStore.requests if request[0].endswith(".tar") and request[2] >= 0]
    assert max(size for *_, size in tars) < 10_000 and not (cache / "files").exists()
    assert 8 < SlowStore.most_active <= ranges_ahead.REQUESTS


def test_one_range_has_all_members_of_an_example(sources):
    _, far = sources
    examples = far.open()
    examples[0]  # reads the index
    before, _ = storage.traffic(), SlowStore.reset()
    assert examples[7]["text"] == "number 7" and SlowStore.count(".tar") == 1
    after = storage.traffic()
    assert after.requests - before.requests == 1 and after.bytes - before.bytes == SlowStore.bytes(".tar") < 2000


def test_memory_of_ranges_is_bounded(sources, monkeypatch):
    near, far = sources
    monkeypatch.setenv("JAXREP_CACHE_GIB", "0")
    capacity = 16 * 1024
    monkeypatch.setattr(ranges_ahead, "MAX_BYTES", capacity)
    monkeypatch.setattr(ranges_ahead.join_ranges, "__defaults__", (100,))
    sizes, plan = [], ranges_ahead.RangesAhead._plan

    def watched(self, chunk):
        pieces = plan(self, chunk)
        sizes.append(sum(pieces.size for pieces in list(self._chunks.values())))
        return pieces

    monkeypatch.setattr(ranges_ahead.RangesAhead, "_plan", watched)
    _same(_read(near, 20, Shuffle(seed=1))[0], _read(far, 20, Shuffle(seed=1))[0])
    assert capacity / 4 < max(sizes) <= 2 * capacity  # each of the threads that read has a chunk of a quarter besides


def _sizes(folder):
    """Return the bytes of all files by inode: a file that is complete gets another name meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # a file got another name since the listing
            states = [path.stat() for path in folder.glob("*/*")]
            return {state.st_ino: state.st_size for state in states}


def test_disk_is_bounded_and_a_file_that_does_not_fit_is_read_by_ranges(sources, cache, folder, monkeypatch):
    near, far = sources
    size = (folder / "0.tar").stat().st_size
    monkeypatch.setenv("JAXREP_CACHE_GIB", str(3.4 * size / 2**30))
    most, reserve = [], copies_ahead.local_copy

    def watched(*args):
        copy = reserve(*args)
        with alone("room", time.sleep):  # room is made and taken by one thread at a time
            most.append(sum(_sizes(cache / "files").values()))
        return copy

    monkeypatch.setattr(copies_ahead, "local_copy", watched)
    _same(_read(near, EPOCH)[0], _read(far, EPOCH)[0])
    assert len(most) >= SHARDS - 1 and max(most) <= 3.4 * size


@pytest.mark.parametrize("seed", range(3))
def test_resumed_at_any_place_and_on_two_hosts(sources, cache, seed):
    near, far = sources
    draw = random.Random(seed)
    whole, _ = _read(near, 40)
    position = 0
    batches = []
    while len(batches) < 40:
        count = min(draw.randint(1, 15), 40 - len(batches))
        halves = [
            _read(far, count, position=position, rows=rows, threads=draw.randint(1, 3))[0]
            for rows in (slice(0, 5), slice(5, BATCH))
        ]
        batches += [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*halves, strict=True)]
        position += count * BATCH
        if draw.random() < 0.3:
            shutil.rmtree(cache / "files", ignore_errors=True)
    names = set(whole[0]) - {"/bad_samples"}
    _same([{name: batch[name] for name in names} for batch in whole], batches)


@pytest.mark.slow  # two processes import jaxrep
def test_worker_processes_share_copies(sources, tmp_path, monkeypatch):
    near, far = sources
    monkeypatch.setenv(slow_store.LOG_VARIABLE, str(tmp_path / "log"))
    _same(_read(near, EPOCH)[0], _read(far, EPOCH, workers=2, transform=slow_store.identity)[0])
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    copies = [path for _, path, start, size in lines if start == "0" and int(size) == os.path.getsize(path)]
    assert len(copies) == len(set(copies)) == SHARDS and len({process for process, *_ in lines}) == 3


def test_derived_sources_and_mixtures_are_read_ahead(sources):
    def derived(source):
        return Mixture(
            sources={"half": Fraction(source=source, share=0.5, seed=1), "all": source}, weights={"half": 1, "all": 2}
        )

    near, far = map(derived, sources)
    examples = near.open(), far.open()
    batches = []
    for one in examples:
        loader = Loader(one, one.ordered_indices(ORDER, BATCH), BATCH, threads=2)
        batches.append([next(loader) for _ in range(60)])
        loader.close()
    _same(*batches)
    assert len(_copies()) >= 4


def _rows(count=40):
    return [{"image": picture(n), "text": f"number {n}"} for n in range(count)]


@pytest.mark.parametrize("kind", ["array_record", "parquet", "arrays"])
def test_other_formats_take_their_copies_from_the_read_ahead(kind, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(copies_ahead, "WARM_UP", 16)
    SlowStore.reset(delay=0.002)
    for shard in range(6):
        path = tmp_path / f"{shard}.data"
        if kind == "arrays":
            with path.open("wb") as file:
                np.savez(file, x=np.arange(40) + 40.0 * shard)
        else:
            getattr(data_formats, kind)(path, _rows())
    pattern = f"{tmp_path}/{{0..5}}.data"

    def make(files):
        if kind == "arrays":
            return ArrayShards(shards=files, shapes={"x": ()})
        return (
            ArrayRecords(shards=files, image_size=4)
            if kind == "array_record"
            else ParquetTable(files=files, image_size=4)
        )

    order = Windowed(seed=2, shards=1)
    _same(_read(make(pattern), 20, order)[0], _read(make(f"slow://{pattern}"), 20, order)[0])
    assert len(list((cache / "files").glob("*/*"))) >= 4  # the last ones may be cancelled when the loader closes


# Faults ---------------------------------------------------------------------------------------------------------------


def test_a_request_that_fails_twice_is_retried(sources):
    near, far = sources
    failures = {}

    def fault(path, start):
        failures[path, start] = failures.get((path, start), 0) + 1
        if failures[path, start] <= 2:
            raise OSError("reset by the store")

    SlowStore.fault = staticmethod(fault)
    _same(_read(near, 20)[0], _read(far, 20)[0])


def test_a_store_that_refuses_what_is_ahead_leaves_the_reader_to_say_so(sources, monkeypatch):
    _, far = sources
    monkeypatch.setattr("jaxrep.data.loading.reader.RETRY_WAITS", (0.0,))

    def fault(path, start):
        if path.endswith("3.tar"):
            raise OSError("reset by the store")

    SlowStore.fault = staticmethod(fault)
    with pytest.raises(BadShard, match=r"3.tar cannot be read \(reset by the store\); it was tried 2 times. Bring"):
        _read(far, EPOCH)


def test_what_a_store_refused_for_a_while_is_read_ahead_later(sources, monkeypatch):
    """The copies of an epoch fail, and every range of a shard; the next epoch is read ahead again."""
    near, far = sources
    monkeypatch.setattr(ranges_ahead, "FORGIVEN", 4)
    expected = _read(near, 2 * EPOCH)[0]
    examples = far.open()
    loader = Loader(examples, ORDER.indices(examples, BATCH), BATCH, threads=2)
    copy_threads, refused = {"copies-ahead", "ranges-ahead"}, []

    def fault(path, start):
        if threading.current_thread().name in copy_threads:
            refused.append(path)
            raise OSError("busy")

    SlowStore.fault = staticmethod(fault)
    batches = [next(loader) for _ in range(EPOCH // 2)]
    assert len({*refused}) >= 2 and not _copies()
    copy_threads.clear()
    batches += [next(loader) for _ in range(2 * EPOCH - EPOCH // 2)]
    loader.close()
    _same(expected, batches)
    assert {path for path, _ in _copies()} & {*refused}


@pytest.fixture
def changed(folder, tmp_path, sources):
    """Return a copy of the tars that tests may change, with one that was indexed before."""
    for path in folder.glob("*.tar"):
        shutil.copy(path, tmp_path / path.name)
    source = TarShards(shards=f"slow://{tmp_path}/{{0..5}}.tar", image_size=4)
    source.open()
    return source, tmp_path / "4.tar"


def test_a_shard_that_changed_is_one_sentence(changed, monkeypatch):
    source, path = changed
    monkeypatch.setattr("jaxrep.data.loading.reader.RETRY_WAITS", (0.0,))
    write(path, pairs(range(3)))
    with pytest.raises(BadShard, match=r"4.tar has changed since it was indexed .*: run jaxrep data index on it"):
        _read(source, EPOCH)


def test_a_file_shorter_than_its_index_gives_bad_samples(changed, monkeypatch):
    source, path = changed
    state = path.stat()
    info = SlowStore.info

    def same_version(self, name, **options):
        old = {"size": state.st_size, "mtime": state.st_mtime_ns} if "/4." in name else {}
        return info(self, name, **options) | old

    monkeypatch.setattr(SlowStore, "info", same_version)
    os.truncate(path, state.st_size // 2)
    batches, loader = _read(source, EPOCH, max_bad_fraction=0.5)
    short = [sentence for sentence in loader.bad_samples.examples if "the tar ends after" in sentence]
    assert (
        len(batches) == EPOCH
        and short
        and PER_SHARD // 2 - 10 <= sum(loader.bad_samples.bad.values()) <= PER_SHARD // 2 + 2
    )


def test_a_full_disk_is_told_once_and_ranges_are_read(sources, monkeypatch, caplog):
    near, far = sources

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    _same(_read(near, 30)[0], _read(far, 30)[0])
    (record,) = caplog.records
    assert "No space left on device): make room" in record.message and "by the ranges of single" in record.message


def test_copies_that_vanish_are_made_again(sources, cache):
    near, far = sources
    expected, _ = _read(near, 60)
    examples = far.open()
    loader = Loader(examples, ORDER.indices(examples, BATCH), BATCH, threads=2)
    batches = []
    for number in range(60):
        batches.append(next(loader))
        if number % 20 == 10:
            shutil.rmtree(cache / "files", ignore_errors=True)
            (cache / "files").mkdir(parents=True, exist_ok=True)
    loader.close()
    _same(expected, batches)


# The end --------------------------------------------------------------------------------------------------------------


def test_closing_cancels_requests_and_ends_threads(sources):
    _, far = sources
    SlowStore.reset(delay=0.05)
    examples = far.open()
    loader = Loader(examples, ORDER.indices(examples, BATCH), BATCH, threads=2)
    next(loader)
    assert _threads()
    loader.close()
    assert not _threads()
    time.sleep(0.15)  # the threads that decode may be in a request
    sent = SlowStore.count()
    time.sleep(0.2)
    assert SlowStore.count() == sent and not SlowStore.active


PROGRAM = """
import sys
from tests.helpers.slow_store import SlowStore
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.windows import ShuffledWindows, Windowed
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.signals import Stopped, stop_on_signals

SlowStore.delay = float(sys.argv[2])
examples = TarShards(shards=f"slow://{sys.argv[1]}/{{0..5}}.tar", image_size=4).open()
loader = Loader(examples, Windowed(shards=2).indices(examples, 12), 12, threads=2)
try:
    with stop_on_signals():
        print(next(loader)["position"][0, 1], flush=True)
        while True:
            next(loader)
except Stopped:
    loader.close()
    print("closed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_request_goes_on_after_a_signal(sources, folder, cache, tmp_path, number):
    near, _ = sources
    environment = os.environ | {slow_store.LOG_VARIABLE: str(tmp_path / "log"), "JAXREP_CACHE": str(cache)}
    command = [sys.executable, "-c", PROGRAM, str(folder), "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as program:
        assert program.stdout is not None and program.stdout.readline() == "0\n"
        program.send_signal(number)
        start = time.monotonic()
        said = program.stdout.read()
        assert program.wait(20) == (0 if said else -number) and time.monotonic() - start < 10
    if number == signal.SIGTERM:
        assert said == "closed\n"
    lines = (tmp_path / "log").read_text()
    time.sleep(0.2)
    assert (tmp_path / "log").read_text() == lines
    far = TarShards(shards=f"slow://{folder}/{{0..5}}.tar", image_size=4)  # with what the program left in the cache
    _same(_read(near, 60)[0], _read(far, 60)[0])


def test_evaluations_read_ahead_too(sources):
    near, far = sources
    SlowStore.reset(delay=0.01)
    blocks = [list(read_blocks(source.open(), 100)) for source in (near, far)]
    _same(*blocks)
    assert len(_copies()) == SHARDS and SlowStore.count(".tar") <= 0.25 * SHARDS * PER_SHARD


def test_tools_that_read_whole_examples_read_ahead_too(sources, tmp_path):
    near, far = sources
    expected = survey(near.open())[0]
    convert(Plan(near, "tar", tmp_path / "near", PER_SHARD * 2, SHARDS * PER_SHARD))
    SlowStore.reset(delay=0.002)
    assert survey(far.open())[0] == expected
    plan = Plan(far, "tar", tmp_path / "far", PER_SHARD * 2, SHARDS * PER_SHARD)
    assert convert(plan)["written"] == SHARDS * PER_SHARD
    assert len(fingerprint(far.open()).indices) == SHARDS * PER_SHARD
    assert SlowStore.count() < SHARDS * PER_SHARD // 10
    for path in sorted((tmp_path / "near").glob("*.tar")):
        assert (tmp_path / "far" / path.name).read_bytes() == path.read_bytes()


def test_threads_end_before_the_interpreter_does(sources, monkeypatch):
    """A thread that is stopped inside of a library ends its process by an abort."""
    _, far = sources
    ends = []
    monkeypatch.setattr("atexit.register", ends.append)
    examples = far.open()
    loader = Loader(examples, ORDER.indices(examples, BATCH), BATCH, threads=2)
    next(loader)
    assert _threads() and len(ends) == 1
    ends[0]()
    assert not _threads()
    loader.close()


def test_a_wrong_size_of_the_cache_is_one_sentence(sources, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE_GIB", "100 GB")
    with pytest.raises(UsageError, match="JAXREP_CACHE_GIB is '100 GB', and not a number of GiB from 0 on"):
        _read(sources[1], 1)


def test_long_names_in_any_script_can_be_copied(cache, tmp_path):
    path = tmp_path / f"{'写' * 80}.tar"
    path.write_bytes(b"content")
    assert Path(local_copy(f"slow://{path}")).read_bytes() == b"content"


def test_no_third_epoch_is_planned_while_two_are_kept(sources, monkeypatch):
    plans, plan = [], ShuffledWindows.plan
    monkeypatch.setattr(ShuffledWindows, "plan", lambda self, key: plans.append(key) or plan(self, key))
    _read(sources[1], 2 * EPOCH + 10)
    assert len(plans) == len(set(plans)) <= 4


def test_readers_of_one_copy_wait_for_one_request(sources, folder):
    SlowStore.reset(delay=0.05)
    copies, threads = [], []
    for _ in range(8):
        threads.append(threading.Thread(target=lambda: copies.append(local_copy(f"slow://{folder}/0.tar"))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(set(copies)) == 1 and len([request for request in SlowStore.requests if request[2] > 0]) == 1
    assert Path(copies[0]).read_bytes() == (folder / "0.tar").read_bytes()


def test_chunks_have_the_positions_that_the_loader_reads():
    rows = ChunkRows(position=24, row=4, batch_size=12, size=2, parts=4)
    assert rows.positions(3, 3).tolist() == [34, 35, 40, 41, 42, 43]


# Speed ----------------------------------------------------------------------------------------------------------------


def _photos(root, shards, per_shard):
    random_pixels = np.random.default_rng(0)
    pixels = Image.fromarray(random_pixels.integers(0, 255, (30, 40, 3), np.uint8)).resize((640, 480))
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=75)
    for shard in range(shards):
        members = [
            (f"{n:04}.{ending}", content)
            for n in range(per_shard)
            for ending, content in (("jpg", file.getvalue()), ("txt", b"a text"))
        ]
        write(root / f"{shard}.tar", members)


@pytest.mark.slow  # about twenty seconds
def test_a_slow_store_is_as_fast_as_a_local_disk(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(copies_ahead, "WARM_UP", 100)
    monkeypatch.setattr(copies_ahead, "SCAN", 100)
    SlowStore.reset()
    _photos(tmp_path, 8, 200)
    readers = []
    for root in ("", "slow://"):
        examples = TarShards(shards=f"{root}{tmp_path}/{{0..7}}.tar", image_size=224).open()
        readers.append(Reader(examples, Windowed(shards=2).indices(examples, 20)))
    rows = ChunkRows(position=0, row=0, batch_size=20, size=20)
    aheads = [ReadAhead(reader.examples, reader.order, rows) for reader in readers]
    SlowStore.reset(delay=0.03, bandwidth=100e6)
    before, seconds = 0, np.zeros((2, 80))
    for chunk in range(80):
        if chunk == 20:  # the first window is over
            before = SlowStore.count(".tar")
        if chunk == 40:  # the end of the epoch is known, so that no copy is under way while the clock runs
            _wait_for(lambda: len(list((cache / "files").glob("*/[!.]*"))) == 8)
        for which in (0, 1) if chunk % 2 else (1, 0):
            start = time.perf_counter()
            with aheads[which].reading(chunk):
                readers[which].read(rows.positions(chunk))
            seconds[which, chunk] = time.perf_counter() - start
    for ahead in aheads:
        ahead.close()
    near, far = np.quantile(seconds[:, 40:], 0.2, axis=1)  # other programs on the machine only add time
    assert far < near / 0.9
    assert SlowStore.count(".tar") - before <= 0.02 * 60 * 20
