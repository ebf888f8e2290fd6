"""Measure the sides of a row at several learning rates, to choose a rate for each.

``python -m results.sweep NAME`` prints the mean of the row's first metric for each side and rate, with seeds that no
row uses. A stopped command is resumed by the same command. Runs are kept in ``runs/effects``, or in ``--folder``.
"""

import argparse
import logging
import statistics
from pathlib import Path

from jaxrep.training.compilation import enable_compilation_cache
from results.measure import KEPT, Effect, Pieces
from results.rows import EFFECTS

SEEDS = (100, 101)


def sweep(effect: Effect, folder: Path, pieces: Pieces) -> dict[str, dict[float, float]]:
    """Return the mean of the first metric, by rate, for each side."""
    metric = next(iter(effect.metrics))

    def mean(side: str, rate: float) -> float:
        values = []
        for seed in SEEDS:
            pieces.check(f"seed {seed} of {side} at a rate of {rate:g}")
            values.append(effect.measure(side, seed, folder, rate)[metric])
        return statistics.mean(values)

    return {side: {rate: mean(side, rate) for rate in effect.rates} for side in ("baseline", "method")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m results.sweep", description=__doc__)
    names = [name for name, effect in EFFECTS.items() if effect.rates]
    parser.add_argument("name", metavar="NAME", choices=names, help=", ".join(names))
    parser.add_argument("--folder", metavar="DIR", type=Path, default=KEPT.parents[1] / "runs" / "effects")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many minutes")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    enable_compilation_cache()
    for side, means in sweep(EFFECTS[options.name], options.folder, Pieces(options.minutes)).items():
        best = max(means, key=means.__getitem__)
        print(f"{side:<9}", *(f"{rate:g}: {mean:.3f} " for rate, mean in means.items()), f"best at {best:g}")


if __name__ == "__main__":
    main()
