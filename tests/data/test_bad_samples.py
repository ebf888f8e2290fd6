"""What cannot be read is counted, replaced the same way by every run, and stops one where it is too much."""

import json
from itertools import pairwise

import numpy as np
import pytest

from jaxrep.data.bad_samples import EMPTY, EXAMPLES, KINDS, OTHER, BadSampleReport, kind
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
    """Example i of shard i // 40: every 20th picture is damaged, and shards may be gone."""

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
            raise BadSample(f"{self.shard(index)}, member {index}.jpg", f"the picture ends after {index} bytes (EOF)")
        return {"index": np.int64(index), "image": np.full((2, 2, 3), index % 256, np.uint8)}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(reader.time, "sleep", waits.append)
    return waits


def take(count, **changes):
    settings = {"examples": Faulty(), "batch_size": 16, "max_bad_fraction": 1.0} | changes
    examples = settings.pop("examples")
    loader = Loader(examples, examples.arranged(ORDER, 16), **settings)
    try:
        return [next(loader) for _ in range(count)], loader
    finally:
        loader.close()


def indices(batches):
    return np.concatenate([batch["index"] for batch in batches])


def test_seen_and_bad_are_all_and_what_is_good_stays_in_its_place():
    batches, loader = take(50)  # two epochs
    own = ORDER.over(Faulty(), 1)(positions(0, 800))
    bad = own % 20 == 3
    np.testing.assert_array_equal(indices(batches)[~bad], own[~bad])
    assert not (indices(batches) % 20 == 3).any()
    told = loader.ledger.to_json()
    assert (told["all"], told["seen"], told["bad"], told["repeats"]) == (800, 760, 40, 40)
    reason = "the picture ends after N bytes"
    assert told["shards"] == {f"{shard}.tar": {reason: 4} for shard in range(10)}
    index = own[bad][0]
    assert (
        told["examples"][0] == f"{index // SHARD}.tar, member {index}.jpg: the picture ends after {index} bytes (EOF)"
    )


def test_what_stands_in_depends_on_neither_workers_hosts_nor_where_a_run_went_on():
    whole, loader = take(12)
    for changes in ({"workers": 1}, {"workers": 2}, {"threads": 0}):
        batches, other = take(12, **changes)
        np.testing.assert_array_equal(indices(batches), indices(whole))
        assert other.ledger == loader.ledger
    for hosts in (2, 4):
        size = 16 // hosts
        parts = [take(12, rows=slice(host * size, host * size + size)) for host in range(hosts)]
        joined = np.stack([[batch["index"] for batch in batches] for batches, _ in parts], axis=1)
        np.testing.assert_array_equal(joined.ravel(), indices(whole))
        each = [part.ledger for _, part in parts]
        assert sum(ledger.rows for ledger in each) == loader.ledger.rows
        assert sum(each, EMPTY).bad == loader.ledger.bad
    for step in (1, 5, 11):
        _, first = take(step)
        batches, rest = take(
            12 - step, position=first.position, ledger=BadSampleReport.from_json(first.ledger.to_json())
        )
        np.testing.assert_array_equal(indices(batches), indices(whole[step:]))
        assert rest.ledger == loader.ledger


def test_in_a_mixture_the_same_source_stands_in():
    examples = MixedExamples(Mixture(sources={}), {"a": Faulty(), "b": Faulty(every=50)})
    batches, loader = take(40, examples=examples)
    own = examples.arranged(ORDER, 16)(positions(0, 640))
    assert loader.ledger.bad_rows > 10
    assert {shard.partition(":")[0] for shard, _ in loader.ledger.bad} == {"a", "b"}
    which = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(which, indices(batches) % 256)
    repeats = examples.arranged(ORDER, 16)
    for position in np.flatnonzero(own % N % np.where(own < N, 20, 50) == 3):
        assert indices(batches)[position] in [repeats.instead(int(position), n) % N for n in range(1, 9)]


def test_too_many_bad_ones_stop_the_run_with_the_worst_shards():
    with pytest.raises(JaxrepError) as stopped:
        take(100, max_bad_fraction=0.03)
    assert str(stopped.value).startswith("31 of 592 examples could not be read, which is more than the share of 0.03")
    assert "times the picture ends after N bytes" in str(stopped.value)
    take(100, max_bad_fraction=0.06)
    with pytest.raises(JaxrepError, match="1 of 80 examples"):
        take(20, max_bad_fraction=0.0)


