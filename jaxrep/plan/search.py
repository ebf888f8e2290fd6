"""Search the settings of a step that trade memory for computation, and keep those that no other one beats."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxrep.errors import UsageError
from jaxrep.plan.plan import Plan
from jaxrep.recipe import Recipe
from jaxrep.spec import walk

FIELDS = ("remat", "microbatch", "batch")
REMATS = ("none", "dots", "full")
MICROBATCHES = 3
"""Sizes of microbatches to try: a half of the recipe's batch, a quarter and an eighth."""
DOUBLINGS = 10
"""Most doublings of the recipe's batch."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Hold the values of the fields that a search varies."""

    batch: int
    microbatch: int
    remat: str
    """Of all encoders that have the field; empty: as in the recipe."""

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this setting."""
        changes: dict[str, Any] = {"data.batch_size": self.batch}
        for path, part in walk(recipe) if self.remat else ():
            if hasattr(part, "remat"):  # of convolutional networks: whether to recompute blocks
                changes[f"{path}.remat"] = self.remat == "full" if isinstance(part.remat, bool) else self.remat
            if getattr(part, "save", ()):
                changes[f"{path}.save"] = ()
        return recipe.replace(changes, microbatch_size=self.microbatch)


@dataclasses.dataclass(frozen=True)
class Found:
    """Hold a setting and its plan."""

    setting: Setting
    plan: Plan

    @property
    def flops(self) -> float:
        """FLOPs of the step over those of the model: at one batch size, more of them are recomputed."""
        return self.plan.flops.executed / self.plan.flops.model

    def beats(self, other: "Found") -> bool:
        """Tell whether it needs no more memory and FLOPs for the same batch, and one of them less."""
        own, others = (self.plan.memory.total, self.flops), (other.plan.memory.total, other.flops)
        same_batch = self.setting.batch == other.setting.batch
        return same_batch and own != others and all(a <= b for a, b in zip(own, others, strict=True))


def remats(recipe: Recipe) -> tuple[str, ...]:
    """Return the values of ``remat`` to try: none if no encoder has the field."""
    kinds = {type(part.remat) for _, part in walk(recipe) if hasattr(part, "remat")}
    return REMATS if str in kinds else ("none", "full") if kinds else ()


def search(recipe: Recipe, fields: Sequence[str], devices: int, planned: Callable[[Recipe], Plan]) -> list[Found]:
    """Return the settings that fit and that no other one beats, by batch and memory.

    A setting that does not fit is not tried with a larger batch.

    Args:
        recipe: the recipe.
        fields: what to vary, of ``FIELDS``; ``batch``: its doublings, as long as one of them fits.
        devices: number of devices.
        planned: makes a plan of a recipe.

    Raises:
        UsageError: no encoder has ``remat``, or a plan finds a mistake.
    """
    found: list[Found] = []
    settings = list(_settings(recipe, fields, devices))
    while settings:
        tried = [Found(setting, planned(setting.applied(recipe))) for setting in settings]
        fitting = [each for each in tried if each.plan.fits]
        found += fitting
        doubled = (dataclasses.replace(each.setting, batch=2 * each.setting.batch) for each in fitting)
        limit = recipe.data.batch_size * 2**DOUBLINGS
        settings = [setting for setting in doubled if "batch" in fields and setting.batch <= limit]
    return front(found)


def front(found: Sequence[Found]) -> list[Found]:
    """Return those that no other one beats, by batch and memory; of equal ones the first."""
    best: dict[tuple[int, int, float], Found] = {}
    for each in found:
        if not any(other.beats(each) for other in found):
            best.setdefault((each.setting.batch, each.plan.memory.total, each.flops), each)
    return [best[key] for key in sorted(best)]


def _settings(recipe: Recipe, fields: Sequence[str], devices: int) -> Iterator[Setting]:
    """Yield the settings to try with the recipe's batch, those with the fewest FLOPs first."""
    if "remat" in fields and not remats(recipe):
        raise UsageError("--find remat: no encoder of the recipe has the field remat; leave it out")
    batch, (data, fsdp, _) = recipe.data.batch_size, recipe.mesh.shape(devices)
    parts = (batch // 2**power for power in range(1, MICROBATCHES + 1) if batch % 2**power == 0)
    microbatches = [0, *(part for part in parts if part % (data * fsdp) == 0)]
    for microbatch, remat in itertools.product(
        microbatches if "microbatch" in fields else [recipe.microbatch_size],
        remats(recipe) if "remat" in fields else [""],
    ):
        yield Setting(batch, microbatch, remat)
