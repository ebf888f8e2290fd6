"""What a step needs before it runs: compiled from shapes for devices that need not be there; nothing is allocated."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxrep.plan.collectives import Grouped, grouped
from jaxrep.recipe import Recipe
from jaxrep.step.flops import count_jaxpr_flops, peak_flops
from jaxrep.step.shapes import check_devices, validate
from jaxrep.step.train_state import TrainState, abstract_state
from jaxrep.step.train_step import abstract_batch, trace_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device. ``total`` is the compiler's sum: the parts, and what padding and outputs add."""

    params: int  # of the model: trained and frozen, running statistics, averages
    optimizer: int
    batch: int
    temporaries: int
    total: int


@dataclasses.dataclass(frozen=True)
class Lying:
    """How one array lies on the devices."""

    path: str
    shape: tuple[int, ...]
    layout: str
    bytes: int  # on one device


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a step on a mesh."""

    device: str
    mesh: Mapping[str, int]
    batch_size: int
    microbatch_size: int
    memory: Memory
    available: int | None  # bytes on one device; None: not known
    refused: bool  # by the compiler, which then gives no more than what it needed
    flops: float  # of a step, over all devices
    peak: float | None  # floating-point operations a second of one device; None: not known
    traffic: Grouped | None  # None: the program has no text
    arrays: tuple[Lying, ...]

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool:
        return not self.refused and (self.available is None or self.memory.total <= self.available)

    @property
    def seconds(self) -> float | None:
        """Time of the step's operations at the peak of the devices: what no step is faster than."""
        return None if self.peak is None else self.flops / self.devices / self.peak


def plan(recipe: Recipe, devices: Sequence[Any], available: int | None = None) -> Plan:
    """Compiles the step of a recipe for these devices, of which each has ``available`` bytes (None: nobody knows).

    Raises UsageError where the recipe has mistakes or does not fit the mesh. A step that does not fit the memory is a
    plan that says so.
    """
    shapes = validate(recipe)
    mesh = recipe.mesh.build(devices)
    check_devices(recipe, mesh)
    recipe.mesh.check(shapes.arrays)
    updater = shapes.updater(recipe)
    steps = recipe.total_steps(recipe.data.batch_size)  # the data's length is not known: a number in the program
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state, batch = abstract_state(recipe, shapes, updater, mesh), abstract_batch(shapes, mesh)
        traced = trace_step(recipe, shapes, updater, steps, state, batch)
        lowered = traced.lower()
    held = _bytes((state, batch))
    needed, refused, text = _compile(lowered, held)
    return Plan(
        device=devices[0].device_kind,
        mesh=dict(mesh.shape),
        batch_size=recipe.data.batch_size,
        microbatch_size=recipe.microbatch_size,
        memory=_memory(state, batch, *needed),
        available=available,
        refused=refused,
        flops=count_jaxpr_flops(traced.jaxpr.jaxpr),
        peak=peak_flops(devices[0].device_kind),
        traffic=None if text is None else grouped(text),
        arrays=tuple(_lying(path, leaf) for path, leaf in {**state.arrays, **batch}.items()),
    )


def _compile(lowered: jax.stages.Lowered, held: int) -> tuple[tuple[int, int], bool, str | None]:
    """((temporaries, total) in bytes on a device, whether the compiler refused the step, the program's text).

    ``held``: bytes of what goes in, of which a refusal tells the sum with the temporaries alone.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (total := refused_total(str(error))) is None:
            raise
        return (total - held, total), True, None
    found: Any = compiled.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    total = found.argument_size_in_bytes + outputs + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # this version cannot print some programs of a TPU: a plan says so
        text = None
    return (found.temp_size_in_bytes, total), False, text


REFUSED = re.compile(r"RESOURCE_EXHAUSTED.*HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", re.DOTALL)


def refused_total(message: str) -> int | None:
    """Bytes in all in the words by which the compiler refuses what does not fit; None for other words. What it calls
    temporaries is their sum with the arguments."""
    found = REFUSED.search(message)
    return None if found is None else int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def _memory(state: TrainState, batch: Mapping[str, Any], temporaries: int, total: int) -> Memory:
    return Memory(
        params=_bytes((state.params, state.non_trainable, state.ema)),
        optimizer=_bytes(state.optimizer),
        batch=_bytes(batch),
        temporaries=temporaries,
        total=total,
    )


def _lying(path: str, leaf: Any) -> Lying:
    return Lying(path, leaf.shape, str(leaf.sharding.spec), _bytes(leaf))


def _bytes(tree: Any) -> int:
    """Bytes on one device of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def largest(fits: Callable[[int], bool], start: int, unit: int) -> int:
    """The largest multiple of ``unit`` that fits: doubled from ``start`` while it does, then bisected; 0: none does."""
    low, high, tried = 0, None, max(start // unit, 1)
    while high is None or high - low > 1:
        if fits(tried * unit):
            low = tried
        else:
            high = tried
        tried = 2 * low if high is None else (low + high) // 2
    return low * unit


def largest_batch(
    recipe: Recipe, devices: Sequence[Any], available: int, tell: Callable[[Plan], None] = lambda _: None
) -> Plan:
    """The plan of the largest global batch that fits ``available`` bytes a device, with everything else kept.

    If none fits, the plan of the smallest. ``tell`` is given each plan on the way.
    """
    rows = recipe.mesh.build(devices)
    unit = math.lcm(rows.shape["data"] * rows.shape["fsdp"], recipe.microbatch_size or 1)
    plans: dict[int, Plan] = {}

    def fits(size: int) -> bool:
        plans[size] = plan(recipe.replace({"data.batch_size": size}), devices, available)
        tell(plans[size])
        return plans[size].fits

    return plans[largest(fits, recipe.data.batch_size, unit) or min(plans)]
