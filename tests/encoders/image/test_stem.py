"""Stems of bands, series and volumes: patches against loops, grids of any number of axes, positions of each axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders import BandsStem, ConvStem, EncoderInputs, PatchStem, PixelNorm, ViT
from jaxrep.encoders.positions import resize_grid, sincos_positions
from jaxrep.pretrained.resize import resize_positions
from jaxrep.spec import problems

SMALL: dict[str, Any] = dict(width=12, depth=1, heads=2, pool="mean")
GROUPS = ((0, 3), (4, 1), (2,))
RANDOM = np.random.default_rng(0)


def raw(channels: int) -> PixelNorm:
    """Pixels as they are."""
    return PixelNorm(mean=(0.0,) * channels, std=(1.0,) * channels)


def test_bands_are_mapped_by_group_and_place():
    x = RANDOM.normal(size=(2, 4, 6, 5)).astype(np.float32)
    stem = BandsStem(groups=GROUPS, patch=2)
    module: Any = stem.build(nnx.Rngs(0), inputs=(4, 6, 5), width=7)
    tokens = np.asarray(module(jnp.asarray(x)))
    assert stem.grid((4, 6, 5)) == (3, 2, 3) and tokens.shape == (2, 18, 7)
    for group, bands in enumerate(GROUPS):
        project = module.patches[group].project
        kernel, bias = (np.asarray(part[...], np.float64) for part in (project.kernel, project.bias))
        for row in range(2):
            for column in range(3):
                patch = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2][..., list(bands)]
                expected = patch.reshape(2, -1).astype(np.float64) @ kernel + bias
                np.testing.assert_allclose(tokens[:, group * 6 + row * 3 + column], expected, atol=1e-5)


def test_one_group_of_all_bands_is_a_patch_stem():
    x = jnp.asarray(RANDOM.normal(size=(2, 4, 4, 3)), jnp.float32)
    bands: Any = BandsStem(groups=((0, 1, 2),), patch=2).build(nnx.Rngs(3), inputs=(4, 4, 3), width=5)
    patches: Any = PatchStem(patch=2).build(nnx.Rngs(3), inputs=(4, 4, 3), width=5)
    np.testing.assert_array_equal(bands(x), patches(x))


@pytest.mark.parametrize(("patch", "shape", "grid"), [((3,), (12, 2), (4,)), ((2, 3, 4), (4, 6, 8, 1), (2, 2, 2))])
@pytest.mark.parametrize("positions", ["learned", "sincos", "relative"])
def test_vision_transformers_read_series_and_volumes(patch, shape, grid, positions):
    spec = ViT(**SMALL, stem=PatchStem(patch=patch), positions=positions, pixels=raw(shape[-1]))
    module = spec.build(nnx.Rngs(0), inputs=Field(shape, "float32"))
    x = RANDOM.normal(size=(3, *shape)).astype(np.float32)
    output = module(EncoderInputs(jnp.asarray(x)))
    assert spec.rank == x.ndim and output.grid == grid and output.map.shape == (3, *grid, 12)
    # the token of the last place reads the last patch alone
    h, at, _ = module.embed(jnp.asarray(x))
    last = x[(slice(None), *(slice(-side, None) for side in patch))].reshape(3, -1).astype(np.float64)
    stem: Any = module.stem
    project = stem.project
    np.testing.assert_allclose(h[:, -1], last @ project.kernel[...] + project.bias[...], rtol=1e-4, atol=1e-5)
    if positions == "sincos":
        np.testing.assert_array_equal(at, sincos_positions(grid, 12))
    # all tokens by their index are all tokens
    everything = jnp.broadcast_to(jnp.arange(h.shape[1]), h.shape[:2])
    kept = module(EncoderInputs(jnp.asarray(x), keep=everything))
    np.testing.assert_allclose(kept.pooled, output.pooled, rtol=1e-5, atol=1e-6)


def released_positions(grid: tuple[int, int, int], width: int, group_width: int) -> np.ndarray:
    """The positions of techmn/satmae_pp, models_mae_group_channels.py: of the place beside those of the group."""

    def one_axis(width: int, place: np.ndarray) -> np.ndarray:
        angle = place.reshape(-1)[:, None] * (1.0 / 10000 ** (np.arange(width // 2) / (width / 2.0)))
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    groups, rows, columns = grid
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))  # the width goes first
    half = (width - group_width) // 2
    place = np.concatenate([one_axis(half, column), one_axis(half, row)], axis=1)
    group = one_axis(group_width, np.arange(groups))
    return np.concatenate([np.concatenate([place, np.tile(group[g], (len(place), 1))], axis=1) for g in range(groups)])


@pytest.mark.parametrize(("width", "group_width"), [(1024, 256), (512, 128), (24, 8)])
def test_sines_of_place_lie_beside_those_of_the_group(width, group_width):
    place = (width - group_width) // 2
    actual = sincos_positions((3, 2, 4), width, endpoint=False, widths=(group_width, place, place))
    np.testing.assert_allclose(actual, released_positions((3, 2, 4), width, group_width), atol=1e-6)
    np.testing.assert_array_equal(
        sincos_positions((3, 2, 4), width), sincos_positions((3, 2, 4), width, widths=(width // 3,) * 3)
    )


def test_positions_of_bands_are_resized_along_rows_and_columns():
    positions = RANDOM.normal(size=(3 * 4 * 2, 5)).astype(np.float32)
    actual = resize_grid(jnp.asarray(positions), (3, 4, 2), (3, 6, 5))
    expected = [resize_positions(group, (4, 2), (6, 5), antialias=True) for group in positions.reshape(3, 8, 5)]
    np.testing.assert_allclose(actual, np.concatenate(expected), atol=1e-5)
    np.testing.assert_allclose(resize_positions(positions, (3, 4, 2), (3, 6, 5), antialias=True), actual, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (BandsStem(groups=((0, 1), (1, 2))), "groups name the bands [1] more than once: put each into one group"),
        (BandsStem(groups=((0, 1), (3,))), "groups leave out the band 2: put each band from 0 into one group"),
        (BandsStem(groups=((2, 10**12), (1,))), "groups leave out the band 0: put each band from 0 into one group"),
        (BandsStem(groups=((0,), ())), "groups are of one band at least, got ((0,), ())"),
        (BandsStem(groups=()), "groups are of one band at least, got ()"),
        (PatchStem(patch=()), "patch needs a side for one axis at least"),
        (ViT(**SMALL, sine_widths=(4, 4)), 'sine_widths are those of positions = "sincos", and positions = "learned"'),
        (
            ViT(**SMALL, positions="sincos", sine_widths=(8, 8)),
            "sine_widths = (8, 8) are 16 channels together, and the tokens have 12",
        ),
        (
            ViT(**SMALL, positions="sincos", sine_widths=(3, 4)),
            "sine_widths = (3, 4) has an odd width, and each wave is a sine and a cosine",
        ),
    ],
)
def test_wrong_specs_are_problems(spec, sentence):
    assert problems(spec) == [sentence]


@pytest.mark.parametrize(
    ("spec", "shape", "sentence"),
    [
        (ViT(**SMALL, stem=BandsStem(groups=GROUPS, patch=2)), (4, 4, 6), "have 5 bands, and its input has 6 channels"),
        (
            ViT(**SMALL, stem=BandsStem(groups=GROUPS, patch=3)),
            (4, 4, 5),
            "an image of 4 x 4 pixels does not split into patches of 3 x 3",
        ),
        (
            ViT(**SMALL, stem=PatchStem(patch=(2, 2, 3))),
            (4, 4, 4, 1),
            "an array of 4 x 4 x 4 does not split into patches of 2 x 2 x 3",
        ),
        (
            ViT(**SMALL, stem=PatchStem(patch=(2, 2, 2))),
            (4, 4, 3),
            r"patches of 2 x 2 x 2 reads arrays with 3 axes before their channels, and its input has \(4, 4, 3\)",
        ),
        (ViT(**SMALL, stem=ConvStem()), (4, 4), r"reads images of shape \(H, W, C\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(spec, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda: nnx.state(spec.build(nnx.Rngs(0), inputs=Field(shape, "float32"))))


def test_bands_of_another_number_than_the_normalization_are_refused():
    spec = ViT(**SMALL, stem=BandsStem(groups=GROUPS, patch=2))
    module = spec.build(nnx.Rngs(0), inputs=Field((4, 4, 5), "float32"))
    with pytest.raises(ValueError, match="have 5 channels and the pixel normalization 3: give it a mean and a std"):
        module(EncoderInputs(jnp.zeros((1, 4, 4, 5))))


def test_sines_of_another_number_of_axes_are_refused():
    spec = ViT(**SMALL, stem=PatchStem(patch=2), positions="sincos", sine_widths=(4, 4, 4))
    module = spec.build(nnx.Rngs(0), inputs=Field((4, 4, 3), "float32"))
    with pytest.raises(ValueError, match="sine_widths has 3 widths, and tokens lie along 2 axes: give one for each"):
        module(EncoderInputs(jnp.zeros((1, 4, 4, 3))))
