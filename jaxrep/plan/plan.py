"""The memory, FLOPs and collectives of a training step, compiled from shapes for devices that need not exist."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxrep.plan.collectives import TrafficByGroup, count_collectives
from jaxrep.recipe import Recipe
from jaxrep.step.flops import StepFlops, peak_flops
from jaxrep.step.shapes import fit_devices
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import abstract_batch, step_flops, trace_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Hold the bytes on one device. ``total`` is the compiler's sum: the parts, with padding and outputs."""

    params: int  # trained and frozen, running statistics, averages
    optimizer: int
    batch: int
    temporaries: int
    total: int


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
    """Describe how one array is sharded."""

    path: str
    shape: tuple[int, ...]
    layout: str
    bytes: int  # on one device


@dataclasses.dataclass(frozen=True)
class Plan:
    """Hold the cost of a step on a mesh."""

    device: str
    mesh: Mapping[str, int]
    batch_size: int
    microbatch_size: int
    memory: Memory
    available: int | None  # bytes on one device; None: unknown
    refused: bool  # by the compiler, which then reports no more than the memory it needs
    flops: StepFlops
    peak: float | None  # FLOP/s of one device; None: unknown
    traffic: TrafficByGroup | None  # None: the program has no text
    arrays: tuple[ArrayLayout, ...]

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool:
        return not self.refused and (self.available is None or self.memory.total <= self.available)

    @property
    def seconds(self) -> float | None:
        """Lower bound of the step time: all operations at the peak of the devices."""
        return None if self.peak is None else self.flops.executed / self.devices / self.peak


def plan(recipe: Recipe, devices: Sequence[Any], available: int | None = None) -> Plan:
    """Compile the step of a recipe for devices that have ``available`` bytes each (None: unknown).

    A step that does not fit into memory is a plan with ``fits`` False.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the mesh.
    """
    shapes, mesh, updater = fit_devices(recipe, devices)
    steps = recipe.total_steps(recipe.data.batch_size)  # a number in the program; the length of the data is unknown
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state, batch = abstract_state(recipe, shapes, updater, mesh), abstract_batch(shapes, mesh)
        traced = trace_step(recipe, shapes, updater, steps, state, batch)
        lowered = traced.lower()
    needed, refused, text = _compile(lowered, _bytes((state, batch)))
    return Plan(
        device=devices[0].device_kind,
        mesh=dict(mesh.shape),
        batch_size=recipe.data.batch_size,
        microbatch_size=recipe.microbatch_size,
        memory=Memory(
            _bytes((state.params, state.non_trainable, state.ema)), _bytes(state.optimizer), _bytes(batch), *needed
        ),
        available=available,
        refused=refused,
        flops=(flops := step_flops(recipe, shapes, traced)),
        peak=peak_flops(devices[0].device_kind, flops.type),
        traffic=None if text is None else count_collectives(text),
        arrays=tuple(
            ArrayLayout(path, leaf.shape, str(leaf.sharding.spec), _bytes(leaf))
            for path, leaf in {**state.arrays, **batch}.items()
        ),
    )


def _compile(lowered: jax.stages.Lowered, arguments: int) -> tuple[tuple[int, int], bool, str | None]:
    """Return ((temporaries, total) in bytes on a device, whether the compiler refused the step, the program's text).

    ``arguments`` are the bytes of the inputs; a refusal states only their sum with the temporaries.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (total := refused_total(str(error))) is None:
            raise
        return (total - arguments, total), True, None
    size: Any = compiled.memory_analysis()
    outputs = size.output_size_in_bytes - size.alias_size_in_bytes
    total = size.argument_size_in_bytes + outputs + size.temp_size_in_bytes + size.generated_code_size_in_bytes
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # this version cannot print some TPU programs
        text = None
    return (size.temp_size_in_bytes, total), False, text


REFUSED = re.compile(r"RESOURCE_EXHAUSTED.*HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", re.DOTALL)


def refused_total(message: str) -> int | None:
    """Return the total bytes in the compiler's message that a step exceeds the memory; None for other messages.

    The message calls temporaries what is their sum with the arguments.
    """
    match = REFUSED.search(message)
    return None if match is None else int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def _bytes(tree: Any) -> int:
    """Return the bytes on one device of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def largest_multiple(fits: Callable[[int], bool], start: int, unit: int) -> int:
    """Return the largest multiple of ``unit`` that fits, or 0, by doubling from ``start`` and bisection."""
    low, high, tried = 0, None, max(start // unit, 1)
    while high is None or high - low > 1:
        low, high = (tried, high) if fits(tried * unit) else (low, tried)
        tried = 2 * low if high is None else (low + high) // 2
    return low * unit


def largest_batch(
    recipe: Recipe, devices: Sequence[Any], available: int, on_plan: Callable[[Plan], None] = lambda _: None
) -> Plan:
    """Return the plan of the largest global batch that fits ``available`` bytes per device, else of the smallest.

    ``on_plan`` is called with every plan that is tried.
    """
    mesh = recipe.mesh.build(devices)
    unit = math.lcm(mesh.shape["data"] * mesh.shape["fsdp"], recipe.microbatch_size or 1, recipe.data.order.batch_unit)
    plans: dict[int, Plan] = {}

    def fits(size: int) -> bool:
        plans[size] = plan(recipe.replace({"data.batch_size": size}), devices, available)
        on_plan(plans[size])
        return plans[size].fits

    return plans[largest_multiple(fits, recipe.data.batch_size, unit) or min(plans)]
