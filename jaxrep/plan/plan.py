"""The memory, FLOPs and collectives of a training step, compiled from shapes for devices that need not exist."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxrep.plan.collectives import TrafficByGroup, count_collectives
from jaxrep.plan.program import Program, compile_step
from jaxrep.recipe import Recipe
from jaxrep.step.flops import StepFlops, peak_flops
from jaxrep.step.shapes import fit_devices
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import abstract_batch, step_flops, trace_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Hold the bytes on one device. ``total`` is what the compiler lays out, and the sum of the parts."""

    params: int  # trained and frozen, running statistics, averages
    optimizer: int
    batch: int
    temporaries: int  # with outputs, and the padding of all arrays
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
    refused: bool  # by the compiler
    flops: StepFlops
    peak: float | None  # FLOP/s of one device; None: unknown
    traffic: TrafficByGroup | None  # None: the compiler gave no text of the program
    arrays: tuple[ArrayLayout, ...]
    host: int = 0  # bytes of temporaries in the memory of the host
    code: int | None = None  # bytes of the code, besides ``memory``; None: it was not generated

    def with_program(self, program: Program) -> "Plan":
        """Return the plan with what the compiled program says."""
        arguments = self.memory.total - self.memory.temporaries
        memory = dataclasses.replace(self.memory, temporaries=program.total - arguments, total=program.total)
        traffic = None if program.text is None else count_collectives(program.text)
        kind: Any = dict(refused=program.refused, host=program.host, code=program.code)
        return dataclasses.replace(self, memory=memory, traffic=traffic, **kind)

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
    """Compile the step of a recipe to its end for devices that have ``available`` bytes each (None: unknown).

    A step that does not fit into memory is a plan with ``fits`` False.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the mesh.
    """
    draft, lowered = draft_plan(recipe, devices, available)
    return draft.with_program(compile_step(lowered, devices[0].platform))


def draft_plan(recipe: Recipe, devices: Sequence[Any], available: int | None) -> tuple[Plan, jax.stages.Lowered]:
    """Return the plan of a step before it is compiled, without temporaries, and the program to compile.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the mesh.
    """
    shapes, mesh, updater = fit_devices(recipe, devices)
    steps = recipe.total_steps(recipe.data.batch_size)  # a number in the program; the length of the data is unknown
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state, batch = abstract_state(recipe, shapes, updater, mesh), abstract_batch(shapes, mesh)
        traced = trace_step(recipe, shapes, updater, steps, state, batch)
        lowered = traced.lower()
    model = (state.params, state.non_trainable, state.ema)
    flops = step_flops(recipe, shapes, traced)
    draft = Plan(
        device=devices[0].device_kind,
        mesh=dict(mesh.shape),
        batch_size=recipe.data.batch_size,
        microbatch_size=recipe.microbatch_size,
        memory=Memory(_bytes(model), _bytes(state.optimizer), _bytes(batch), 0, _bytes((state, batch))),
        available=available,
        refused=False,
        flops=flops,
        peak=peak_flops(devices[0].device_kind, flops.type),
        traffic=None,
        arrays=tuple(
            ArrayLayout(path, leaf.shape, str(leaf.sharding.spec), _bytes(leaf))
            for path, leaf in {**state.arrays, **batch}.items()
        ),
    )
    return draft, lowered


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


def largest_batch(recipe: Recipe, devices: int, planned: Callable[[Recipe], Plan]) -> Plan:
    """Return the plan of the largest global batch that fits on a number of devices, else of the smallest.

    ``planned`` makes a plan of a recipe.
    """
    data, fsdp, _ = recipe.mesh.shape(devices)
    unit = math.lcm(data * fsdp, recipe.microbatch_size or 1, recipe.data.order.batch_unit)
    plans: dict[int, Plan] = {}

    def fits(size: int) -> bool:
        plans[size] = planned(recipe.replace({"data.batch_size": size}))
        return plans[size].fits

    return plans[largest_multiple(fits, recipe.data.batch_size, unit) or min(plans)]
