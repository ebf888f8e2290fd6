"""Blocks of transformers: a plain oracle, scan and remat, intermediates, initial values, precision."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.blocks import Block, BlockInputs, Sight
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.spec import problems
from jaxrep.step.flops import count_flops

TEXTS = Field((6,), "int32", classes=20)
IDS = jnp.array(np.random.default_rng(0).integers(1, 20, (4, 6)), jnp.int32)
SPEC = TextTransformer(width=8, depth=2, heads=2)
SAME = dict(atol=2e-6, rtol=2e-5)  # float32, the same sums fused in another way


@functools.cache
def built(spec):
    """A module whose parameters all differ from their special starting values (zeros and ones)."""
    module = spec.build(nnx.Rngs(0), inputs=TEXTS)
    rng = np.random.default_rng(1)
    state = jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), nnx.state(module))
    nnx.update(module, state)
    return module


def ctx(rows=range(4), step=0):
    positions = jnp.stack([jnp.zeros(len(rows), jnp.uint32), jnp.array(list(rows), jnp.uint32)], axis=1)
    return StepContext(step=jnp.int32(step), base_key=jax.random.key(3), positions=positions, total_steps=10)


@functools.cache
def features_and_gradients(spec):
    """Features, inner ones too, and the gradient of a function of them, in training."""
    graph, state = nnx.split(built(spec))

    def loss(state, ids, ctx):
        encoded = nnx.merge(graph, state)(EncoderInputs(ids, ctx=ctx, intermediates=(0,)))
        return jnp.sum(encoded.pooled**3) + jnp.sum(encoded.intermediates[0] ** 3), encoded

    return jax.jit(jax.grad(loss, has_aux=True))(state, IDS, ctx())


def assert_equal(a, b):
    """Compare trees, with the rounding of sums whose terms are as large as the largest number of an array."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6 * max(1, abs(y).max())), a, b)


def oracle_block(w, x, heads, mask, post):
    """One block on a single row x [N,D] in float64, written out head by head."""

    def norm(name, x):
        if f"{name}/scale" not in w:
            return x
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}/scale"] + w[f"{name}/bias"]

    def attention(x):
        returned = []
        for head in range(heads):
            query, key, value = (
                x @ w[f"attention/{name}/kernel"][:, head] + w[f"attention/{name}/bias"][head]
                for name in ("query", "key", "value")
            )
            weight = np.where(mask, np.exp(query @ key.T / math.sqrt(query.shape[1])), 0)
            returned.append(weight / weight.sum(1, keepdims=True) @ value)
        kernel = w["attention/out/kernel"].reshape(-1, x.shape[1])
        return norm("attention/inner_norm", np.concatenate(returned, axis=1)) @ kernel + w["attention/out/bias"]

    def mlp(x):
        hidden = x @ w["mlp/up/kernel"] + w["mlp/up/bias"]
        if "mlp/gate/kernel" in w:
            gate = x @ w["mlp/gate/kernel"] + w["mlp/gate/bias"]
            hidden = hidden * gate / (1 + np.exp(-gate))
        else:
            hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        return norm("mlp/inner_norm", hidden) @ w["mlp/down/kernel"] + w["mlp/down/bias"]

    if post:
        x = norm("norm1", x + w["scale1"] * attention(x))
        return norm("norm2", x + w["scale2"] * mlp(x))
    x = x + w["scale1"] * attention(norm("norm1", x))
    return x + w["scale2"] * mlp(norm("norm2", x))


GATED = dict(gated=True, activation="silu")


@pytest.mark.parametrize(
    ("norm", "changes"),
    [("pre", {}), ("post", {}), ("pre", GATED), ("pre", dict(GATED, inner_norms=("attention", "mlp")))],
)
def test_block_equals_its_equations(norm, changes):
    spec = dataclasses.replace(SPEC, norm=norm, layer_scale=0.5, **changes)
    stack = built(spec).blocks
    graph, state = nnx.split(stack)
    block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[1], state))
    assert isinstance(block, Block)
    weights = {"/".join(path): np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(nnx.state(block))}
    x = np.random.default_rng(2).normal(size=(2, 5, 8))
    mask = np.tril(np.ones((5, 5), bool))
    ours = jax.jit(lambda x: block(x, BlockInputs(Sight(jnp.asarray(mask)[None, None])), 1))(
        jnp.asarray(x, jnp.float32)
    )
    expected = np.stack([oracle_block(weights, row, 2, mask, norm == "post") for row in x])
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)  # float32 against float64


