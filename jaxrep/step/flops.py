"""Count the floating-point operations of matrix products and convolutions in a jaxpr, scans included."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Count the multiplications and additions of matrix products and convolutions in ``function(*args)``.

    The compiler counts the body of a scan once; this counts each iteration. A ``while`` loop counts once, and a
    ``cond`` counts its most expensive branch. A kernel counts what it states (Pallas's ``cost_estimate``), else its
    body times the programs of its grid; a causal one counts the logits that it leaves out too, as XLA computes them.
    """
    return count_jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def count_jaxpr_flops(jaxpr: Any) -> float:
    """Count the floating-point operations of a jaxpr."""
    return sum(flops_by_type(jaxpr).values())


def flops_by_type(jaxpr: Any) -> Counter[str]:
    """Count the floating-point operations of a jaxpr by the type of their operands."""
    counts: Counter[str] = Counter()
    for eqn in jaxpr.eqns:
        counts.update(_equation(eqn))
    return counts


CUDNN_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
"""Matrix products of queries and keys in cuDNN's attention: the backward pass makes the logits again."""


def _equation(eqn: Any) -> Counter[Any]:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in contract)
        return _products(eqn, 2.0 * inner)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return _products(eqn, 2.0 * math.prod(kernel) / out_channels)
    if name == "pallas_call" and (stated := eqn.params["cost_estimate"]) is not None:
        return Counter({str(eqn.outvars[0].aval.dtype): float(stated.flops)})
    if name in CUDNN_PRODUCTS:  # queries are [B,N,H,d], keys [B,M,K,d]
        query, key = (eqn.invars[i].aval for i in (0, 1))
        return Counter({str(query.dtype): 2.0 * CUDNN_PRODUCTS[name] * math.prod(query.shape) * key.shape[1]})
    inner = [flops_by_type(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(eqn.params)]
    if name == "cond":
        return max(inner, key=Counter.total, default=Counter())
    times = 1
    if name == "scan":
        times = eqn.params["length"]
    elif name == "shard_map":  # its body is the share of one device
        times = math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])
    elif name == "pallas_call":  # its body is one program of the grid
        times = math.prod(size for size in eqn.params["grid_mapping"].grid if isinstance(size, int))
    return Counter({kind: times * sum(counts[kind] for counts in inner) for counts in inner for kind in counts})


def _products(eqn: Any, per_output: float) -> Counter[Any]:
    return Counter({str(eqn.invars[0].aval.dtype): per_output * math.prod(eqn.outvars[0].aval.shape)})


def _subjaxprs(params: dict[str, Any]) -> list[Any]:
    """Return the jaxprs among the parameters of an equation."""
    values = [leaf for value in params.values() for leaf in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")]


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Hold the floating-point operations of a step over all devices."""

    model: float
    """Three times the forward pass of the method: a forward and a backward pass without recomputation."""
    executed: float
    """All matrix products and convolutions of the step, with those that are computed again."""
    type: str
    """Type of the operands of most operations."""

    def utilization(self, seconds: float, devices: int, kind: str | None = None) -> dict[str, float]:
        """Return ``mfu`` and ``hfu`` of a step that took ``seconds``; empty for a kind of device without a known peak.

        They are ``model`` and ``executed``, per second, over the peak of the devices.
        """
        if not (peak := peak_flops(kind, self.type)):
            return {}
        return {"mfu": self.model / seconds / devices / peak, "hfu": self.executed / seconds / devices / peak}

    def __add__(self, other: "StepFlops") -> "StepFlops":
        return StepFlops(self.model + other.model, self.executed + other.executed, other.type)


PEAK_FLOPS: dict[str, tuple[float, float]] = {
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),  # read: cloud.google.com/tpu/docs/v5e
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),  # v5p
    "TPU v6 lite": (918e12, 918e12),  # read: docs.cloud.google.com/tpu/docs/v6e
    "TPU v6e": (918e12, 918e12),
    "TPU7x": (1153.5e12, 1153.5e12),  # half a chip: each of its two cores is a device
    "NVIDIA A100": (312e12, 156e12),
    "NVIDIA H100": (989e12, 494e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA H200": (989e12, 494e12),
    "NVIDIA B200": (2250e12, 1125e12),  # others' pages: 2250; in TF32 1100 (HGX) to 1130
    "NVIDIA L4": (121e12, 60e12),
    "NVIDIA L40S": (362e12, 183e12),
    "Tesla T4": (65e12, 8.1e12),  # 16-bit: float16
    "NVIDIA GeForce RTX 3090": (71e12, 35.6e12),  # sums in float32; in float16 they are twice as fast
    "NVIDIA GeForce RTX 4090": (165e12, 82.6e12),
}
"""Makers' figures for dense products, operations per second per device: of 16-bit types, and of float32 as XLA
multiplies it by default (TPU: in bfloat16; NVIDIA: in TF32, where there is one).

Only those marked ``read`` were read on a page of the maker. Pages of others agree on A100, H100, L4, L40S, T4, RTX
4090, v5p and B200 in 16 bits; v4, v7 and RTX 3090 were found on none."""


def peak_flops(kind: str | None = None, dtype: str = "bfloat16") -> float | None:
    """Return the peak operations per second of a kind of device, by default this one's; None if unknown."""
    kind = jax.devices()[0].device_kind if kind is None else kind
    known = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(known, key=len)][dtype == "float32"] if known else None
