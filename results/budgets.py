"""Declare rows whose sides share a budget of computation: as many FLOPs, steps or seconds.

The rates of such a row's sides are tuned one by one: ``python -m results.sweep NAME`` measures ``RATES`` for each side,
with seeds of its own, and the best ones are written here.
"""

from dataclasses import replace

from experiments.image_text import clip
from jaxrep import Recipe, optim
from results.lab import STEPS
from results.measure import MEAN_R1, Effect

RETRIEVAL = {
    MEAN_R1: "R@1, mean of both directions",
    "retrieval/image_to_text/r1": "image to text R@1",
    "retrieval/text_to_image/r1": "text to image R@1",
}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
"""Peaks of the learning rate that a sweep tries."""
ADAMW_RATE = MUON_RATE = 3e-3
"""CLIP's rate. Both optimizers' steps have one root mean square; the sweep has not run yet."""

SMALL = 0.3218
"""FLOPs of a pair in the small stage of CLIPA's tiny over those in its full one (``Shapes.forward_flops``)."""
SMALL_STEPS, FULL_STEPS = 800, 200
"""Steps of the two stages in the laboratory."""
MUON_TIME = 1.181
"""Time of a step of Muon over that of AdamW, by their FLOPs: those of the model and of the Newton-Schulz iterations."""


def with_adamw(recipe: Recipe) -> Recipe:
    """Return the recipe with AdamW at its tuned rate."""
    return recipe.replace({"schedule.peak": ADAMW_RATE})


def with_muon(recipe: Recipe) -> Recipe:
    """Return the recipe with Muon at its tuned rate; weight decay and clipping stay."""
    kept = recipe.optimizer
    muon = optim.Muon(weight_decay=kept.weight_decay, clip_norm=kept.clip_norm, rules=kept.rules)
    return recipe.replace({"schedule.peak": MUON_RATE}, optimizer=muon)


MUON = Effect(
    claim="orthogonal updates of matrices learn more in as many steps",
    recipe="clip:tiny",
    without=with_adamw,
    change=with_muon,
    baseline="AdamW, as many steps",
    metrics=RETRIEVAL,
    rates=RATES,
)

EFFECTS: dict[str, Effect] = {
    "clipa": Effect(
        claim="small pictures and short texts, then a few full ones, beat full ones throughout at equal FLOPs",
        recipe="clipa:tiny",
        without=lambda recipe: clip.tiny,
        baseline="CLIP on full pictures and texts, as many FLOPs",
        metrics={**RETRIEVAL, "zeroshot/top1": "zero-shot, 10 groups"},
        steps=FULL_STEPS,
        baseline_steps=round(FULL_STEPS + SMALL_STEPS * SMALL),
        why="the small stage of 800 steps costs as much as 257 full ones",
    ),
    "muon": MUON,
    "muon_time": replace(
        MUON,
        claim="and in as much time",
        baseline="AdamW, as much time",
        steps=round(STEPS / MUON_TIME),
        baseline_steps=STEPS,
        why="a step of Muon takes longer",
    ),
}
