"""Check the arguments of losses before anything is compiled: each error is one sentence on the first misfit."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxrep.losses.pairwise.pairs import PairOptions
from jaxrep.losses.pairwise.reduce import num_row_devices
from jaxrep.losses.pairwise.scan import Rows


def check_pairs(a: Any, b: Any, options: PairOptions) -> None:
    """Check that a and b are [B,D], and that the options, the block size and the mesh fit B. Raises ValueError."""
    check_matrix("a", a)
    check_matrix("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a is {a.shape} and b is {b.shape}: both sides of B pairs are [B,D], of one width")
    if not isinstance(options.ids, tuple):
        raise ValueError(f"ids is a {type(options.ids).__name__}, expected a tuple of integer arrays [{len(a)}]")
    for i, array in enumerate(options.ids):
        check_column(f"ids[{i}]", array, len(a), jnp.integer)
    for name, extra in (("extra_a", options.extra_a), ("extra_b", options.extra_b)):
        if extra is not None:
            _check_extra(name, extra if isinstance(extra, Rows) else Rows(extra), a, options.ids)
    for name, extra in (("row_extra_a", options.row_extra_a), ("row_extra_b", options.row_extra_b)):
        if extra is not None:
            _check_row_extra(name, extra if isinstance(extra, Rows) else Rows(extra), a)
    if not isinstance(options.present, tuple) or len(options.present) != 2:
        raise ValueError(f"present is a pair of bool arrays (or None), for the rows of a and b; got {options.present}")
    for i, array in enumerate(options.present):
        check_column(f"present[{i}]", array, len(a), jnp.bool_)
    check_column("weights", options.weights, len(a), jnp.floating)
    check_blocks(len(a), options.block_size)


def check_duplicates(options: PairOptions, *choices: str) -> None:
    """Check that the loss has this treatment of duplicates, and that ids and treatment fit. Raises ValueError."""
    check_choice("duplicates", options.duplicates, ("negative", *choices))
    if (options.duplicates == "negative") != (not options.ids):
        raise ValueError(
            f"duplicates='{options.duplicates}' with {len(options.ids)} arrays of ids: 'negative' reads none, "
            f"{' and '.join(map(repr, choices))} need at least one"
        )


def _check_extra(name: str, extra: Rows, a: Any, ids: tuple) -> None:
    check_matrix(name, extra.x)
    check_width(name, extra.x, a)
    if extra.ids and len(extra.ids) != len(ids):
        raise ValueError(
            f"{name} has {len(extra.ids)} arrays of ids and the pairs have {len(ids)}: they are compared in order"
        )
    for i, array in enumerate(extra.ids):
        check_column(f"{name}.ids[{i}]", array, len(extra.x), jnp.integer)
    check_column(f"{name}.present", extra.present, len(extra.x), jnp.bool_)


def _check_row_extra(name: str, extra: Rows, a: Any) -> None:
    x, present = extra.x, extra.present
    if x.ndim != 3 or len(x) != len(a) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, expected floating-point rows [{len(a)},M,D], M per row")
    check_width(name, x, a)
    if extra.ids:
        raise ValueError(f"{name} has ids: each of its rows is a negative of one row alone, so ids have no use")
    if present is not None and (present.shape != x.shape[:2] or present.dtype != jnp.bool_):
        expected = f"expected booleans {list(x.shape[:2])}, one per row"
        raise ValueError(f"{name}.present is {present.dtype}{list(present.shape)}, {expected}")


def check_blocks(count: int, block_size: int | None) -> None:
    """Check that there are rows, a positive block size, and a mesh that divides the rows. Raises ValueError."""
    if not count:
        raise ValueError("there are no rows: a loss needs a batch of one or more")
    if block_size is not None and (not isinstance(block_size, numbers.Integral) or block_size < 1):
        raise ValueError(f"block_size is {block_size}, expected a positive number of rows, or None to choose it")
    if count % num_row_devices():
        raise ValueError(
            f"a batch of {count} rows does not divide over the {num_row_devices()} devices of the mesh axes data and "
            "fsdp: choose a batch size that is a multiple of them"
        )


def check_matrix(name: str, x: Any) -> None:
    """Check for floating-point rows [B,D]. Raises ValueError."""
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, expected floating-point rows [B,D]")


def check_width(name: str, x: Any, a: Any) -> None:
    """Check for rows as wide as those of a. Raises ValueError."""
    if x.shape[-1] != a.shape[1]:
        raise ValueError(
            f"{name} is {x.shape[-1]} wide and the rows it meets are {a.shape[1]} wide, expected one width"
        )


def check_column(name: str, x: Any, count: int, kind: Any) -> None:
    """Check for one value per row, of one kind of dtype, or None. Raises ValueError."""
    if x is not None and (x.shape != (count,) or not jnp.issubdtype(x.dtype, kind)):
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, expected {_KINDS[kind]} [{count}], one per row")


def check_number(name: str, value: Any) -> None:
    """Check for one number, not one per row or column. Raises ValueError."""
    if jnp.ndim(value):
        raise ValueError(f"{name} is an array of shape {list(jnp.shape(value))}, expected one number")


def check_share(name: str, value: float) -> None:
    """Check for a number from 0 to below 1. Raises ValueError."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}, expected a share from 0 to below 1")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check for one of the choices. Raises ValueError."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)}")


_KINDS = {jnp.integer: "integers", jnp.floating: "floats", jnp.bool_: "booleans"}
