"""Compare alignment and uniformity with NumPy in float64, in value and gradient, on meshes."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.losses.geometry import alignment, uniformity
from jaxrep.mesh import ROWS, Mesh
from tests.helpers import loss_oracle as oracle

B, D = 8, 3
IDS = (np.array([0, 1, 2, 0, 4, 5, 6, 7], np.int32), np.array([0, 1, 1, 3, 4, 4, 6, 7], np.int32))
HERE, THERE = np.arange(B) % 4 != 2, np.arange(B) != 5
CASES = {
    "plain": {},
    "ids": {"ids": IDS},
    "present": {"present": (HERE, THERE)},
    "everything": {"ids": IDS, "present": (HERE, THERE)},
}


def aligned(a, b, present=(None, None)):
    both = np.ones(B, bool) if present[0] is None else present[0] & present[1]
    return ((a - b) ** 2).sum(1)[both].mean()


def spread(a, b=None, ids=(), present=(None, None)):
    """Every ordered pair, each potential written out."""
    b, present = (a, (present[0], present[0])) if b is None else (b, present)
    here, there = (np.ones(B, bool) if x is None else x for x in present)
    pairs = [(i, j) for i in range(B) for j in range(B) if i != j and here[i] and there[j]]
    pairs = [(i, j) for i, j in pairs if not oracle.duplicate(ids, i, j)]
    # The rows are of unit length, and not held there: the form with cosines is the one that is derived.
    return np.log(np.mean([np.exp(-2 * (2 - 2 * a[i] @ b[j])) for i, j in pairs]))


def on_mesh(function, devices, *values):
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, jax.NamedSharding(mesh, ROWS)) for x in values]
        return jax.jit(jax.value_and_grad(function, argnums=range(len(values))))(*placed)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_uniformity_across_two_spaces_equals_definition(case, devices):
    values = oracle.rows(0, B, D), oracle.rows(1, B, D)
    want = oracle.value_and_derivatives(functools.partial(spread, **CASES[case]), *values)
    got = on_mesh(functools.partial(uniformity, **CASES[case], block_size=3), devices, *values)
    oracle.assert_close(got, want, 4.0)  # logits are 4 cosines


@pytest.mark.parametrize("case", CASES)
def test_uniformity_in_one_space_equals_definition(case):
    values = (oracle.rows(0, B, D),)
    want = oracle.value_and_derivatives(functools.partial(spread, **CASES[case]), *values)
    oracle.assert_close(on_mesh(functools.partial(uniformity, **CASES[case]), 1, *values), want, 4.0)


@pytest.mark.parametrize("present", [(None, None), (HERE, THERE)])
def test_alignment_is_mean_squared_distance_of_present_pairs(present):
    values = oracle.rows(0, B, D), oracle.rows(1, B, D)
    want = oracle.value_and_derivatives(functools.partial(aligned, present=present), *values)
    oracle.assert_close(on_mesh(functools.partial(alignment, present=present), 1, *values), want, 4.0)


def test_loss_and_gradient_without_pairs_are_zero():
    x: Any = oracle.rows(0, B, D)
    same: Any = np.zeros(B, np.int32)
    value, (slope,) = on_mesh(functools.partial(uniformity, ids=(same,)), 1, x)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
