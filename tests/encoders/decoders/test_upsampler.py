"""Pictures at several scales equal loops in float64, a token predicts its group's bands, and remat changes nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from jaxrep.encoders import BandsStem, PatchStem, Upsampler
from jaxrep.encoders.decoders.upsampler import PictureTokens
from jaxrep.params import split

RANDOM = np.random.default_rng(0)
STEM = BandsStem(groups=((0, 2), (1,)), patch=2)
TOKENS = PictureTokens(width=5, stem=STEM, shape=(4, 6, 3))


def built(inputs: PictureTokens = TOKENS, **fields: Any) -> Any:
    """An upsampler with random parameters."""
    module = Upsampler(ratio=2, **fields).build(nnx.Rngs(0), inputs=inputs)
    structure, arrays = split(module)
    return structure.merge({path: jnp.asarray(RANDOM.normal(size=x.shape) * 0.5, "f") for path, x in arrays.items()})


def numbers(param: Any) -> np.ndarray:
    return np.asarray(param[...], np.float64)


def convolved(x, layer):
    """A convolution of 3 x 3, zeros outside, by loops over the kernel."""
    kernel, padded = numbers(layer.kernel), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    shifts = ((i, j) for i in range(3) for j in range(3))
    return numbers(layer.bias) + sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in shifts)


def doubled(x, layer):
    """torch's ConvTranspose2d(kernel_size=4, stride=2, padding=1): each pixel adds a patch of 4 x 4."""
    batch, height, width, _ = x.shape
    kernel = numbers(layer.kernel)[::-1, ::-1]
    y = np.zeros((batch, 2 * height + 2, 2 * width + 2, kernel.shape[-1]))
    for i in range(4):
        for j in range(4):
            y[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += x @ kernel[i, j]
    return y[:, 1:-1, 1:-1] + numbers(layer.bias)


def normed(x, norm):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * numbers(norm.scale) + numbers(norm.bias)


def released(module, tokens):
    """The forward pass of techmn/satmae_pp (forward_decoder's predictions and forward_multiscale) in float64."""
    picture = np.zeros((len(tokens), 4, 6, 3))
    for group, bands in enumerate(STEM.groups):
        linear = module.patches[group]
        for row in range(2):
            for column in range(3):
                patch = tokens[:, group * 6 + row * 3 + column] @ numbers(linear.kernel) + numbers(linear.bias)
                patch = patch.reshape(-1, 2, 2, len(bands))
                picture[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, list(bands)] = patch
    h = picture @ numbers(module.widen.kernel) + numbers(module.widen.bias)
    h, pictures = normed(0.5 * h * (1 + erf(h / np.sqrt(2))), module.norm), [picture]
    for block in module.blocks:
        h = normed(doubled(h, block.up), block.up_norm)
        h = np.where(h > 0, h, 0.01 * h)
        h = normed(h + 0.5 * convolved(np.maximum(convolved(h, block.first), 0), block.second), block.norm)
        pictures.append(convolved(h, block.picture))
    return pictures


def test_pictures_are_those_of_the_released_code():
    module, tokens = built(), RANDOM.normal(size=(2, 12, 5))
    actual, expected = module(jnp.asarray(tokens, jnp.float32)), released(module, tokens)
    assert [picture.shape for picture in actual] == [(2, 4, 6, 3), (2, 8, 12, 3), (2, 16, 24, 3)]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_token_changes_the_bands_of_its_group_in_its_patch():
    module, tokens = built(), jnp.asarray(RANDOM.normal(size=(1, 12, 5)), jnp.float32)
    change = np.abs(module(tokens.at[0, 6 + 4].add(1))[0] - module(tokens)[0])[0]  # group 1, second row and column
    assert np.argwhere(change.max(axis=-1)).tolist() == [[i, j] for i in (2, 3) for j in (2, 3)]
    assert np.flatnonzero(change.max(axis=(0, 1))).tolist() == [1]


def test_remat_changes_no_number():
    plain, tokens = built(), jnp.asarray(RANDOM.normal(size=(2, 12, 5)), jnp.float32)
    arrays = split(plain)[1]
    structures = [split(built(remat=remat))[0] for remat in (False, True)]

    def loss(arrays, structure):
        return sum(jnp.sum(jnp.sin(picture)) for picture in structure.merge(arrays)(tokens))

    one, other = (jax.grad(loss)(arrays, structure) for structure in structures)
    for path in one:
        assert np.abs(one[path]).max() > 0, path
        np.testing.assert_allclose(one[path], other[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_one_doubling_of_a_patch_stem():
    module = built(PictureTokens(width=5, stem=PatchStem(patch=4), shape=(8, 8, 2)), doublings=1)
    assert [x.shape for x in module(jnp.zeros((3, 4, 5)))] == [(3, 8, 8, 2), (3, 16, 16, 2)]
    assert Upsampler(doublings=2).scales == (1, 2, 4)


def test_tokens_of_other_arrays_are_refused():
    with pytest.raises(ValueError, match="makes pictures, and the encoder's patches have 3 axes"):
        built(PictureTokens(width=5, stem=PatchStem(patch=(2, 2, 2)), shape=(4, 4, 4, 1)))
