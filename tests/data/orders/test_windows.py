"""A host with lanes needs the files of its lanes alone, and a run goes on exactly on another number of hosts."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.images.crop import HostRandomResizedCrop
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.sources.tar.shards import TarShards
from tests.helpers import data_formats as formats
from tests.helpers.listed_source import positions

COUNT, BATCH, STEPS, BAD = 40, 8, 12, (3, 17, 31)


def rows_of(host: int, hosts: int, batch_size: int) -> slice:
    """The rows of a host, as those of a mesh: ranges of equal size, but for hosts that do not divide the batch."""
    return slice(batch_size * host // hosts, batch_size * (host + 1) // hosts)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eight tars of five pictures, three of which cannot be decoded; they are indexed."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREP_CACHE", str(tmp_path_factory.mktemp("cache")))
        for shard in range(8):
            numbers = range(5 * shard, 5 * shard + 5)
            rows = [{"image": b"no picture" if n in BAD else picture(n), "text": f"number {n}"} for n in numbers]
            formats.tar(folder / f"{shard}.tar", rows)
        source = TarShards(shards=f"{folder}/*.tar", image_size=6, crop=HostRandomResizedCrop(scale=(0.2, 1.0)))
        assert len(source.open()) == COUNT
        yield folder, source


def take(source, hosts, steps, position, reports):
    """The batches of the next steps, joined over hosts, and the reports of the hosts after them."""
    joined, after = [], []
    for host in range(hosts):
        examples = source.open()
        order = examples.ordered_indices(Windowed(seed=4, shards=1, lanes=4), BATCH)
        report = BadSampleReport.from_json(json.loads(json.dumps(reports[host].to_json()))) if reports else EMPTY_REPORT
        loader = Loader(
            examples, order, BATCH, position=position, bad_samples=report, seed=7, max_bad_fraction=1.0,
            single_host=False, rows=rows_of(host, hosts, BATCH), threads=2,
        )  # fmt: skip
        try:
            joined.append([{k: v for k, v in next(loader).items()} for _ in range(steps)])
        finally:
            loader.close()
        after.append(loader.bad_samples)
        assert loader.position == position + steps * BATCH
    batches = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*joined, strict=True)
    ]
    return batches, after


@settings(max_examples=6, deadline=None)
@given(
    cuts=st.sets(st.integers(0, STEPS), max_size=3),
    hosts=st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=4, max_size=4),
)
def test_a_run_goes_on_exactly_on_another_number_of_hosts(shards, cuts, hosts):
    _, source = shards
    expected, (total,) = take(source, 1, STEPS, 0, None)
    assert 0 < total.bad_rows < STEPS * BATCH
    resumed, bad = [], dict[tuple[str, str], int]()
    for count, start, stop in zip(hosts, [0, *sorted(cuts)], [*sorted(cuts), STEPS], strict=False):
        batches, reports = take(source, count, stop - start, start * BATCH, None)
        resumed += batches
        for report in reports:
            for kind, number in report.bad.items():
                bad[kind] = bad.get(kind, 0) + number
    assert bad == total.bad
    for batch, other in zip(resumed, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_host_trains_without_the_files_of_the_others(shards, hosts):
    folder, source = shards
    expected, _ = take(source, 1, STEPS, 0, None)
    read = []
    for host in range(hosts):
        examples = source.open()
        order = examples.ordered_indices(Windowed(seed=4, shards=1, lanes=4), BATCH)
        rows = rows_of(host, hosts, BATCH)
        own = order(positions(0, STEPS * BATCH)).reshape(STEPS, BATCH)[:, rows]
        read.append({examples.shard(index) for index in own.ravel().tolist()})
        others = [path for path in sorted(folder.glob("*.tar")) if str(path) not in read[-1]]
        assert len(others) == 8 - 8 // hosts
        for path in others:
            path.rename(path.with_suffix(".away"))
        try:
            loader = Loader(examples, order, BATCH, seed=7, max_bad_fraction=1.0, skip_failed_shards=True, rows=rows)
            try:
                for batch in expected:
                    np.testing.assert_array_equal(next(loader)["image"], batch["image"][rows])
            finally:
                loader.close()
            assert not loader.bad_samples.skipped_shards
        finally:
            for path in others:
                path.with_suffix(".away").rename(path)
    assert sum(map(len, read)) == len(set.union(*read)) == 8
