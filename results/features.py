"""Rows of the table of effects that compare the features of a learner with simpler ones, or with others of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from jaxrep import Recipe, evals, schedules
from results.measure import Effect

FEATURES = {
    "probe/concept/top1": "linear probe, concepts of new pictures",
    "probe/group/top1": "linear probe, 10 groups of new concepts",
    "knn/group/20/top1": "20 neighbors, groups",
    "knn/concept/20/top1": "20 neighbors, concepts",
}
BEFORE = "the tower before training"
"""What a baseline of initial values is called."""


def untrained(recipe: Recipe, steps: int = 1) -> Recipe:
    """Return the recipe with steps at a learning rate of 0: its initial values.

    With one step, running statistics of a batch norm are still those of the start, and with fifty those of the data.
    """
    return recipe.replace(examples=steps * recipe.data.batch_size, schedule=schedules.Constant(value=0.0))


def features(
    name: str,
    claim: str,
    probes: tuple[evals.Eval, ...],
    metrics: Mapping[str, str],
    *,
    recipe: str = "",
    change: Callable[[Recipe], Recipe] | None = None,
    without: Callable[[Recipe], Recipe] = untrained,
) -> dict[str, Effect]:
    """Return rows of a tower beside the same tower before training, and beside raw pixels.

    Args:
        name: of the rows, with ``_untrained`` and ``_pixels`` after it.
        claim: the claim.
        probes: evaluations of a tower.
        metrics: their metrics.
        recipe: an experiment and its preset; by default ``<name>:tiny``.
        change: makes the method of the recipe, if it is not the recipe itself.
        without: makes the recipe whose tower is untrained.
    """
    beside = Effect(
        claim=claim,
        recipe=recipe or f"{name}:tiny",
        without=without,
        baseline=BEFORE,
        metrics=metrics,
        change=change,
        evals=probes,
    )
    pixels = outputs(replace(beside, without=None, baseline="raw pixels"), probes, "pixels", "pixels")
    return {f"{name}_untrained": beside, f"{name}_pixels": pixels}


def outputs(effect: Effect, probes: tuple[evals.Eval, ...], output: str, prefix: str) -> Effect:
    """Return a row whose baseline is another output of a model than ``image``, measured alike.

    Args:
        effect: the row.
        probes: evaluations of ``image``.
        output: name of the baseline's output.
        prefix: what the names of its evaluations begin with.
    """
    return replace(
        effect,
        baseline_evals=tuple(replace(probe, output=output, name=f"{prefix}/{probe.name}") for probe in probes),  # pyright: ignore[reportCallIssue]
        baseline_names={metric: f"{prefix}/{metric}" for metric in effect.metrics},
    )
