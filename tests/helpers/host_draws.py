"""Initializers with NumPy's random numbers in place of JAX's, which are most of the time to compile a start."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import truncnorm


@contextlib.contextmanager
def draws_on_host() -> Iterator[None]:
    """Draw by NumPy in what is traced within."""
    with pytest.MonkeyPatch.context() as patch:
        for draw in (normal, truncated_normal, uniform):
            patch.setattr(jax.random, draw.__name__, draw)
            patch.setattr(jax._src.random, draw.__name__, draw)  # what initializers call
        yield


def normal(key, shape=(), dtype=float, **_):
    return on_host(key, shape, dtype, lambda random: random.standard_normal(shape))


def truncated_normal(key, lower, upper, shape=(), dtype=float, **_):
    return on_host(key, shape, dtype, lambda random: truncnorm.rvs(lower, upper, size=shape, random_state=random))


def uniform(key, shape=(), dtype=float, minval=0.0, maxval=1.0, **_):
    return on_host(key, shape, dtype, lambda random: random.uniform(minval, maxval, shape))


def on_host(key: Any, shape: tuple[int, ...], dtype: Any, draw: Callable[[np.random.Generator], Any]) -> Any:
    """Draw on the host from a key, or from each of the keys of a ``vmap``, while a compiled function runs."""

    def call(data: Any) -> np.ndarray:
        keys = np.asarray(data).reshape(-1, data.shape[-1])
        drawn = np.array([draw(np.random.default_rng(key)) for key in keys], dtype)
        return drawn.reshape(*data.shape[:-1], *shape)

    result = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))
    return jax.pure_callback(call, result, jax.random.key_data(key), vmap_method="expand_dims")
