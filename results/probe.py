"""Fit a linear probe on a run's frozen image tower, on an untrained tower and on raw pixels.

``python -m results.probe RUN`` learns the group of an emoji, one of ten, from half of all concepts (a person who
climbs, in any skin tone) and measures on the other half, so that variants of one drawing are on one side. The tower was
trained on pictures of both sides with their names, and without groups.
"""

import argparse
from pathlib import Path

from flax import nnx

from experiments.common import half
from jaxrep import Model, evals
from jaxrep.metrics.intervals import bootstrap_interval
from jaxrep.params import split
from jaxrep.runs.restore import load_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m results.probe", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run of clip:tiny")
    parser.add_argument("--label", default="group")
    given = parser.parse_args()
    trained, recipe = load_run(given.run)
    structure, arrays = split(recipe.method.build(nnx.Rngs(recipe.seed), inputs=trained.fields))
    untrained = Model(structure, arrays, trained.fields, trained.tokenizer)
    for name, model, output in (
        ("trained tower", trained, "image"),
        ("random tower", untrained, "image"),
        ("raw pixels", trained, "pixels"),
    ):
        probe = evals.LinearProbe(
            train=half(False),
            data=half(True),
            label=given.label,
            output=output,
            max_iterations=200,
        )
        top1 = probe.run(model)["probe/top1"]
        bounds = bootstrap_interval(top1)  # pyright: ignore[reportArgumentType]
        count = len(top1.values)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{name:<14} {top1:.3f} [{bounds.low:.3f}, {bounds.high:.3f}] of {count}", flush=True)


if __name__ == "__main__":
    main()
