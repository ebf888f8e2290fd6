"""BERT's encoder: padding, segments, pooling and distance biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.text.bert import Bert, distance_buckets
from jaxrep.params import split

SPEC = dict(width=8, depth=2, heads=2)
IDS = jnp.array([[5, 6, 7, 0, 0, 0], [5, 9, 3, 4, 8, 2]], jnp.int32)
SAME = dict(atol=2e-6, rtol=2e-5)  # float32, the same sums over another length


def built(**changes):
    return Bert(**SPEC, **changes).build(nnx.Rngs(0), inputs=Field((6,), "int32", classes=20))


@pytest.mark.parametrize("pool", ["cls", "mean", "tanh"])
def test_padding_does_not_change_features(pool):
    module = built(pool=pool)
    encode = jax.jit(lambda ids: module(EncoderInputs(ids)).pooled)
    np.testing.assert_allclose(encode(IDS)[0], encode(IDS[:1, :3])[0], **SAME)


def test_padding_id_follows_the_spec():
    """An id of 0 is then an ordinary token, such as RoBERTa's start of a text."""
    module = built(pad=1)
    ids = jnp.array([[0, 6, 7, 0, 1, 1], [1, 1, 9, 1, 1, 1]], jnp.int32)
    np.testing.assert_array_equal(module.embed(ids)[2], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])


def test_pooling_reads_the_named_tokens():
    for pool in ("cls", "mean", "tanh"):
        module = built(pool=pool)
        out = jax.jit(module.__call__)(EncoderInputs(IDS))
        first = np.asarray(out.tokens[:, 0], np.float64)
        if pool == "mean":
            want = np.stack([out.tokens[0, :3].mean(0), out.tokens[1].mean(0)])
        elif pool == "tanh":
            want = np.tanh(first @ np.asarray(module.pool.dense.kernel[...]) + module.pool.dense.bias[...])
        else:
            want = first
        np.testing.assert_allclose(out.pooled, want, **SAME)


def test_segments_default_to_zero_and_change_features():
    module = built()
    encode = jax.jit(lambda segments: module.encode(*module.embed(IDS, segments)[:2], EncoderInputs(IDS)).tokens)
    with_zeros, with_ones = encode(jnp.zeros_like(IDS)), encode(jnp.ones_like(IDS))
    plain = module.encode(*module.embed(IDS)[:2], EncoderInputs(IDS)).tokens
    np.testing.assert_allclose(plain, with_zeros, **SAME)
    assert np.abs(with_ones - with_zeros).max() > 1e-3
    assert built(segments=0).segments is None


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"shape \(6, 6, 3\)"):
        Bert(**SPEC).build(nnx.Rngs(0), inputs=Field((6, 6, 3), "uint8"))
    with pytest.raises(ValueError, match="built for texts of 6 tokens, got 9"):
        built()(EncoderInputs(jnp.ones((1, 9), jnp.int32)))


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [(Bert.base(pool="tanh"), 109_482_240), (Bert.large(pool="tanh"), 335_141_888)],
    ids=["base", "large"],
)
def test_presets_have_the_size_of_the_released_models(spec, parameters):
    """bert-base-uncased and bert-large-uncased: 30,522 words, 512 positions, with the pooler, without the heads."""
    module = nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=Field((512,), "int32", classes=30_522)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module))) == parameters


def test_distance_buckets_are_the_published_ones():
    """Of 32 buckets 8 are for a distance of their own on each side; the edges of the others are 8 * 16 ** (k / 8)."""
    offset = np.array([0, -1, -7, -8, -11, -12, -15, -16, -22, -23, -63, -64, -90, -91, -128, -999, 1, 7, 8, 64, 999])
    want = [0, 1, 7, 8, 8, 9, 9, 10, 10, 11, 13, 14, 14, 15, 15, 15, 17, 23, 24, 30, 31]
    assert distance_buckets(offset, 32).tolist() == want
    (sentence,) = Bert(**SPEC, distances=6).problems()
    assert sentence.startswith("distances is 6: ")


def test_distance_biases_control_attention():
    structure, arrays = split(built(distances=8))
    encode = jax.jit(lambda biases, ids: structure.merge({**arrays, "distances": biases})(EncoderInputs(ids)).tokens)
    ids, other = IDS[1:], IDS[1:].at[:, 1].set(11)
    alone = jnp.full((8, 2), -1e9).at[0].set(0.0)  # all but a token itself are out of reach
    moved = [np.abs(encode(biases, ids) - encode(biases, other)).max((0, 2)) for biases in (alone, alone * 0)]
    np.testing.assert_array_equal(moved[0] > 0, np.arange(6) == 1)
    assert (moved[1] > 1e-4).all()


def test_distance_biases_have_equal_gradients_scanned_and_unrolled():
    def gradient(**changes):
        structure, arrays = split(built(distances=8, **changes))

        def value(biases):
            return jnp.square(
                structure.merge({**arrays, "distances": biases})(EncoderInputs(IDS)).tokens[:, 0, 0]
            ).sum()

        return jax.jit(jax.grad(value))(arrays["distances"])

    unrolled = gradient(scan=False, remat="none")
    np.testing.assert_allclose(gradient(), unrolled, rtol=1e-4, atol=1e-5 * np.abs(unrolled).max())  # float32
    assert np.abs(unrolled).max() > 1e-3
