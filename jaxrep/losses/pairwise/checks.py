"""What losses on pairs of rows share: checks before anything is compiled, absent rows, and weights."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise.reduce import pairwise_reduce, row_devices
from jaxrep.losses.pairwise.scan import Reduction, Rows

Present = tuple[Bool[Array, " B"] | None, Bool[Array, " B"] | None]
Extra = Float[Array, "E D"] | Rows | None
"""More rows of one side: all exist and are like no other, or a ``Rows`` says which are not or are, by ids like those of
the pairs."""


def side(
    x: Float[Array, "B D"], ids: tuple[Int[Array, " B"], ...] = (), present: Bool[Array, " B"] | None = None
) -> Rows:
    """Rows for ``pairwise``. Absent ones become zeros, so that nothing in them, a NaN neither, reaches a derivative."""
    x = x if present is None else jnp.where(present[:, None], x, 0.0)
    return Rows(jnp.asarray(x, jnp.float32), ids, present)


def extra(x: Extra) -> Rows | None:
    """Rows [E,D] that one side meets besides the other; None where there are none."""
    if x is None or not len(x.x if isinstance(x, Rows) else x):
        return None
    return side(*x) if isinstance(x, Rows) else side(x)


def over_extra(reduction: Reduction, query: Rows, extra: Rows, *args: Any, **options: Any) -> Float[Array, " B"]:
    """A reduction along the rows of ``query`` of the logits against extra rows, without those that are alike."""
    among = "unlike" if extra.ids else "all"
    return pairwise_reduce(reduction, query, extra, *args, among=among, columns=False, **options)[0]


def scaled(side: Any, scale: Float[Array, ""] | float) -> Any:
    """Rows times the inverse temperature: outside of ``pairwise``, so that its derivative is everybody's usual one."""
    return None if side is None else side._replace(x=side.x * scale)


def weights_of(
    count: int, weights: Float[Array, " B"] | None, *present: Bool[Array, " B"] | None
) -> Float[Array, " B"]:
    """Weights of rows in float32 (1 without any): 0 where one of ``present`` is false."""
    weights = jnp.ones(count) if weights is None else weights.astype(jnp.float32)
    for here in present:
        weights = weights if here is None else jnp.where(here, weights, 0.0)
    return weights


def weighted_sum(losses: Float[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """A loss of weight 0 may be anything, NaN too: it is left out, with the derivative by that weight."""
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * losses))


def weighted_mean(losses: Float[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """The weighted sum by the sum of the weights; 0 if there are none."""
    return over_sum(weighted_sum(losses, weights), weights)


def over_sum(total: Float[Array, ""], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """``total`` by the sum of the weights; 0, with derivatives 0, if there are none."""
    divisor = jnp.sum(weights)
    return jnp.where(divisor > 0, total / jnp.where(divisor > 0, divisor, 1.0), 0.0)


def check_pairs(
    a: Any, b: Any, *, ids: Any, weights: Any, present: Any, extras: tuple[Any, Any], block_size: int | None
) -> None:
    """Raises ValueError, one sentence on the first thing that does not fit: a and b are [B,D], ids, weights and present
    are of B rows, extra rows [E,D] are as wide, and the block size and the mesh fit B."""
    check_matrix("a", a)
    check_matrix("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a is {a.shape} and b is {b.shape}: both sides of B pairs are [B,D], of one width")
    for name, extra in zip(("extra_a", "extra_b"), extras, strict=True):
        if extra is not None:
            check_extra(name, extra, a, ids)
    if not isinstance(ids, tuple):
        raise ValueError(f"ids is a {type(ids).__name__}, expected a tuple of integer arrays [{len(a)}]")
    for i, array in enumerate(ids):
        check_column(f"ids[{i}]", array, len(a), jnp.integer)
    if not isinstance(present, tuple) or len(present) != 2:
        raise ValueError(f"present is a pair of bool arrays (or None), for the rows of a and of b; got {present}")
    for i, array in enumerate(present):
        if array is not None:
            check_column(f"present[{i}]", array, len(a), jnp.bool_)
    if weights is not None:
        check_column("weights", weights, len(a), jnp.floating)
    check_blocks(len(a), block_size)


def check_extra(name: str, extra: Any, a: Any, ids: Any) -> None:
    """Extra rows are [E,D], as wide as a, with as many arrays of ids as the pairs have, or none. Raises ValueError."""
    x, own, present = extra if isinstance(extra, Rows) else Rows(extra)
    check_matrix(name, x)
    check_width(name, x, a)
    if own and len(own) != len(ids):
        raise ValueError(
            f"{name} has {len(own)} arrays of ids and the pairs have {len(ids)}: they are compared in order"
        )
    for i, array in enumerate(own):
        check_column(f"{name}.ids[{i}]", array, len(x), jnp.integer)
    if present is not None:
        check_column(f"{name}.present", present, len(x), jnp.bool_)


def check_blocks(count: int, block_size: int | None) -> None:
    """There are rows, the block size is positive, and the mesh divides the rows. Raises ValueError."""
    if not count:
        raise ValueError("there are no rows: a loss needs a batch of one or more")
    if block_size is not None and (not isinstance(block_size, numbers.Integral) or block_size < 1):
        raise ValueError(f"block_size is {block_size}, expected a positive number of rows, or None to choose it")
    if count % row_devices():
        raise ValueError(
            f"a batch of {count} rows does not divide over the {row_devices()} devices of the mesh axes data and fsdp: "
            "choose a batch size that is a multiple of them"
        )


def check_matrix(name: str, x: Any) -> None:
    """Floating-point rows [B,D]. Raises ValueError."""
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, expected floating-point rows [B,D]")


def check_width(name: str, x: Any, a: Any) -> None:
    """Rows as wide as those of a. Raises ValueError."""
    if x.shape[1] != a.shape[1]:
        raise ValueError(f"{name} is {x.shape[1]} wide and the rows it meets are {a.shape[1]} wide, expected one width")


def check_column(name: str, x: Any, count: int, kind: Any) -> None:
    """One value a row, of one kind of dtype. Raises ValueError."""
    if x.shape != (count,) or not jnp.issubdtype(x.dtype, kind):
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, expected {_KINDS[kind]} [{count}], one a row")


def check_number(name: str, value: Any) -> None:
    """One number, not one a row or column. Raises ValueError."""
    if jnp.ndim(value):
        raise ValueError(f"{name} is an array of shape {list(jnp.shape(value))}, expected one number")


def check_share(name: str, value: float) -> None:
    """From 0 to below 1. Raises ValueError."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}, expected a share from 0 to below 1")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """One of the choices. Raises ValueError."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)}")


def check_positives(positives: str, ids: tuple, choices: Sequence[str]) -> None:
    """Ids and the choice of what they mean come together. Raises ValueError."""
    check_choice("positives", positives, choices)
    if (positives == "pair") != (not ids):
        raise ValueError(
            f"positives='{positives}' with {len(ids)} arrays of ids: 'pair' reads none, "
            f"{' and '.join(repr(c) for c in choices[1:])} need at least one"
        )


_KINDS = {jnp.integer: "integers", jnp.floating: "floats", jnp.bool_: "booleans"}
