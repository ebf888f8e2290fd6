"""The decoder of tokens: mask tokens and positions in place, as MAE's released code does it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders import EncoderInputs, TokenDecoder
from jaxrep.encoders.blocks import Block

B, N, C, D, GRID = 2, 6, 5, 8, (2, 3)
SMALL: dict[str, Any] = dict(width=D, depth=2, heads=2)
RANDOM = np.random.default_rng(0)
KEPT = np.array([[1, 4], [0, 5]], np.int32)
TOKENS = RANDOM.normal(size=(B, 2, C)).astype(np.float32)


def built(**fields: Any) -> Any:
    return TokenDecoder(**{**SMALL, **fields}).build(nnx.Rngs(0), inputs=Field((N, C), "float32"))


def mae_positions(width: int, rows: int, columns: int) -> np.ndarray:
    """``get_2d_sincos_pos_embed`` of facebookresearch/mae (util/pos_embed.py) in float64."""

    def axis(places: np.ndarray) -> np.ndarray:
        omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
        angles = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    columns_first = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)))
    return np.concatenate([axis(places) for places in columns_first], axis=1)


def test_mask_tokens_and_positions_are_put_in_place_as_in_mae():
    """The blocks read what ``forward_decoder`` of facebookresearch/mae makes, by its inverse permutation."""
    module = built()
    got = module(EncoderInputs(TOKENS, keep=KEPT, grid=GRID)).tokens
    projected = TOKENS @ np.asarray(module.project.kernel[...])
    h = np.zeros((B, N, D))
    for row in range(B):
        hidden = np.setdiff1d(np.arange(N), KEPT[row])
        shuffled = np.concatenate([projected[row], np.tile(np.asarray(module.mask_token[...]), (len(hidden), 1))])
        h[row] = shuffled[np.argsort(np.concatenate([KEPT[row], hidden]))]
    expected = through_blocks(module, h + mae_positions(D, *GRID))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)  # float32, in another order


def through_blocks(module: Any, h: np.ndarray) -> jax.Array:
    x = jnp.asarray(h, jnp.float32)
    graph, params = nnx.split(module.blocks)
    for layer in range(2):
        block: Block = nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params))
        x = x + block.attention(block.norm1(x), block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return module.norm(x)


def test_without_a_mask_token_the_tokens_alone_are_read_at_their_places():
    positions = mae_positions(D, *GRID)[KEPT]
    module = built(mask_token=False)
    got = module(EncoderInputs(TOKENS, keep=KEPT, grid=GRID)).tokens
    expected = through_blocks(module, TOKENS @ np.asarray(module.project.kernel[...]) + positions)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)  # float32, in another order
    tokens = RANDOM.normal(size=(B, KEPT.shape[1], D)).astype(np.float32)
    module = TokenDecoder(**SMALL, mask_token=False, project=False).build(nnx.Rngs(0), inputs=Field((N, D), "float32"))
    got = module(EncoderInputs(tokens, keep=KEPT, grid=GRID)).tokens
    np.testing.assert_allclose(got, through_blocks(module, tokens + positions), rtol=1e-4, atol=1e-5)


def test_all_tokens_need_no_mask_token():
    x = RANDOM.normal(size=(B, N, C)).astype(np.float32)
    module = built()
    every = np.tile(np.arange(N, dtype=np.int32), (B, 1))
    got = module(EncoderInputs(x, grid=GRID)).tokens
    np.testing.assert_array_equal(module(EncoderInputs(x, keep=every, grid=GRID)).tokens, got)
    assert built(mask_token=False)(EncoderInputs(x, grid=GRID)).tokens.shape == got.shape
    in_a_row = module(EncoderInputs(x)).tokens
    assert np.abs(in_a_row - got).max() > 1e-3  # positions of one axis are others


def test_scanned_blocks_and_remat_change_nothing():
    inputs = EncoderInputs(TOKENS, keep=KEPT, grid=GRID)
    expected = built()(inputs).tokens
    for fields in (dict(scan=False), dict(remat="none"), dict(remat="full")):
        np.testing.assert_allclose(built(**fields)(inputs).tokens, expected, rtol=1e-5, atol=1e-6)


def test_tokens_that_do_not_fit_are_one_sentence():
    with pytest.raises(ValueError, match=f"tokens are {C} wide and the decoder {D}: give it their width, or project"):
        built(project=False)
    with pytest.raises(ValueError, match=r"^2 tokens do not lie on a grid of 2 x 3"):
        built()(EncoderInputs(TOKENS, grid=GRID))
