"""Measure exact retrieval among a million candidates: jaxrep's strict ranks beside faiss's flat index.

    python -m benchmarks.retrieval --out retrieval.json

Each runs in a separate process on the same embeddings, and the processes take turns; the best turn counts, so that
other load on the machine disturbs both alike. faiss (``IndexFlatIP``) finds the 10 nearest candidates of each query;
jaxrep the rank of the right one, as in float64, with ties counted against the query. Time is that of the search alone:
faiss's copy of the gallery into its index is not counted. ``recall`` is the share of queries whose right candidate is
among the first 10, which is the same for both.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ENGINES = ("jaxrep", "faiss")
NEAREST = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--noise", type=float, default=4.0, help="length of what is added to a unit candidate")
    parser.add_argument("--searches", type=int, default=2, help="searches in one turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)  # given to the processes
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(measure(arguments)))
        return
    turns = {engine: [turn(engine) for _ in range(arguments.turns)] for engine in ENGINES}
    best = {engine: min(measured, key=lambda one: one["seconds"]) for engine, measured in turns.items()}
    for engine, one in best.items():
        rate = arguments.queries / one["seconds"]
        measured = f"{one['seconds']:8.2f} s{rate:10.0f} queries/s{one['peak_gb']:8.2f} GB{one['recall']:8.3f} recall"
        print(f"{engine:<8}{measured}")
    ratio = best["faiss"]["seconds"] / best["jaxrep"]["seconds"]
    print(f"jaxrep finds {ratio:.2f} times as many per second as faiss")
    if arguments.out:
        arguments.out.write_text(json.dumps({"turns": turns, "ratio": ratio}, indent=1))


def turn(engine: str) -> dict[str, float]:
    """Measure an engine in a new process with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.retrieval", *sys.argv[1:], "--engine", engine]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    queries, gallery = world(arguments.candidates, arguments.queries, arguments.width, arguments.noise)
    search = {"jaxrep": jaxrep, "faiss": faiss}[arguments.engine](queries, gallery)
    seconds, recall = [], 0.0
    for _ in range(arguments.searches):
        start = time.perf_counter()
        recall = float(np.mean(search()))
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": min(seconds), "peak_gb": peak, "recall": recall}


def world(candidates: int, queries: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit queries [Q,D], each the candidate of the same index with noise, and unit candidates [G,D]."""
    random = np.random.default_rng(0)
    gallery = np.empty((candidates, width), np.float32)
    for start in range(0, candidates, 10_000):  # in parts, so that the peak of memory is that of the search
        block = random.standard_normal((min(10_000, candidates - start), width), dtype=np.float32)
        gallery[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    extra = random.standard_normal((queries, width), dtype=np.float32)
    asked = gallery[:queries] + noise * extra / np.linalg.norm(extra, axis=1, keepdims=True)
    return asked / np.linalg.norm(asked, axis=1, keepdims=True), gallery


def jaxrep(queries: np.ndarray, gallery: np.ndarray) -> Callable[[], np.ndarray]:
    from jaxrep.metrics.ranking import best_ranks

    matches = np.arange(len(queries))
    return lambda: best_ranks(queries, gallery, (matches, matches)) <= NEAREST


def faiss(queries: np.ndarray, gallery: np.ndarray) -> Callable[[], np.ndarray]:
    import faiss as library

    index = library.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    matches = np.arange(len(queries))
    return lambda: (index.search(queries, NEAREST)[1] == matches[:, None]).any(1)


if __name__ == "__main__":
    main()
