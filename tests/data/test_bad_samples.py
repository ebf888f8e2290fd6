"""Bad samples are counted, replaced in the same way by every run, and stop a run if there are too many."""

import json
from itertools import pairwise

import numpy as np
import pytest

from jaxrep.data.bad_samples import EMPTY_REPORT, MAX_EXAMPLES, MAX_KINDS, OTHER, BadSampleReport, reason_kind
from jaxrep.data.loading import reader
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Columns, Examples
from jaxrep.data.transforms.mixture import MixedExamples, Mixture
from jaxrep.errors import BadSample, BadShard, JaxrepError
from tests.helpers.listed_source import positions

N, SHARD = 400, 40
ORDER = Shuffle(seed=2)


class Faulty(Examples):
    """Hold example i in shard i // 40: every 20th image is damaged, and shards may be missing."""

    def __init__(self, gone=(), back_after=10**9, every=20):
        self.gone, self.back_after, self.every, self.asked = gone, back_after, every, 0

    def __len__(self):
        return N

    def shard(self, index):
        return f"{index // SHARD}.tar"

    def __getitem__(self, index):
        if index // SHARD in self.gone:
            self.asked += 1
            if self.asked <= self.back_after:
                raise BadShard(f"{self.shard(index)} does not answer")
        if index % self.every == 3:
            raise BadSample(f"{self.shard(index)}, member {index}.jpg", f"the image ends after {index} bytes (EOF)")
        return {"index": np.int64(index), "image": np.full((2, 2, 3), index % 256, np.uint8)}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(reader.time, "sleep", waits.append)
    return waits


def take(count, **changes):
    settings = {"examples": Faulty(), "batch_size": 16, "max_bad_fraction": 1.0} | changes
    examples = settings.pop("examples")
    loader = Loader(examples, examples.ordered_indices(ORDER, 16), **settings)
    try:
        return [next(loader) for _ in range(count)], loader
    finally:
        loader.close()


def indices(batches):
    return np.concatenate([batch["index"] for batch in batches])


def test_bad_samples_are_counted_and_replaced_in_place():
    batches, loader = take(50)  # two epochs
    expected = ORDER.indices(Faulty(), 1)(positions(0, 800))
    bad = expected % 20 == 3
    np.testing.assert_array_equal(indices(batches)[~bad], expected[~bad])
    assert not (indices(batches) % 20 == 3).any()
    report = loader.bad_samples.to_json()
    assert (report["all"], report["seen"], report["bad"], report["repeats"]) == (800, 760, 40, 40)
    reason = "the image ends after N bytes"
    assert report["shards"] == {f"{shard}.tar": {reason: 4} for shard in range(10)}
    index = expected[bad][0]
    assert (
        report["examples"][0] == f"{index // SHARD}.tar, member {index}.jpg: the image ends after {index} bytes (EOF)"
    )


def test_substitutes_do_not_depend_on_workers_hosts_or_resume():
    whole, loader = take(12)
    for changes in ({"workers": 1}, {"workers": 2}, {"threads": 0}):
        batches, other = take(12, **changes)
        np.testing.assert_array_equal(indices(batches), indices(whole))
        assert other.bad_samples == loader.bad_samples
    for hosts in (2, 4):
        size = 16 // hosts
        parts = [take(12, rows=slice(host * size, host * size + size)) for host in range(hosts)]
        joined = np.stack([[batch["index"] for batch in batches] for batches, _ in parts], axis=1)
        np.testing.assert_array_equal(joined.ravel(), indices(whole))
        reports = [part.bad_samples for _, part in parts]
        assert sum(report.rows for report in reports) == loader.bad_samples.rows
        assert sum(reports, EMPTY_REPORT).bad == loader.bad_samples.bad
    for step in (1, 5, 11):
        _, first = take(step)
        batches, rest = take(
            12 - step, position=first.position, bad_samples=BadSampleReport.from_json(first.bad_samples.to_json())
        )
        np.testing.assert_array_equal(indices(batches), indices(whole[step:]))
        assert rest.bad_samples == loader.bad_samples


def test_mixture_substitutes_from_the_same_source():
    examples = MixedExamples(Mixture(sources={}), {"a": Faulty(), "b": Faulty(every=50)})
    batches, loader = take(40, examples=examples)
    expected = examples.ordered_indices(ORDER, 16)(positions(0, 640))
    assert loader.bad_samples.bad_rows > 10
    assert {shard.partition(":")[0] for shard, _ in loader.bad_samples.bad} == {"a", "b"}
    which = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(which, indices(batches) % 256)
    repeats = examples.ordered_indices(ORDER, 16)
    for position in np.flatnonzero(expected % N % np.where(expected < N, 20, 50) == 3):
        assert indices(batches)[position] in [repeats.substitute(int(position), n) % N for n in range(1, 9)]


