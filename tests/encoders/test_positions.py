"""Positions against NumPy in float64: rotations, relative biases, fixed sines; and what follows from kept tokens."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.encoders.layers import rotate
from jaxrep.encoders.positions import (
    AxialRotary,
    SequenceRotary,
    of_kept,
    places,
    relative_bias,
    relative_index,
    relative_rows,
    sincos_positions,
)
from jaxrep.spec import problems

RANDOM = np.random.default_rng(0)
FLOAT32 = dict(rtol=2e-6, atol=2e-6)


def complex_turn(x, angles):
    """Turn x [N,H,d] as complex numbers x_i + j x_(i + d/2), float64; angles [N,d/2]."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def sequence_angles(rotary, grid, width):
    return np.array(
        [[n / rotary.scale * rotary.base ** (-2 * i / width) for i in range(width // 2)] for n in range(grid[0])]
    )


def axial_angles(rotary, grid, width):
    rows = []
    for place in itertools.product(*map(range, grid)):
        row, count = [], width // (2 * len(grid))
        for at, side in zip(place, grid, strict=True):
            at = (
                ((at + 0.5) / side * 2 - 1) * 2 * math.pi
                if rotary.normalized
                else at * (rotary.reference or side) / side
            )
            row += [at / rotary.base ** (i / count) for i in range(count)]
        rows.append(row)
    return np.array(rows)


CASES = {
    "sequence": (SequenceRotary(), (9,), 8, sequence_angles),
    "sequence, scaled": (SequenceRotary(base=160_000.0, scale=4.0), (300,), 6, sequence_angles),
    "two axes": (AxialRotary(), (3, 5), 16, axial_angles),
    "two axes, by index": (AxialRotary(base=10_000.0, normalized=False), (4, 2), 8, axial_angles),
    "two axes, scaled": (AxialRotary(base=10_000.0, normalized=False, reference=16), (4, 2), 8, axial_angles),
    "three axes": (AxialRotary(), (2, 3, 2), 12, axial_angles),
}


@pytest.mark.parametrize("name", CASES)
def test_rotation_equals_complex_numbers_in_float64(name):
    rotary, grid, width, angles_of = CASES[name]
    angles, n = angles_of(rotary, grid, width), math.prod(grid)
    x, weight = RANDOM.normal(size=(2, 2, n, 3, width))
    rotation = rotary.rotation(grid, width)
    turned = rotate(jnp.asarray(x, jnp.float32), rotation)
    np.testing.assert_allclose(turned, [complex_turn(row, angles) for row in x], **FLOAT32)
    gradient = jax.grad(lambda x: jnp.sum(rotate(x, rotation) * weight.astype(np.float32)))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(gradient, [complex_turn(row, -angles) for row in weight], **FLOAT32)


def test_logits_of_a_sequence_depend_on_the_difference_of_places():
    query, key = RANDOM.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    rotation = SequenceRotary().rotation((12,), 8)
    query, key = (rotate(jnp.broadcast_to(x, (1, 12, 1, 8)), rotation)[0, :, 0] for x in (query, key))
    logits = np.asarray(query @ key.T)
    for offset in range(-11, 12):
        np.testing.assert_allclose(np.diagonal(logits, offset), np.diagonal(logits, offset)[0], rtol=1e-4, atol=1e-5)


def test_kept_tokens_turn_by_their_own_places_and_the_prefix_does_not_turn():
    whole = AxialRotary().rotation((3, 4), 8)
    kept = jnp.array([[0, 5, 11], [1, 2, 3]])
    cos, sin = of_kept(whole, kept, prefix=2)
    np.testing.assert_array_equal(cos[:, :2], 1)
    np.testing.assert_array_equal(sin[:, :2], 0)
    for row, indices in enumerate(kept):
        np.testing.assert_array_equal(cos[row, 2:], whole[0][0, indices])
        np.testing.assert_array_equal(sin[row, 2:], whole[1][0, indices])


def test_drawn_coordinates_stay_in_their_limits_and_follow_the_keys_of_rows():
    rotary = AxialRotary(base=1.0, shift=0.1, jitter=1.2, rescale=1.5)
    keys = jax.random.split(jax.random.key(0), 64)
    cos, sin = rotary.rotation((2, 2), 4, keys)  # base 1 and one pair an axis: the angle is 2 pi times the coordinate
    part = rotary.rotation((2, 2), 4, keys[8:11])
    np.testing.assert_allclose(part[0], cos[8:11], **FLOAT32)
    centers = 2 * np.pi * np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    moved = np.angle(np.exp(1j * (np.arctan2(sin, cos) - centers)))
    assert np.abs(moved).max() <= 2 * np.pi * (0.6 * 1.2 * 1.5 - 0.5)
    assert np.std(moved, axis=0).min() > 0.1  # every coordinate moves
    none = AxialRotary(shift=0.0, jitter=1.0, rescale=1.0)
    assert not none.draws and rotary.draws


def test_positions_that_do_not_fit_the_tokens_are_refused():
    assert problems(AxialRotary(reference=16)) == [
        "reference scales numbers of rows and columns: it needs normalized = False"
    ]
    with pytest.raises(ValueError, match=r"turns tokens on a grid, and these lie in a row of 7: take SequenceRotary"):
        AxialRotary().rotation((7,), 8)
    with pytest.raises(ValueError, match=r"in a row, and these lie on a grid \(2, 3\): take AxialRotary"):
        SequenceRotary().rotation((2, 3), 8)
    with pytest.raises(ValueError, match="AxialRotary on 2 axes needs heads whose width is a multiple of 4, got 6"):
        AxialRotary().rotation((2, 3), 6)


@pytest.mark.parametrize(("grid", "prefix"), [((2, 3), 1), ((3, 2), 0), ((2, 2), 3), ((2, 3, 2), 1), ((4,), 1)])
def test_relative_index_tells_offsets_apart(grid, prefix):
    index, place, rows = relative_index(grid, prefix), places(grid), relative_rows(grid)
    assert rows == math.prod(2 * side - 1 for side in grid) + 3
    offsets = {}
    for i, j in itertools.product(range(len(place)), repeat=2):
        row = index[prefix + i, prefix + j]
        assert offsets.setdefault(tuple(place[i] - place[j]), row) == row
    assert sorted(offsets.values()) == list(range(rows - 3))
    assert (index[:prefix, prefix:] == rows - 3).all() and (index[prefix:, :prefix] == rows - 2).all()
    assert (index[:prefix, :prefix] == rows - 1).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (4, 4), (3, 1)])
def test_relative_index_is_the_table_of_beit(rows, columns):
    """``relative_position_index`` of BEiT, for one class token (microsoft/SimMIM, models/vision_transformer.py)."""
    distances = (2 * rows - 1) * (2 * columns - 1) + 3
    coordinates = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")).reshape(2, -1)
    relative = (coordinates[:, :, None] - coordinates[:, None, :]).transpose(1, 2, 0)
    relative = relative + np.array([rows - 1, columns - 1])
    expected = np.zeros((rows * columns + 1,) * 2, int)
    expected[1:, 1:] = relative[..., 0] * (2 * columns - 1) + relative[..., 1]
    expected[0, :], expected[:, 0], expected[0, 0] = distances - 3, distances - 2, distances - 1
    np.testing.assert_array_equal(relative_index((rows, columns), 1), expected)


def test_relative_biases_of_kept_tokens_are_those_of_their_pairs():
    index = relative_index((2, 3), 1)
    table = jnp.asarray(RANDOM.normal(size=(relative_rows((2, 3)), 2)), jnp.float32)
    whole = relative_bias(table, index, None)
    expected = np.asarray(table, np.float64)[index].transpose(2, 0, 1)
    np.testing.assert_array_equal(whole[0], expected)
    kept = jnp.array([[0, 2, 4], [0, 1, 6]])
    some = relative_bias(table, index, kept)
    for row, indices in enumerate(kept):
        np.testing.assert_array_equal(some[row], expected[:, indices][:, :, indices])


@pytest.mark.parametrize(("grid", "width"), [((5,), 8), ((2, 3), 8), ((2, 3, 4), 14)])
def test_fixed_positions_share_the_width_between_the_axes(grid, width):
    positions, count = sincos_positions(grid, width), width // (2 * len(grid))
    for row, place in zip(positions, places(grid), strict=True):
        waves = []
        for at in reversed(place):
            angles = [at * 10_000 ** -(i / (count - 1) if count > 1 else 0) for i in range(count)]
            waves += [*np.sin(angles), *np.cos(angles)]
        np.testing.assert_allclose(row, waves + [0] * (width - len(waves)), rtol=1e-6, atol=1e-7)
