"""Measure the laboratory: how much CLIP's R@1 varies between seeds, and how often a verdict sees what is not there."""

import logging
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from jaxrep.runs.layout import write_json
from results.lab import BATCH, SEEDS, STEPS
from results.measure import KEPT, MEAN_R1, Effect, Pieces
from results.verdict import Word, judge

LOG = logging.getLogger("jaxrep.results")
FILE = KEPT / "itself.json"
RUNS, TRIES = 10, 10


def measure_itself(baseline: Effect, folder: Path, pieces: Pieces) -> None:
    """Measure the baseline of a row with ``RUNS`` seeds, and judge it against itself in ``TRIES`` random halves."""
    values = []
    for seed in range(RUNS):
        pieces.check(f"seed {seed} of CLIP")
        values.append(baseline.measure("baseline", seed, folder)[MEAN_R1])
        LOG.info("CLIP, seed %d: %.3f", seed, values[-1])
    words = verdicts_on_itself(values)
    write_json(FILE, {"steps": STEPS, "batch_size": BATCH, "values": values, "verdicts": words})


def verdicts_on_itself(values: list[float]) -> list[Word]:
    """Return the verdicts on random halves of the values, which are of one recipe, against the other halves."""
    random, count = np.random.default_rng(0), len(SEEDS)
    halves = [random.permutation(values).tolist() for _ in range(TRIES)]
    return [judge(half[:count], half[count : 2 * count], "higher", resolution=0.02).word for half in halves]


def sentence(kept: dict[str, Any]) -> str:
    """Return what was measured, for the documentation."""
    values, words = kept["values"], kept["verdicts"]
    return (
        f"CLIP's R@1 (mean of both directions) is {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} over "
        f"{len(values)} seeds. Of {len(words)} verdicts on this recipe against itself, with other seeds on each side, "
        f"{words.count('seen')} are *seen* and {words.count('reversed')} *reversed*."
    )