@pytest.mark.parametrize(
    "changes",
    [
        dict(scan=False),
        dict(remat="dots"),
        dict(remat="full"),
        dict(remat="names", save=("attention", "hidden")),
        dict(remat="names", save=("middle",), scan=False),
        dict(mlp_parts=2),
        dict(mlp_parts=4, remat="full"),
        dict(mlp_parts=3),
    ],
)
def test_scan_and_remat_change_no_number(changes):
    spec = dataclasses.replace(SPEC, dropout=0.3, layer_scale=0.5, remat="none")
    assert_equal(features_and_gradients(dataclasses.replace(spec, **changes)), features_and_gradients(spec))


def test_remat_recomputes_the_products_that_are_not_kept():
    """FLOPs of the gradient beyond those without remat, per block: of each kind of product, forward."""
    tokens, width, depth = 4 * 6, 8, 2
    layer = 2 * tokens * width * width  # of query, key, value and out each; four of them for up and for down
    products = 2 * 4 * 6 * 6 * width  # of queries and keys, and of weights and values

    @functools.cache
    def flops(**changes):
        module = nnx.eval_shape(lambda: dataclasses.replace(SPEC, **changes).build(nnx.Rngs(0), inputs=TEXTS))
        graph, state = nnx.split(module)
        return count_flops(jax.grad(lambda state: nnx.merge(graph, state)(EncoderInputs(IDS)).pooled.sum()), state)

    none = flops(remat="none")
    recomputed = lambda **changes: (flops(**changes) - none) / depth  # noqa: E731
    assert recomputed(remat="dots") == 2 * products
    full = 4 * layer + 2 * products + 4 * layer  # down's output is added, which needs no product in the backward pass
    assert recomputed(remat="full") == recomputed(remat="offload") == full
    assert recomputed(remat="names", save=("hidden",)) == full - 4 * layer
    assert recomputed(remat="names", save=("middle",)) == full - layer
    assert recomputed(remat="names", save=("attention", "middle", "hidden")) == 3 * layer + products
    assert recomputed(remat="none", mlp_parts=2) == 4 * layer
    assert recomputed(remat="full", mlp_parts=2) == full


def test_parts_of_the_mlp_take_less_memory():
    """By the compiler's layout: hidden layers of both blocks, 8 times as wide as the tokens, exist for a quarter."""
    ids = jax.ShapeDtypeStruct((64, 6), "int32")

    def memory(parts):
        spec = dataclasses.replace(SPEC, width=32, mlp_ratio=8.0, remat="none", mlp_parts=parts)
        graph, state = nnx.split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=TEXTS)))
        loss = lambda state, ids: nnx.merge(graph, state)(EncoderInputs(ids)).pooled.sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(state, ids).compile().memory_analysis().temp_size_in_bytes

    assert memory(4) < 0.6 * memory(1)


def test_offload_moves_the_inputs_of_blocks_to_the_host():
    module = nnx.eval_shape(lambda: dataclasses.replace(SPEC, remat="offload").build(nnx.Rngs(0), inputs=TEXTS))
    graph, state = nnx.split(module)
    loss = lambda state: nnx.merge(graph, state)(EncoderInputs(IDS)).pooled.sum()  # noqa: E731
    text = str(jax.make_jaxpr(jax.grad(loss))(state))
    kept = re.findall(r"\w+:f32<host>\[2,4,6,8\]", text)
    assert kept, text  # of both blocks
    assert "<host>" not in str(jax.make_jaxpr(loss)(state))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(remat="names"), "remat = names keeps what save names, which is empty"),
        (dict(save=("hidden",)), "save = hidden has no effect with remat = dots: take names or offload"),
        (dict(remat="names", save=("hidden", "hidden")), "save names a value twice: hidden, hidden"),
        (dict(remat="names", save=("hiden",)), "save"),
        (dict(mlp_parts=0), "mlp_parts"),
    ],
)
def test_wrong_remat_is_a_problem(changes, words):
    assert words in " ".join(problems(dataclasses.replace(SPEC, **changes)))


