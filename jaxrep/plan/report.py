"""A plan in words: as text, as JSON, and as the sentence on what does not fit."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jaxrep.plan.collectives import Grouped, by_kind
from jaxrep.plan.plan import Plan
from jaxrep.recipe import Recipe
from jaxrep.spec import walk


def as_json(found: Plan, wrong: str | None) -> dict[str, Any]:
    """The plan as one object."""
    return {
        "device": found.device,
        "devices": found.devices,
        "mesh": dict(found.mesh),
        "batch_size": found.batch_size,
        "microbatch_size": found.microbatch_size,
        "fits": found.fits,
        "problem": wrong,
        "memory_per_device_bytes": dataclasses.asdict(found.memory),
        "available_per_device_bytes": found.available,
        "flops_per_step": found.flops,
        "flops_per_example": found.flops / found.batch_size,
        "peak_flops_per_device": found.peak,
        "seconds_per_step_at_peak": found.seconds,
        "collectives": None if found.traffic is None else _by_kind(found.traffic),
        "arrays": [dataclasses.asdict(array) for array in found.arrays],
    }


def _by_kind(traffic: Grouped) -> dict[str, Any]:
    """Of each kind how many run, their bytes, and those by the number of devices that take part in one."""
    over = {kind: {n: part.bytes for (k, n), part in traffic.items() if k == kind} for kind, _ in traffic}
    return {kind: {**dataclasses.asdict(part), "over": over[kind]} for kind, part in by_kind(traffic).items()}


def summary(found: Plan) -> list[str]:
    """The plan as lines of text."""
    axes = ", ".join(f"{name} {size}" for name, size in found.mesh.items())
    rows = found.batch_size // (found.mesh["data"] * found.mesh["fsdp"])
    by = f" by microbatches of {found.microbatch_size:,}" if found.microbatch_size else ""
    limit = "" if found.available is None else f" of {in_words(found.available)}: {_fits(found)}"
    lines = [
        f"{found.devices} x {found.device} ({axes})",
        f"batch {found.batch_size:,}{by}, {rows:,} examples a device",
        "",
        "memory a device",
        *(f"  {name:<18} {in_words(size):>12}" for name, size in dataclasses.asdict(found.memory).items()),
    ]
    lines[-1] += limit
    lines += ["", f"FLOPs: {found.flops:.3g} a step, {found.flops / found.batch_size:.3g} an example"]
    if found.seconds is not None and found.peak is not None:
        lines.append(f"time: {found.seconds:.3g} s a step at the peak of {found.peak:.3g} FLOP/s a device, never less")
    return [*lines, "", *_traffic(found)]


def _traffic(found: Plan) -> list[str]:
    if found.traffic is None:
        return ["collectives: the compiler gave no text of the program in which to count them"]
    if not found.traffic:
        return ["collectives: none"]
    rows = (
        f"  {kind:<18} {devices or found.devices:>8,} {in_words(part.bytes):>12} {part.count:>8,}"
        for (kind, devices), part in found.traffic.items()
    )
    return [f"{'collectives a step':<20} {'devices':>8} {'bytes':>12} {'times':>8}", *rows]


def short(found: Plan) -> str:
    """A line for one of several plans."""
    return f"batch {found.batch_size:,}: {in_words(found.memory.total)}, {_fits(found)}"


def layout(found: Plan) -> list[str]:
    """How each array lies, a line each."""
    rows = [(array.path, str(list(array.shape)), array.layout, f"{array.bytes:,}") for array in found.arrays]
    rows.insert(0, ("array", "shape", "layout", "bytes a device"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["", *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)]


def _fits(found: Plan) -> str:
    return "it fits" if found.fits else "it does not fit"


def in_words(count: float) -> str:
    """Bytes in the unit that suits: ``3.81 GiB``."""
    unit = min(int(math.log2(max(count, 1)) // 10), 3)
    return f"{count / 1024**unit:.{2 if unit else 0}f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def verdict(recipe: Recipe, plan: Plan) -> str | None:
    """None for a plan that fits, else a sentence: what is needed, what there is, and what would help."""
    if plan.fits:
        return None
    needed, temporaries, has = (
        in_words(size) for size in (plan.memory.total, plan.memory.temporaries, plan.available or 0)
    )
    return (
        f"a step with a batch of {plan.batch_size:,} does not fit: it needs {needed} of memory a device, of which "
        f"{temporaries} are temporaries, and a {plan.device} has {has}; "
        f"what helps: {', '.join(_ways_out(recipe, plan))}"
    )


def _ways_out(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Flags by which a step takes less memory, those for the larger part first."""
    rows = plan.mesh["data"] * plan.mesh["fsdp"]
    now = plan.microbatch_size or plan.batch_size
    smaller = max((size for size in range(rows, now // 2 + 1, rows) if plan.batch_size % size == 0), default=0)
    if plan.mesh["data"] > 1 and plan.memory.params + plan.memory.optimizer > plan.memory.temporaries:
        yield f"--mesh.fsdp {rows}"
    for path, part in walk(recipe):
        if getattr(part, "remat", "full") != "full":
            yield f"--{path.replace('_', '-')}.remat full"
    if smaller:
        yield f"--microbatch-size {smaller}"
    yield "more devices"
