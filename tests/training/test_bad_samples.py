"""What one process cannot read, all know of where a checkpoint is saved, and all go on alike."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrep import hosts
from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.loading import reader
from jaxrep.data.loading.loader import Loader
from jaxrep.data.loading.prefetch import Prefetch
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Examples
from jaxrep.errors import BadShard, JaxrepError
from jaxrep.mesh import local_rows
from jaxrep.runs.run_dir import RunDir
from jaxrep.training import bad_samples
from tests.helpers.harness import logged

BATCH, STEPS = 16, 5
GONE = "4.tar"


class Shards(Examples):
    """Example i of shard i // 40; one shard is not to be had."""

    def __init__(self, gone: str = ""):
        self.gone = gone

    def __len__(self):
        return 400

    def shard(self, index):
        return f"{index // 40}.tar"

    def __getitem__(self, index):
        if self.shard(index) == self.gone:
            raise BadShard(f"{self.gone} does not answer")
        return {"index": np.int64(index)}


def loader(gone: str, position: int, report: BadSampleReport, **changes) -> Loader:
    examples = Shards(gone)
    settings = {
        "position": position,
        "bad_samples": report,
        "skip_failed_shards": True,
        "max_bad_fraction": 1.0,
    } | changes
    return Loader(examples, Shuffle(seed=2).indices(examples, 1), BATCH, **settings)


def indices(batches: Prefetch) -> list[list[int]]:
    """Of the next batches, the rows that lie here."""
    found = (next(batches)["index"].addressable_shards for _ in range(STEPS))
    return [np.concatenate([np.asarray(shard.data) for shard in shards]).tolist() for shards in found]


def process(run_dir: str) -> None:
    """One of two processes; the second cannot read one shard. It prints what it read and knows."""
    hosts.initialize()
    reader.RETRY_WAITS = ()
    gone = GONE if jax.process_index() else ""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    rows = local_rows(sharding, BATCH)
    run = RunDir(Path(run_dir))

    def loader_at(position: int, report: BadSampleReport) -> Loader:
        return loader(gone, position, report, rows=rows)

    with Prefetch(loader_at(0, bad_samples.of_this_host(EMPTY_REPORT)), sharding) as batches:
        before = indices(batches)
        totals = [bad_samples.merge_hosts(STEPS, batches, run, loader_at)]
        after = indices(batches)
        totals.append(bad_samples.merge_hosts(2 * STEPS, batches, run, loader_at))
    stops = []
    for share in (0.01, 0.5):
        try:
            totals[-1].check(share)
        except JaxrepError as error:
            stops.append(str(error))
    print(json.dumps({"rows": [before, after], "totals": [total.to_json() for total in totals], "stops": stops}))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the two processes printed, and the run's directory."""
    run_dir = tmp_path_factory.mktemp("run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = []
    for number in range(2):
        env = {
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            hosts.ADDRESS: address,
            hosts.COUNT: "2",
            hosts.NUMBER: str(number),
        }
        both.append(subprocess.Popen([sys.executable, __file__, str(run_dir)], env=env, stdout=subprocess.PIPE))
    return [json.loads(child.communicate(timeout=300)[0]) for child in both], run_dir


def test_all_processes_leave_out_from_a_checkpoint_on_what_one_could_not_read(told):
    (first, second), _ = told
    own = Shuffle(seed=2).indices(Shards(), 1)(np.arange(BATCH * STEPS, dtype=np.uint64)).reshape(STEPS, BATCH)
    assert first["rows"][0] == own[:, : BATCH // 2].tolist() and (own[:, : BATCH // 2] // 40 == 4).any()
    assert not (np.array(second["rows"][0]) // 40 == 4).any()
    assert first["totals"][0]["skipped_shards"] == second["totals"][0]["skipped_shards"] == [GONE]
    resumed = loader("", BATCH * STEPS, BadSampleReport.from_json(first["totals"][0]))
    expected = [next(resumed)["index"].tolist() for _ in range(STEPS)]
    resumed.close()
    assert [a + b for a, b in zip(first["rows"][1], second["rows"][1], strict=True)] == expected
    assert first["totals"][1]["bad"] == resumed.bad_samples.bad_rows


def test_all_processes_know_the_sum_and_stop_alike(told):
    (first, second), run_dir = told
    assert first["totals"] == second["totals"] and [t["all"] for t in first["totals"]] == [80, 160]
    bad = first["totals"][-1]["bad"]
    assert bad > 8 and first["stops"] == second["stops"]
    assert len(first["stops"]) == 1 and first["stops"][0].startswith(f"{bad} of 160 examples could not be read")
    assert json.loads((run_dir / "bad_samples.json").read_text()) == first["totals"][-1]


def test_a_shard_that_ended_a_run_is_tried_again():
    assert bad_samples.of_this_host(BadSampleReport(8, {}, (), (), ("4.tar cannot be read",))) == BadSampleReport(8)


def test_the_first_process_counts_on_from_a_checkpoint_and_the_sum_stays(monkeypatch):
    total = BadSampleReport(80, {(GONE, "it is empty"): 3}, ("it is empty",), (GONE,))
    parts = []
    for number in range(3):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        parts.append(bad_samples.of_this_host(total))
    assert sum(parts, EMPTY_REPORT) == total and all(part.skipped_shards == (GONE,) for part in parts)


def test_bad_samples_are_told_in_one_line(tmp_path):
    report = BadSampleReport(rows=64, bad={("a.tar", "no image"): 2, ("b.tar", "no image"): 1})
    with logged() as messages:
        bad_samples.tell(report, RunDir(tmp_path))
        bad_samples.tell(BadSampleReport(rows=64), RunDir(tmp_path))
    assert messages == [
        "3 of the 64 examples (4.7%) could not be read, and others took their places: "
        f"{tmp_path}/bad_samples.json counts them by file and reason"
    ]


if __name__ == "__main__":
    process(sys.argv[1])