def test_a_shard_that_does_not_answer_is_tried_again_then_stops_the_run(no_waiting):
    batches, loader = take(5, examples=Faulty(gone=(4,), back_after=3), threads=0)
    np.testing.assert_array_equal(indices(batches), indices(take(5)[0]))
    assert no_waiting == [1.0, 2.0, 4.0] and not loader.ledger.skipped_shards
    with pytest.raises(BadShard, match=r"4.tar does not answer; it was tried 6 times.*--data.skip-failed-shards True"):
        take(5, examples=Faulty(gone=(4,)), threads=0)
    assert sum(no_waiting) - 7 == 31 and all(b == 2 * a for a, b in pairwise(no_waiting[3:]))


def test_one_of_several_hosts_tells_of_a_lost_shard_and_reads_on_until_all_stop(no_waiting):
    batches, loader = take(10, examples=Faulty(gone=(4, 5)), threads=0, alone=False)
    assert not np.isin(indices(batches) // SHARD, (4, 5)).any() and sum(no_waiting) == 31  # it waits for one only
    ledger = BadSampleReport.from_json(loader.ledger.to_json())
    assert ledger == loader.ledger and len(ledger.failed_shards) == 2 and not ledger.skipped_shards
    assert {kind: ledger.bad[kind] for kind in ledger.bad if "shard" in kind[1]} == {
        (f"{shard}.tar", "the shard cannot be read"): (
            ORDER.over(Faulty(), 1)(positions(0, 160)) // SHARD == shard
        ).sum()
        for shard in (4, 5)
    }
    with pytest.raises(JaxrepError, match=r"[45].tar does not answer; it was tried .*--data.skip-failed-shards True"):
        (BadSampleReport(160) + ledger).check(1.0)


def test_a_shard_that_is_left_out_stays_out(no_waiting):
    gone = {"examples": Faulty(gone=(4,)), "skip_failed_shards": True, "threads": 0}
    whole, loader = take(50, **gone)
    assert not (indices(whole) // SHARD == 4).any() and loader.ledger.skipped_shards == ("4.tar",)
    assert loader.ledger.bad["4.tar", "the shard is left out"] == 80 and loader.ledger.bad_rows == 80 + 36
    np.testing.assert_array_equal(indices(take(50, **gone, workers=0)[0]), indices(whole))
    _, first = take(10, **gone)
    no_waiting.clear()
    rest, last = take(40, position=160, ledger=first.ledger)  # it is back, and the run goes on without it
    np.testing.assert_array_equal(indices(rest), indices(whole[10:]))
    assert last.ledger.bad == loader.ledger.bad and last.ledger.skipped_shards == ("4.tar",) and not no_waiting


def test_where_nothing_can_be_read_it_is_said():
    with pytest.raises(JaxrepError, match="and 100 other examples, tried in its place, cannot be read either"):
        take(1, examples=Empty(), threads=0)


class Empty(Faulty):
    def __getitem__(self, index):
        raise BadSample(f"{index}", "the text is empty")


def test_examples_in_memory_are_read_at_once():
    batches, loader = take(3, examples=Columns({"index": np.arange(N)}))
    np.testing.assert_array_equal(indices(batches), ORDER.over(Faulty(), 1)(positions(0, 48)))
    assert loader.ledger == BadSampleReport(48)


def test_a_large_batch_is_counted_once(monkeypatch):
    monkeypatch.setattr("jaxrep.data.loading.loader.CHUNK", 4)
    batches, loader = take(12)
    monkeypatch.undo()
    whole, other = take(12)
    np.testing.assert_array_equal(indices(batches), indices(whole))
    assert loader.ledger == other.ledger


def test_a_ledger_is_kept_as_json_and_stays_small():
    ledger = EMPTY
    for number in range(KINDS + 50):
        ledger += BadSampleReport(10, {(f"{number}.tar", "it is empty"): 2}, (f"{number}: it is empty",), ("a.tar",))
    assert ledger.rows == 10 * (KINDS + 50) and ledger.bad_rows == 2 * (KINDS + 50)
    assert ledger.bad[OTHER, OTHER] == 100 and len(ledger.examples) == EXAMPLES and ledger.skipped_shards == ("a.tar",)
    assert (
        BadSampleReport.from_json(json.loads(json.dumps(ledger.to_json())))
        == ledger
        == BadSampleReport.unpacked(ledger.packed())
    )


def test_reasons_are_told_apart_by_kind():
    assert kind("it ends after 1,204 of its 3.5 bytes (OSError: 7)") == "it ends after N of its N bytes"
    assert kind("the text is empty") == "the text is empty"
