"""Count the floating-point operations of matrix products and convolutions in a jaxpr, scans included."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Count the multiplications and additions of matrix products and convolutions in ``function(*args)``.

    The compiler counts the body of a scan once; this counts each iteration. A ``while`` loop counts once, and a
    ``cond`` counts its most expensive branch.
    """
    return count_jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def count_jaxpr_flops(jaxpr: Any) -> float:
    """Count the floating-point operations of a jaxpr."""
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in contract)
        return 2.0 * inner * math.prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(kernel) / out_channels * math.prod(eqn.outvars[0].aval.shape)
    inner = [count_jaxpr_flops(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(eqn.params)]
    if not inner:
        return 0.0
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "shard_map":  # its body is the share of one device
        return math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"]) * sum(inner)
    return max(inner) if name == "cond" else sum(inner)


def _subjaxprs(params: dict[str, Any]) -> list[Any]:
    """Return the jaxprs among the parameters of an equation."""
    values = [leaf for value in params.values() for leaf in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")]


PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Makers' figures for dense bfloat16 matrix products, operations a second a device."""


def peak_flops(kind: str | None = None) -> float | None:
    """Return the peak operations per second of a kind of device, by default this one's; None if unknown."""
    kind = jax.devices()[0].device_kind if kind is None else kind
    known = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(known, key=len)] if known else None
