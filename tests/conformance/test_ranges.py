"""Every number of a part has its range: what lies outside is one sentence, and never reaches an array."""

import dataclasses
import inspect
import math
import typing
from typing import Annotated, Any

import pytest

from jaxrep import methods, objectives, optim, schedules, views
from jaxrep.errors import UsageError
from jaxrep.schedules import (
    Constant,
    Harmonic,
    Linear,
    Ramp,
    Staircase,
    WarmupConstant,
    WarmupCosine,
    WarmupInverseSqrt,
)
from jaxrep.spec import Range, problems
from jaxrep.step.shapes import validate
from tests.helpers.harness import RECIPE

SPECS = {
    f"{room.__name__.removeprefix('jaxrep.')}.{name}": cls
    for room in (methods, objectives, optim, schedules, views)
    for name in room.__all__
    if inspect.isclass(cls := getattr(room, name)) and dataclasses.is_dataclass(cls)
}


def without_range(annotation: Any, ranged: bool = False) -> bool:
    """Whether a number in an annotation has no range."""
    if typing.get_origin(annotation) is Annotated:
        inner, *notes = typing.get_args(annotation)
        return without_range(inner, ranged or any(isinstance(note, Range) for note in notes))
    if annotation in (int, float):
        return not ranged
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(without_range(inner, ranged) for inner in typing.get_args(annotation))


@pytest.mark.parametrize("name", SPECS)
def test_every_number_has_a_range(name: str):
    hints = typing.get_type_hints(SPECS[name], include_extras=True)
    assert [field.name for field in dataclasses.fields(SPECS[name]) if without_range(hints[field.name])] == []


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Constant(value=math.inf), "value: expected a finite number, got inf"),
        (Linear(start=0.0, end=-math.inf), "end: expected a finite number, got -inf"),
        (Ramp(start=math.nan, end=1.0), "start: expected float, got float nan"),
        (Staircase(start=1.0, every=0), "every: expected a number of at least 1, got 0"),
        (Harmonic(start=1.0, epochs=-8), "epochs: expected a number of at least 1, got -8"),
        (WarmupConstant(peak=0.0), "peak: expected a number above 0, got 0.0"),
        (WarmupCosine(peak=1.0, warmup_steps=-1), "warmup_steps: expected a number of at least 0, got -1"),
        (WarmupInverseSqrt(peak=1.0, timescale_steps=0), "timescale_steps: expected a number of at least 1, got 0"),
        (optim.Adafactor(min_factored=0), "min_factored: expected a number of at least 1, got 0"),
        (optim.Lars(trust=-1e30), "trust: expected a number above 0, got -1e+30"),
        (methods.LogitScale(max=math.inf), "max: expected a number above 0, got inf"),
        (methods.LogitBias(init=-math.inf), "init: expected a finite number, got -inf"),
        (
            methods.PrototypeHead(layers=10**9),
            "layers: expected a number of at least 1 and of at most 1000, got 1000000000",
        ),
        (
            objectives.Dino(iterations=10**9),
            "iterations: expected a number of at least 0 and of at most 1000, got 1000000000",
        ),
        (views.GaussianBlur(radius=0), "radius: expected a number of at least 1 and of at most 1000, got 0"),
        (views.Solarize(threshold=1.5), "threshold: expected a number of at least 0 and of at most 1, got 1.5"),
        (views.RandomTranslate(pixels=-1), "pixels: expected a number of at least 0, got -1"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_a_number_out_of_its_range_is_one_sentence(part: Any, sentence: str):
    assert problems(part) == [sentence]


@pytest.mark.parametrize(
    "changes",
    [
        {"views": (views.RandomTranslate(pixels=2**62),)},
        {"views": (views.RandomSquareCrop(size=2**62),)},
        {"views": (views.Cutout(size=2**62),)},
        {"objective.contrastive.weight": Ramp(start=0.0, end=1.0, after=2**62)},
    ],
    ids=["translate", "crop", "cutout", "ramp"],
)
def test_a_number_that_no_array_holds_is_one_sentence(changes: dict[str, Any]):
    with pytest.raises(UsageError) as error:
        validate(RECIPE.replace(changes))
    assert "\n" not in str(error.value)
