"""Measure pairs per second from tars on a store that takes 30 ms per request, beside the same tars on this disk.

    python -m benchmarks.remote --out remote.json

The store is ``tests/helpers/slow_store.py``: a folder of this machine with a delay and a bandwidth. Both loaders decode
400 x 300 photographs with as many threads. They take turns; the first turn of the store starts with an empty cache.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from jaxrep.data import Shuffle, TarShards, Windowed
from jaxrep.data.loading.loader import Loader
from tests.helpers import photos
from tests.helpers.slow_store import SlowStore
from tests.helpers.tars import write

BATCH = 64
ORDERS = {"windowed": Windowed(shards=4), "shuffle": Shuffle()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs per shard")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds per request")
    parser.add_argument("--bandwidth", type=float, default=200e6, help="bytes per second of all requests together")
    parser.add_argument("--order", choices=ORDERS, default="windowed")
    parser.add_argument("--cache-gib", help="JAXREP_CACHE_GIB (default: 100)", default="100")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"JAXREP_CACHE": f"{folder}/cache", "JAXREP_CACHE_GIB": given.cache_gib}
        _write(Path(folder), given.shards, given.pairs)
        rows = _measure(folder, given)
    print(*map(json.dumps, rows), sep="\n")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=2))


def _write(folder: Path, shards: int, pairs: int) -> None:
    images = list(photos.jpegs(64, 400, 300))
    for shard in range(shards):
        contents = [(n, images[n % len(images)]) for n in range(pairs)]
        members = [pair for n, image in contents for pair in ((f"{n:05}.jpg", image), (f"{n:05}.txt", b"a photograph"))]
        write(folder / f"{shard:05}.tar", members)


def _measure(folder: str, given: argparse.Namespace) -> list[dict[str, float | str]]:
    SlowStore.reset()
    sources = {
        name: TarShards(shards=f"{root}{folder}/{{00000..{given.shards - 1:05}}}.tar").open()
        for name, root in (("disk", ""), ("store", "slow://"))
    }
    SlowStore.reset(delay=given.delay, bandwidth=given.bandwidth)
    position, rows = dict.fromkeys(sources, 0), []
    for turn in range(given.turns):
        for name, examples in sources.items():
            order = ORDERS[given.order].indices(examples, BATCH)
            loader = Loader(examples, order, BATCH, position=position[name])
            next(loader)
            sent, size, count = SlowStore.count(".tar"), SlowStore.bytes(".tar"), 0
            start, used = time.perf_counter(), time.process_time()
            while time.perf_counter() < start + given.seconds:
                next(loader)
                count += BATCH
            rate = count / (time.perf_counter() - start)
            used = round((time.process_time() - used) / count * 1e6)
            row = {"turn": turn, "files": name, "pairs_per_second": round(rate), "processor_us_per_pair": used}
            if name == "store":
                row["requests_per_pair"] = round((SlowStore.count(".tar") - sent) / count, 4)
                row["bytes_per_pair"] = round((SlowStore.bytes(".tar") - size) / count)
            rows.append(row)
            loader.close()
            position[name] = loader.position
    return rows


if __name__ == "__main__":
    main()
