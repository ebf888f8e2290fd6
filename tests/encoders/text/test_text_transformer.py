"""The text transformer: padding, causal attention, pooling, and the end of a text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.text.text_transformer import TextTransformer

SPEC = TextTransformer(width=8, depth=2, heads=2)
SAME = dict(atol=2e-6, rtol=2e-5)  # float32, the same sums over another length


def built(length=7, **changes):
    spec = dataclasses.replace(SPEC, **changes)
    return spec.build(nnx.Rngs(0), inputs=Field((length,), "int32", classes=31))


def encode(module, ids, valid=None):
    valid = None if valid is None else jnp.asarray(valid, bool)
    return jax.jit(lambda ids: module(EncoderInputs(ids, valid)))(jnp.asarray(ids, jnp.int32))


@pytest.mark.parametrize("pool", ["eos", "cls", "mean", "attention"])
def test_padding_does_not_change_features(pool):
    for causal in (True, False) if pool == "mean" else (False,):
        module = built(pool=pool, causal=causal)
        short = encode(module, [[5, 6, 7, 29]]).pooled[0]
        ids = [[5, 6, 7, 29, 0, 0, 0], [5, 6, 7, 29, 11, 29, 3]]
        padded = encode(module, ids, valid=np.arange(7) < [[4], [4]]).pooled
        np.testing.assert_allclose(padded, [short, short], **SAME)


def test_causal_attention_reads_earlier_tokens_only():
    one, two = [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 9, 5, 6, 7]]
    causal = built(causal=True)
    before, after = encode(causal, one).tokens, encode(causal, two).tokens
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max(axis=-1).min() > 1e-4
    both = built(causal=False)
    assert np.abs(encode(both, one).tokens - encode(both, two).tokens).max(axis=-1).min() > 1e-6


def test_pooling_reads_the_named_tokens():
    ids, lengths = [[4, 0, 6, 29, 0, 0, 0], [4, 5, 6, 7, 8, 9, 29], [29, 0, 0, 0, 0, 0, 0]], [4, 7, 1]
    for pool in ("eos", "cls", "mean"):
        encoded = encode(built(pool=pool), ids)
        np.testing.assert_array_equal(encoded.valid.sum(1), lengths)  # an id of 0 inside a text is a token
        for row, length in enumerate(lengths):
            real = np.asarray(encoded.tokens[row, :length], np.float64)
            expected = {"eos": real[-1], "cls": real[0], "mean": real.mean(0)}[pool]
            np.testing.assert_allclose(encoded.pooled[row], expected, **SAME)


@pytest.mark.parametrize(
    ("end", "lengths"), [("zeros", [5, 7, 0]), ("highest", [3, 7, 1]), (29, [4, 7, 1]), (9, [1, 2, 1])]
)
def test_end_of_text_follows_the_spec(end, lengths):
    ids = jnp.array([[4, 5, 30, 29, 30, 0, 0], [4, 9, 6, 7, 8, 9, 29], [0, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(built(end=end).embed(ids)[2].sum(1), lengths)


def test_end_never_reads_padding():
    never, module = built(causal=False, end="never"), built(causal=False)
    ids, every = [[4, 5, 29, 1, 1, 1, 1]], np.ones((1, 7))
    for output in (encode(never, ids), encode(never, ids, valid=[[1, 1, 1, 0, 0, 0, 0]])):
        np.testing.assert_allclose(output.pooled, encode(module, ids, valid=every).pooled, **SAME)


@pytest.mark.parametrize("pool", ["eos", "attention"])
def test_empty_text_has_finite_features_and_gradients(pool):
    module = built(pool=pool, causal=False)
    empty = jnp.zeros((2, 7), jnp.int32)
    square = jax.jit(
        jax.value_and_grad(lambda table: (module_with(module, table)(EncoderInputs(empty)).pooled ** 2).sum())
    )
    assert all(np.isfinite(value).all() for value in square(module.embedding[...]))


def module_with(module, table):
    graph, state = nnx.split(module)
    state["embedding"] = nnx.Param(table)
    return nnx.merge(graph, state)


def test_encode_accepts_changed_embeddings():
    """Learned vectors before the words equal a text whose first embeddings are these vectors."""
    module = built()
    ids = jnp.array([[3, 4, 5, 6, 29]])
    h, positions, valid = module.embed(ids)
    mixed = jnp.concatenate([h[:, :2] + 1, h[:, 2:]], axis=1)
    out = module.encode(mixed, positions, EncoderInputs(ids, valid))
    table = module.embedding[...]
    shifted = module_with(module, table.at[jnp.array([3, 4])].add(1))
    np.testing.assert_allclose(out.pooled, shifted(EncoderInputs(ids)).pooled, **SAME)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"shape \(7,\) and classes None"):
        SPEC.build(nnx.Rngs(0), inputs=Field((7,), "int32"))
    with pytest.raises(ValueError, match="built for texts of 7 tokens, got 9"):
        built()(EncoderInputs(jnp.ones((1, 9), jnp.int32)))
    with pytest.raises(ValueError, match="no mask token"):
        built()(EncoderInputs(jnp.ones((1, 7), jnp.int32), masked=jnp.ones((1, 7), bool)))


@pytest.mark.parametrize(("spec", "millions"), [(TextTransformer.clip_b(), 63.2), (TextTransformer.clip_l(), 123.1)])
def test_presets_have_the_size_of_clips_text_towers(spec, millions):
    """37.8 and 85.1 M in blocks, 25.3 and 37.9 M in 49,408 embeddings, as counted in the released weights."""
    module = nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=Field((77,), "int32", classes=49_408)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert round(count / 1e6, 1) == millions
