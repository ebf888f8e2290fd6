"""The laboratory: one small setting in which a run's loss flattens and its retrieval varies little between seeds.

A recipe's ``tiny`` runs ``STEPS`` steps on batches of ``BATCH``. A run takes about a minute on two quiet CPU cores.
``python -m results itself`` measures how much CLIP's R@1 varies between seeds here.
"""

from dataclasses import replace
from typing import cast

from jaxrep import From, Pretrained, Recipe

BATCH, STEPS = 128, 800
SEEDS = (0, 1, 2, 3, 4)


def in_laboratory(recipe: Recipe, seed: int, *, steps: int = STEPS, batch_size: int = BATCH) -> Recipe:
    """Return a recipe at the length of the laboratory, or its own number of steps if that is smaller.

    It has no evaluations. The runs that it starts from are ``STEPS`` long and have the same seed.
    """
    length = len(recipe.data.train.open()) if recipe.epochs else 0
    steps = min(steps, recipe.total_steps(length))
    return recipe.replace(
        {"data.batch_size": batch_size, "checkpoint.every_steps": steps, "log.every_steps": max(1, steps // 4)},
        examples=steps * batch_size,
        init={part: _origin(origin, seed) for part, origin in recipe.init.items()},
        evals=(),
        seed=seed,
    )


def _origin(origin: From | Pretrained, seed: int) -> From | Pretrained:
    if isinstance(origin, From) and isinstance(origin.source, Recipe):
        return cast(From, replace(origin, source=in_laboratory(origin.source, seed)))
    return origin