def test_max_bad_fraction_stops_the_run_and_names_the_worst_shards():
    with pytest.raises(JaxrepError) as stopped:
        take(100, max_bad_fraction=0.03)
    assert str(stopped.value).startswith("31 of 592 examples could not be read, which is more than the share of 0.03")
    assert "times the image ends after N bytes" in str(stopped.value)
    take(100, max_bad_fraction=0.06)
    with pytest.raises(JaxrepError, match="1 of 80 examples"):
        take(20, max_bad_fraction=0.0)


def test_failing_shard_is_retried_then_stops_the_run(no_waiting):
    batches, loader = take(5, examples=Faulty(gone=(4,), back_after=3), threads=0)
    np.testing.assert_array_equal(indices(batches), indices(take(5)[0]))
    assert no_waiting == [1.0, 2.0, 4.0] and not loader.bad_samples.skipped_shards
    with pytest.raises(BadShard, match=r"4.tar does not answer; it was tried 6 times.*--data.skip-failed-shards True"):
        take(5, examples=Faulty(gone=(4,)), threads=0)
    assert sum(no_waiting) - 7 == 31 and all(b == 2 * a for a, b in pairwise(no_waiting[3:]))


def test_failed_shard_is_reported_and_replaced_on_several_hosts(no_waiting):
    batches, loader = take(10, examples=Faulty(gone=(4, 5)), threads=0, single_host=False)
    assert not np.isin(indices(batches) // SHARD, (4, 5)).any() and sum(no_waiting) == 31  # it waits for one only
    report = BadSampleReport.from_json(loader.bad_samples.to_json())
    assert report == loader.bad_samples and len(report.failed_shards) == 2 and not report.skipped_shards
    assert {kind: report.bad[kind] for kind in report.bad if "shard" in kind[1]} == {
        (f"{shard}.tar", "the shard cannot be read"): (
            ORDER.indices(Faulty(), 1)(positions(0, 160)) // SHARD == shard
        ).sum()
        for shard in (4, 5)
    }
    with pytest.raises(JaxrepError, match=r"[45].tar does not answer; it was tried .*--data.skip-failed-shards True"):
        (BadSampleReport(160) + report).check(1.0)


def test_skipped_shard_stays_skipped_after_resume(no_waiting):
    gone = {"examples": Faulty(gone=(4,)), "skip_failed_shards": True, "threads": 0}
    whole, loader = take(50, **gone)
    assert not (indices(whole) // SHARD == 4).any() and loader.bad_samples.skipped_shards == ("4.tar",)
    assert loader.bad_samples.bad["4.tar", "the shard is skipped"] == 80 and loader.bad_samples.bad_rows == 80 + 36
    np.testing.assert_array_equal(indices(take(50, **gone, workers=0)[0]), indices(whole))
    _, first = take(10, **gone)
    no_waiting.clear()
    rest, last = take(40, position=160, bad_samples=first.bad_samples)  # it is back, and the run goes on without it
    np.testing.assert_array_equal(indices(rest), indices(whole[10:]))
    assert (
        last.bad_samples.bad == loader.bad_samples.bad
        and last.bad_samples.skipped_shards == ("4.tar",)
        and not no_waiting
    )


def test_no_readable_substitute_is_an_error():
    with pytest.raises(JaxrepError, match="and 100 other examples, tried in its place, cannot be read either"):
        take(1, examples=Empty(), threads=0)


class Empty(Faulty):
    def __getitem__(self, index):
        raise BadSample(f"{index}", "the text is empty")


def test_columns_in_memory_have_no_bad_samples():
    batches, loader = take(3, examples=Columns({"index": np.arange(N)}))
    np.testing.assert_array_equal(indices(batches), ORDER.indices(Faulty(), 1)(positions(0, 48)))
    assert loader.bad_samples == BadSampleReport(48)


def test_chunked_batch_is_counted_once(monkeypatch):
    monkeypatch.setattr("jaxrep.data.loading.loader.MAX_CHUNK_ROWS", 4)
    batches, loader = take(12)
    monkeypatch.undo()
    whole, other = take(12)
    np.testing.assert_array_equal(indices(batches), indices(whole))
    assert loader.bad_samples == other.bad_samples


def test_report_round_trips_through_json_and_has_bounded_size():
    report = EMPTY_REPORT
    for number in range(MAX_KINDS + 50):
        report += BadSampleReport(10, {(f"{number}.tar", "it is empty"): 2}, (f"{number}: it is empty",), ("a.tar",))
    assert report.rows == 10 * (MAX_KINDS + 50) and report.bad_rows == 2 * (MAX_KINDS + 50)
    assert (
        report.bad[OTHER, OTHER] == 100 and len(report.examples) == MAX_EXAMPLES and report.skipped_shards == ("a.tar",)
    )
    assert (
        BadSampleReport.from_json(json.loads(json.dumps(report.to_json())))
        == report
        == BadSampleReport.from_array(report.to_array())
    )


def test_reason_kind_drops_numbers_and_brackets():
    assert reason_kind("it ends after 1,204 of its 3.5 bytes (OSError: 7)") == "it ends after N of its N bytes"
    assert reason_kind("the text is empty") == "the text is empty"
