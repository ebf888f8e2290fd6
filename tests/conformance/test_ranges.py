"""Every number of a part has its range: what lies outside is one sentence, and never reaches an array."""

import dataclasses
import inspect
import math
import typing
from typing import Annotated, Any

import pytest

from jaxrep import data, encoders, evals, mesh, methods, objectives, optim, recipe, views
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
from tests.helpers.exported_specs import ROOMS
from tests.helpers.harness import RECIPE


def declares(cls: Any) -> bool:
    """Whether a class is a part of a recipe (``spec`` wraps the ``__init__`` of its classes), and no computed value."""
    made = inspect.isclass(cls) and dataclasses.is_dataclass(cls)
    return made and (hasattr(cls.__init__, "__wrapped__") or cls in (recipe.From, recipe.Pretrained))


SPECS = {
    f"{room}.{name}": cls
    for room, module in ROOMS.items()
    for name in module.__all__
    if declares(cls := getattr(module, name))
}

# A limit that is infinite is none. ``problems`` refuses limits that no number meets.
UNLIMITED = {"data.Where": ["at_least", "at_most"]}


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
    found = [field.name for field in dataclasses.fields(SPECS[name]) if without_range(hints[field.name])]
    assert found == UNLIMITED.get(name, [])


def test_specs_of_all_rooms_are_looked_at():
    rooms = {name.partition(".")[0] for name in SPECS}
    assert rooms == ROOMS.keys()
    assert {"data.Where", "encoders.PixelNorm", "evals.Segmentation", "mesh.Mesh", "recipe.Recipe"} <= {*SPECS}


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
        (
            data.AddWeights(source=data.OpenMoji(), column="x", default=-1.0),
            "default: expected a number of at least 0, got -1.0",
        ),
        (data.ByLength(buckets=((0, 16),)), "buckets.0.0: expected a number of at least 1, got 0"),
        (data.Fraction(source=data.OpenMoji(), share=0.5, seed=-1), "seed: expected a number of at least 0, got -1"),
        (data.HostRandomResizedCrop(scale=(0.0, 1.0)), "scale.0: expected a number above 0 and of at most 1, got 0.0"),
        (data.HostRandomResizedCrop(scale=(0.9, 0.5)), "scale is a range (low, high), and not (0.9, 0.5)"),
        (data.HostRandomResizedCrop(ratio=(1.0, math.inf)), "ratio.1: expected a number above 0, got inf"),
        (data.Where(column="x", at_least=math.inf), "no number is at least inf and at most inf"),
        (data.Windowed(lanes=0), "lanes: expected a number of at least 1, got 0"),
        (encoders.PixelNorm(mean=(math.inf, 0.5, 0.5)), "mean.0: expected a finite number, got inf"),
        (evals.ComposedQueries(data=data.OpenMoji(), weight=math.inf), "weight: expected a finite number, got inf"),
        (mesh.Mesh(data=0), "data counts devices: at least 1 or -1 for the rest, got 0"),
        (mesh.Mesh(fsdp=0), "fsdp: expected a number of at least 1, got 0"),
        (mesh.Mesh(min_shard_size=-1), "min_shard_size: expected a number of at least 0, got -1"),
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
