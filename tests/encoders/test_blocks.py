"""Parts of the block, each against its equations in NumPy's float64, against another way to say it, or by its laws."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from jaxrep.batch import Field, StepContext
from jaxrep.encoders import (
    AxialRotary,
    Bert,
    EncoderInputs,
    LocalAttention,
    MarkTable,
    PatchStem,
    SequenceRotary,
    TextTransformer,
    ViT,
)
from jaxrep.encoders.blocks import BlockInputs
from jaxrep.encoders.layers import drop_branch
from jaxrep.mesh import ROWS, Mesh
from jaxrep.params import split
from jaxrep.spec import problems
from tests.helpers.harness import QUICK

RANDOM = np.random.default_rng(0)
SIZE = dict(width=16, depth=3, heads=4, mlp_ratio=1.5)
IMAGES = RANDOM.random((3, 8, 12, 3)).astype(np.float32)
IDS = RANDOM.integers(1, 20, (3, 6)).astype(np.int32)
CLOSE = dict(atol=2e-5, rtol=2e-5)  # float32 sums in another order, over three blocks


@functools.cache
def built(spec):
    """Return the structure of an encoder, and arrays that hide nothing behind a zero or a one."""
    x = IMAGES if isinstance(spec, ViT) else IDS
    field = Field(x.shape[1:], str(x.dtype), 20 if x.dtype == np.int32 else None)
    structure, shapes = split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=field)))
    rng = np.random.default_rng(1)
    return structure, {
        path: (rng.normal(size=leaf.shape) * 0.3 + ("scale" in path)).astype(np.float32)
        for path, leaf in shapes.items()
    }


def run(spec, arrays=None, **inputs):
    structure, own = built(spec)
    x = inputs.pop("x", IMAGES if isinstance(spec, ViT) else IDS)
    arrays = own if arrays is None else arrays
    encode = jax.jit(lambda arrays, inputs: structure.merge(arrays)(inputs), compiler_options=QUICK)
    return encode(arrays, EncoderInputs(x, **inputs))


def context(rows=range(3)):
    positions = np.array([[0, row] for row in rows], np.uint32)
    return StepContext(step=np.int32(0), base_key=jax.random.key(3), positions=positions)


# The block's equations ------------------------------------------------------------------------------------------------


def modern_block(w, x, spec, angles, mask, layer):
    """One block with a norm by the root mean square, normed and turned queries and keys of groups, and a gated MLP."""

    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + spec.norm_epsilon) * w[f"{name}/scale"]

    def turned(x):
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    y = norm("norm1", x) if spec.first_norm or layer else x
    out = np.zeros_like(x)
    for head in range(spec.heads):
        group = head // (spec.heads // spec.kv_heads)
        query = turned(norm("attention/query_norm", y @ w["attention/query/kernel"][:, head]))
        key = turned(norm("attention/key_norm", y @ w["attention/key/kernel"][:, group]))
        weight = np.where(mask, np.exp(query @ key.T / math.sqrt(query.shape[1])), 0)
        value = y @ w["attention/value/kernel"][:, group]
        out += weight / weight.sum(1, keepdims=True) @ value @ w["attention/out/kernel"][head]
    x = x + out
    y = norm("norm2", x)
    gate = y @ w["mlp/gate/kernel"]
    return x + (y @ w["mlp/up/kernel"] * gate / (1 + np.exp(-gate))) @ w["mlp/down/kernel"]


MODERN = TextTransformer(
    **SIZE,
    **dict(norm_type="rms", qk_norm=True, kv_heads=2, gated=True, activation="silu", first_norm=False),
    **dict(qkv_bias=False, out_bias=False, mlp_bias=False, positions="none", causal=False, end="never"),
    rotary=SequenceRotary(base=100.0),
    local=LocalAttention(window=2, global_every=2, rotary=SequenceRotary()),
    remat="none",
)


def test_stack_of_modern_blocks_equals_its_equations():
    arrays = built(MODERN)[1]
    found = run(MODERN, intermediate_tokens=(0, 1, 2))
    place = np.arange(6)
    near = np.abs(place[:, None] - place) <= 2
    stack = {path.removeprefix("blocks/"): x.astype(np.float64) for path, x in arrays.items() if "blocks/" in path}
    h = arrays["embedding"].astype(np.float64)[IDS]
    for layer in range(3):
        is_global = layer % 2 == 0
        base = 100.0 if is_global else 10_000.0
        angles = place[:, None] * base ** -(np.arange(2) / 2)
        weights = {path: x[layer] for path, x in stack.items()}
        mask = np.ones((6, 6), bool) if is_global else near
        h = np.stack([modern_block(weights, row, MODERN, angles, mask, layer) for row in h])
        normed = h / np.sqrt((h**2).mean(-1, keepdims=True) + MODERN.norm_epsilon) * arrays["norm/scale"]
        np.testing.assert_allclose(found.intermediate_tokens[layer], normed, **CLOSE)
    np.testing.assert_array_equal(found.intermediate_tokens[2], found.tokens)


def test_unrolled_blocks_give_the_tokens_and_pooled_features_of_scanned_ones():
    asked = dict(intermediates=(0, 2), intermediate_tokens=(2, 1))
    scanned, unrolled = run(MODERN, **asked), run(dataclasses.replace(MODERN, scan=False), **asked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), scanned, unrolled)


def test_tokens_of_a_block_that_does_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"intermediates \[3\] are not blocks of this encoder, which are 0 to 2"):
        run(MODERN, intermediate_tokens=(3,))


def test_a_window_as_wide_as_the_text_changes_nothing():
    wide = dataclasses.replace(MODERN, local=LocalAttention(window=5, global_every=2))
    np.testing.assert_allclose(run(wide).pooled, run(dataclasses.replace(MODERN, local=None)).pooled, **CLOSE)


# Kept tokens ----------------------------------------------------------------------------------------------------------

PICTURES = ViT(**SIZE, stem=PatchStem(patch=4), registers=2, remat="none", norm_type="rms")
KEEP = jnp.array([[0, 2, 5], [1, 2, 3], [0, 4, 5]])


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(positions="relative"),
        dict(positions="none", rotary=AxialRotary(), local=LocalAttention(window=1, global_every=2)),
    ],
    ids=["learned", "relative", "rotary, local"],
)
def test_keeping_tokens_equals_hiding_the_others_from_attention(changes):
    spec = dataclasses.replace(PICTURES, **changes)
    valid = (jnp.arange(6) == KEEP[..., None]).any(1)
    kept, hidden = run(spec, keep=KEEP), run(spec, valid=valid)
    np.testing.assert_allclose(kept.pooled, hidden.pooled, **CLOSE)
    np.testing.assert_allclose(kept.tokens, jnp.take_along_axis(hidden.tokens, KEEP[..., None], axis=1), **CLOSE)
    np.testing.assert_array_equal(kept.kept, KEEP)
    assert kept.grid == hidden.grid == (2, 3)


def test_images_of_another_size_turn_by_their_own_grid():
    spec = dataclasses.replace(PICTURES, positions="none", rotary=AxialRotary(), any_size=True)
    small = IMAGES[:, :4]
    assert run(spec, x=small).grid == (1, 3)
    structure, arrays = built(spec)
    alone = structure.merge(arrays)
    alone.grid = (1, 3)
    alone.shape = (4, 12, 3)
    np.testing.assert_allclose(run(spec, x=small).pooled, alone(EncoderInputs(small)).pooled, **CLOSE)


# Cross-attention ------------------------------------------------------------------------------------------------------

CROSSED = dataclasses.replace(MODERN, memory=5, local=None, kv_heads=0)
MEMORY = RANDOM.normal(size=(3, 4, 5)).astype(np.float32)


def test_without_a_memory_the_stack_is_the_one_without_cross_attention():
    plain = dataclasses.replace(CROSSED, memory=0)
    arrays = {path: x for path, x in built(CROSSED)[1].items() if "cross_" not in path}
    assert arrays.keys() == built(plain)[1].keys()
    np.testing.assert_array_equal(run(CROSSED).pooled, run(plain, arrays).pooled)
    assert np.abs(run(CROSSED, memory=MEMORY).pooled - run(CROSSED).pooled).max() > 1e-2


def test_tokens_of_the_memory_that_are_not_real_change_nothing():
    valid = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    changed = np.where(valid[..., None], MEMORY, 7)
    a, b = (run(CROSSED, memory=memory, memory_valid=valid).pooled for memory in (MEMORY, changed))
    np.testing.assert_array_equal(a, b)


def test_one_stack_is_causal_where_a_call_asks_for_it():
    later = IDS.copy()
    later[:, 4:] += 1
    a, b = (run(CROSSED, x=x, causal=True, memory=MEMORY).tokens for x in (IDS, later % 20))
    np.testing.assert_allclose(a[:, :4], b[:, :4], **CLOSE)
    assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-2


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (MODERN, "the encoder has no cross-attention, and the memory's width is 5: set memory in its spec"),
        (dataclasses.replace(CROSSED, memory=6), "reads a memory of width 6, and the memory's width is 5"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(spec, memory=MEMORY)


# Stochastic depth -----------------------------------------------------------------------------------------------------


def test_stochastic_depth_keeps_the_mean():
    x, keys = np.float32(RANDOM.normal(size=(3,))), jax.random.split(jax.random.key(0), 20_000)
    y = np.asarray(drop_branch(jnp.broadcast_to(x, (20_000, 3)), jnp.float32(0.4), keys))
    assert set(np.unique(np.round(y / x, 5))) == {0, np.float32(np.round(1 / 0.6, 5))}
    # the mean of 20,000 draws of 0 or 1 / 0.6 is off by 0.006 (one standard error)
    np.testing.assert_allclose(y.mean(0) / x, 1, atol=0.025)


def test_stochastic_depth_rises_from_zero_at_the_first_block():
    spec = dataclasses.replace(PICTURES, stochastic_depth=0.6)
    structure, arrays = built(spec)
    stack = nnx.split(structure.merge(arrays).blocks)
    keys = jax.random.split(jax.random.key(1), 4000)
    h = jnp.ones((4000, 1, 16)) * jnp.arange(16)

    def kept(layer):
        block = nnx.merge(stack[0], jax.tree.map(lambda leaf: leaf[layer], stack[1]))
        block.mlp = lambda x: x * 0  # the branch of attention alone
        out = jax.jit(lambda h, keys: block(h, BlockInputs(depth_keys=keys), layer))(h, keys)
        return np.mean(np.abs(out - h).max((1, 2)) > 0)

    for layer, share in enumerate((1, 0.7, 0.4)):
        assert abs(kept(layer) - share) < 0.03, layer  # 4,000 draws: 0.008, one standard error


def test_draws_of_a_row_do_not_depend_on_the_batch_or_on_scanning():
    spec = dataclasses.replace(PICTURES, stochastic_depth=0.6, positions="none", rotary=AxialRotary(shift=0.3))
    whole = run(spec, ctx=context()).pooled
    part = run(spec, x=IMAGES[1:], ctx=context(range(1, 3))).pooled
    np.testing.assert_allclose(part, whole[1:], **CLOSE)
    np.testing.assert_allclose(run(dataclasses.replace(spec, scan=False), ctx=context()).pooled, whole, **CLOSE)
    assert np.abs(run(spec, x=IMAGES, ctx=context(range(5, 8))).pooled - whole).max() > 1e-2


def test_draws_are_equal_on_a_mesh_and_when_a_step_is_done_again():
    spec = dataclasses.replace(PICTURES, stochastic_depth=0.6, positions="none", rotary=AxialRotary(shift=0.3))
    alone = run(spec, x=IMAGES[:2], ctx=context(range(2)))
    np.testing.assert_array_equal(run(spec, x=IMAGES[:2], ctx=context(range(2))).pooled, alone.pooled)
    mesh = Mesh(data=2).build(jax.devices()[:2])
    with jax.set_mesh(mesh):
        spread = run(spec, x=jax.device_put(IMAGES[:2], NamedSharding(mesh, ROWS)), ctx=context(range(2)))
    np.testing.assert_allclose(spread.pooled, alone.pooled, **CLOSE)


# Marks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Bert, TextTransformer])
def test_marks_add_their_vectors(kind):
    spec = kind(**SIZE, remat="none", mark_tables=(MarkTable(mark="speaker", classes=3),))
    speaker = RANDOM.integers(0, 3, IDS.shape)
    structure, arrays = built(spec)
    plain = built(kind(**SIZE, remat="none"))[0].merge(
        {path: x for path, x in arrays.items() if path != "marks/speaker"}
    )
    h, positions, valid = plain.embed(IDS)
    expected = plain.encode(h + arrays["marks/speaker"][speaker], positions, EncoderInputs(IDS, valid))
    found = run(spec, marks={"speaker": speaker})
    np.testing.assert_allclose(found.pooled, expected.pooled, **CLOSE)
    with pytest.raises(ValueError, match="has a table of the mark 'speaker', and its inputs lack it"):
        structure.merge(arrays)(EncoderInputs(IDS))


# Wrong combinations ---------------------------------------------------------------------------------------------------

WRONG = {
    "kv_heads = 3 do not divide heads = 4: take a number that does": dict(kv_heads=3),
    "rotary positions turn pairs of channels, and a head has 1: change width or heads": dict(
        heads=16, rotary=SequenceRotary()
    ),
    "local.rotary needs rotary: set the rotary positions of the other blocks too": dict(
        local=LocalAttention(rotary=SequenceRotary())
    ),
    'first_norm = False needs norm = "pre": with "post" every block normalizes its sums': dict(
        first_norm=False, norm="post"
    ),
    "mark_tables names speaker twice: a mark has one table": dict(
        mark_tables=(MarkTable(mark="speaker", classes=2),) * 2
    ),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_combinations_are_one_sentence(sentence):
    assert problems(TextTransformer(**{**SIZE, **WRONG[sentence]})) == [sentence]


def test_relative_positions_have_one_grid():
    assert problems(ViT(**SIZE, positions="relative", any_size=True)) == [
        'positions = "relative" are those of one grid: they cannot have any_size = True'
    ]
    assert problems(MarkTable(mark="valid", classes=2))[0].startswith("mark is 'valid': expected a name such as")