def test_intermediate_equals_a_shallower_encoder():
    module = built(SPEC)
    deep = jax.jit(lambda ids: module(EncoderInputs(ids, intermediates=(1, 0))))(IDS)
    state = nnx.state(module)
    state["blocks"] = jax.tree.map(lambda leaf: leaf[:1], state["blocks"])
    shallow = dataclasses.replace(SPEC, depth=1).build(nnx.Rngs(0), inputs=TEXTS)
    nnx.update(shallow, state)
    np.testing.assert_allclose(deep.intermediates[0], jax.jit(shallow.__call__)(EncoderInputs(IDS)).pooled, **SAME)
    np.testing.assert_allclose(deep.intermediates[1], deep.pooled, **SAME)


def test_intermediate_beyond_the_last_block_is_refused():
    module = built(SPEC)
    with pytest.raises(ValueError, match=r"intermediates \[2\] are not blocks of this encoder, which are 0 to 1"):
        module(EncoderInputs(IDS, intermediates=(1, 2)))


def test_program_does_not_grow_with_depth():
    def equations(depth):
        module = nnx.eval_shape(lambda: dataclasses.replace(SPEC, depth=depth).build(nnx.Rngs(0), inputs=TEXTS))
        graph, state = nnx.split(module)
        gradient = jax.grad(lambda state: nnx.merge(graph, state)(EncoderInputs(IDS)).pooled.sum())
        return str(jax.make_jaxpr(gradient)(state)).count("\n")

    assert equations(24) == equations(4)


def test_block_leaves_lead_with_depth_and_layers_differ():
    state = nnx.state(SPEC.build(nnx.Rngs(0), inputs=TEXTS).blocks)
    for path, leaf in nnx.to_flat_state(state):
        assert leaf.shape[0] == SPEC.depth, path
        if path[-1] == "kernel":
            assert not np.array_equal(leaf[0], leaf[1]), path


def test_initial_kernels_have_the_stated_deviations():
    width, depth = 128, 2
    blocks = TextTransformer(width=width, depth=depth, heads=4).build(nnx.Rngs(0), inputs=TEXTS).blocks
    stated = {
        "query": (blocks.attention.query, width**-0.5),
        "out": (blocks.attention.out, (2 * depth * width) ** -0.5),
        "up": (blocks.mlp.up, (2 * width) ** -0.5),
        "down": (blocks.mlp.down, (2 * depth * width) ** -0.5),
    }
    for name, (layer, deviation) in stated.items():
        # 16,384 draws a layer at least: the estimate is off by 0.4% (one standard error)
        np.testing.assert_allclose(np.std(layer.kernel[...]), deviation, rtol=0.03, err_msg=name)


def test_bfloat16_is_close_to_float32_and_features_are_float32():
    module = built(SPEC)
    half = built(dataclasses.replace(SPEC, dtype="bfloat16"))
    exact, rough = (jax.jit(m.__call__)(EncoderInputs(IDS)) for m in (module, half))
    assert rough.tokens.dtype == jnp.bfloat16
    assert rough.pooled.dtype == exact.pooled.dtype == exact.tokens.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half)))
    # eight bits of mantissa, 2**-9 a rounding, some twenty roundings on the way to values of size one
    np.testing.assert_allclose(rough.pooled, exact.pooled, atol=0.08)
    assert np.abs(rough.pooled - exact.pooled).max() > 0


def test_wrong_values_are_named():
    wrong = TextTransformer(width=30, depth=0, heads=4, dropout=1.0)
    assert problems(wrong) == [
        "depth: expected a number of at least 1 and of at most 1000, got 0",
        "dropout: expected a number of at least 0 and below 1, got 1.0",
    ]
    assert problems(TextTransformer(width=30, depth=1, heads=4)) == [
        "heads = 4 do not divide width = 30: take a number of heads that does"
    ]
