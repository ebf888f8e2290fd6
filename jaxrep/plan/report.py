"""Reports of a plan: as text, as JSON, and as one sentence if the step does not fit."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrep.plan.collectives import TrafficByGroup, by_kind
from jaxrep.plan.plan import Plan
from jaxrep.plan.search import Found
from jaxrep.recipe import Recipe
from jaxrep.spec import walk


def as_json(plan: Plan, problem: str | None) -> dict[str, Any]:
    """Return the plan as a JSON object."""
    return {
        "device": plan.device,
        "devices": plan.devices,
        "mesh": dict(plan.mesh),
        "batch_size": plan.batch_size,
        "microbatch_size": plan.microbatch_size,
        "fits": plan.fits,
        "problem": problem,
        "memory_per_device_bytes": dataclasses.asdict(plan.memory),
        "available_per_device_bytes": plan.available,
        "host_bytes_per_device": plan.host,
        "code_bytes_per_device": plan.code,
        "flops_per_step": plan.flops.executed,
        "flops_per_example": plan.flops.executed / plan.batch_size,
        "model_flops_per_example": plan.flops.model / plan.batch_size,
        "peak_flops_per_device": plan.peak,
        "seconds_per_step_at_peak": plan.seconds,
        "collectives": None if plan.traffic is None else _collectives(plan.traffic),
        "arrays": [dataclasses.asdict(array) for array in plan.arrays],
    }


def _collectives(traffic: TrafficByGroup) -> dict[str, Any]:
    """Return count and bytes per kind, with the bytes by group size as ``over``."""
    return {
        kind: {**dataclasses.asdict(part), "over": {n: each.bytes for (k, n), each in traffic.items() if k == kind}}
        for kind, part in by_kind(traffic).items()
    }


def summary(plan: Plan) -> list[str]:
    """Return the plan as lines of text."""
    axes = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
    rows = plan.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
    microbatches = f" in microbatches of {plan.microbatch_size:,}" if plan.microbatch_size else ""
    lines = [
        f"{plan.devices} x {plan.device} ({axes})",
        f"batch {plan.batch_size:,}{microbatches}, {rows:,} examples per device",
        "",
        "memory per device",
        *(f"  {name:<18} {format_bytes(size):>12}" for name, size in dataclasses.asdict(plan.memory).items()),
    ]
    lines[-1] += "" if plan.available is None else f" of {format_bytes(plan.available)}: {_fits(plan)}"
    more = {"on the host": plan.host, "code, besides": plan.code}
    lines += [f"  {name:<18} {format_bytes(size):>12}" for name, size in more.items() if size and size >= 2**20]
    executed, model = plan.flops.executed, plan.flops.model / plan.batch_size
    lines += ["", f"FLOPs: {executed:.3g} per step, {executed / plan.batch_size:.3g} per example (model: {model:.3g})"]
    if plan.seconds is not None and plan.peak is not None:
        lines.append(f"time: at least {plan.seconds:.3g} s per step, at a peak of {plan.peak:.3g} FLOP/s per device")
    return [*lines, "", *_traffic_table(plan)]


def _traffic_table(plan: Plan) -> list[str]:
    if plan.traffic is None:
        return ["collectives: unknown, the compiler gave no text of the program"]
    if not plan.traffic:
        return ["collectives: none"]
    rows = (
        f"  {kind:<18} {devices or plan.devices:>8,} {format_bytes(part.bytes):>12} {part.count:>8,}"
        for (kind, devices), part in plan.traffic.items()
    )
    return [f"{'collectives per step':<20} {'devices':>8} {'bytes':>12} {'times':>8}", *rows]


def one_line(plan: Plan, remat: str = "") -> str:
    """Return a line for one of several plans."""
    microbatches = f" by {plan.microbatch_size:,}" if plan.microbatch_size else ""
    remat = remat and f", remat {remat}"
    return f"batch {plan.batch_size:,}{microbatches}{remat}: {format_bytes(plan.memory.total)}, {_fits(plan)}"


def front_table(found: Sequence[Found]) -> list[str]:
    """Return a line per setting that a search found."""
    heads = ("batch", "microbatch", "remat", "memory", "FLOPs / model's")
    rows = [
        (
            f"{each.setting.batch:,}",
            f"{each.setting.microbatch:,}" if each.setting.microbatch else "-",
            each.setting.remat or "as given",
            format_bytes(each.plan.memory.total),
            f"{each.flops:.3f}",
        )
        for each in found
    ]
    return [f"{a:>12} {b:>12} {c:>10} {d:>12} {e:>16}" for a, b, c, d, e in (heads, *rows)]


def front_json(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return the settings that a search found, as JSON objects."""
    return [
        {
            **dataclasses.asdict(each.setting),
            "memory_per_device_bytes": each.plan.memory.total,
            "flops_per_step": each.plan.flops.executed,
            "flops_over_model": each.flops,
        }
        for each in found
    ]


def array_table(plan: Plan) -> list[str]:
    """Return a line per array: its shape, sharding and bytes."""
    rows = [(array.path, str(list(array.shape)), array.layout, f"{array.bytes:,}") for array in plan.arrays]
    rows.insert(0, ("array", "shape", "layout", "bytes per device"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["", *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)]


def _fits(plan: Plan) -> str:
    return "it fits" if plan.fits else "it does not fit"


def format_bytes(count: float) -> str:
    """Return a number of bytes in a fitting unit, as ``3.81 GiB``."""
    unit = min(int(math.log2(max(count, 1)) // 10), 3)
    return f"{count / 1024**unit:.{2 if unit else 0}f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def memory_problem(recipe: Recipe, plan: Plan) -> str | None:
    """Return None for a plan that fits, else a sentence with the sizes and with flags that help."""
    if plan.fits:
        return None
    needed, available = format_bytes(plan.memory.total), format_bytes(plan.available or 0)
    return (
        f"a step with a batch of {plan.batch_size:,} does not fit: it needs {needed} of memory per device, of which "
        f"{format_bytes(plan.memory.temporaries)} are temporaries, and a {plan.device} has {available}; "
        f"try {', '.join(_remedies(recipe, plan))}"
    )


def _remedies(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Yield flags that reduce memory, those for the larger part first."""
    rows = plan.mesh["data"] * plan.mesh["fsdp"]
    current = plan.microbatch_size or plan.batch_size
    smaller = max((size for size in range(rows, current // 2 + 1, rows) if plan.batch_size % size == 0), default=0)
    if plan.mesh["data"] > 1 and plan.memory.params + plan.memory.optimizer > plan.memory.temporaries:
        yield f"--mesh.fsdp {rows}"
    for path, part in walk(recipe):
        if (remat := getattr(part, "remat", "full")) not in ("full", "offload", True):
            yield f"--{path.replace('_', '-')}.remat {True if isinstance(remat, bool) else 'full'}"
    if smaller:
        yield f"--microbatch-size {smaller}"
    yield "more devices"
