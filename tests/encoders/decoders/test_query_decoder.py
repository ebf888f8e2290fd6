"""The query decoder, compared with a loop over blocks in NumPy; order and type of tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.encoders.decoders.query_decoder import QueryDecoder
from jaxrep.spec import problems

SPEC = QueryDecoder(queries=3, width=8, depth=2, heads=2)


@pytest.fixture(scope="module")
def decoder():
    """Return a decoder with drawn biases and gains, so that none is 0 or 1."""
    module = SPEC.build(nnx.Rngs(0), inputs=5)
    graph, state = nnx.split(module)
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda x: x + 0.1 * random.normal(size=x.shape).astype(np.float32), state)
    return nnx.merge(graph, state)


def test_decoder_equals_a_loop_over_blocks(decoder):
    values = {"/".join(map(str, path)): np.asarray(leaf[...], np.float64) for path, leaf in flat(decoder)}
    tokens = np.random.default_rng(1).normal(size=(2, 4, 5))

    def norm(x, name, layer: Any = ...):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * values[f"{name}/scale"][layer] + values[f"{name}/bias"][layer]

    def attention(x, context, name, layer, values_of):
        def split(x, part):
            kernel, bias = (values[f"blocks/{name}/{part}/{kind}"][layer] for kind in ("kernel", "bias"))
            return np.einsum("bnd,dhe->bhne", x, kernel) + bias[:, None]

        query, key, value = split(x, "query"), split(context, "key"), split(values_of, "value")
        logits = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
        mean = logits / logits.sum(-1, keepdims=True) @ value
        kernel, bias = (values[f"blocks/{name}/out/{kind}"][layer] for kind in ("kernel", "bias"))
        return np.einsum("bhne,hed->bnd", mean, kernel) + bias

    def dense(x, name, layer: Any = ...):
        return x @ values[f"{name}/kernel"][layer] + values[f"{name}/bias"][layer]

    memory = norm(tokens @ values["project/kernel"], "token_norm")
    queries, h = values["queries"], np.zeros((2, 4, 8))
    for layer in range(2):
        x = norm(h, "blocks/norm1", layer)
        h = h + attention(x + queries, x + queries, "attention", layer, x)
        h = h + attention(norm(h, "blocks/norm2", layer) + queries, memory, "cross_attention", layer, memory)
        x = np.maximum(dense(norm(h, "blocks/norm3", layer), "blocks/mlp/up", layer), 0)
        h = h + dense(x, "blocks/mlp/down", layer)
    h = norm(h, "norm")
    x = np.maximum(dense(np.maximum(dense(h[:, :3], "box/first"), 0), "box/second"), 0)

    output = jax.jit(lambda tokens: decoder(tokens))(jnp.asarray(tokens, jnp.float32))
    # float32, through two blocks
    np.testing.assert_allclose(output.image, h[:, 3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.regions, h[:, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.boxes, 1 / (1 + np.exp(-dense(x, "box/last"))), rtol=1e-4, atol=1e-5)


def flat(module):
    return nnx.to_flat_state(nnx.state(module))


def test_order_of_tokens_does_not_matter(decoder):
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 5)), jnp.float32)
    for one, other in zip(decoder(tokens), decoder(tokens[:, ::-1]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # sums in another order


def test_computes_in_the_type_of_tokens_and_returns_float32(decoder):
    tokens = np.random.default_rng(3).normal(size=(2, 4, 5))
    exact, rounded = (decoder(jnp.asarray(tokens, kind)) for kind in (jnp.float32, jnp.bfloat16))
    assert {x.dtype for x in rounded} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded.boxes, exact.boxes, atol=0.05)  # bfloat16 has eight bits
    assert not np.array_equal(rounded.boxes, exact.boxes)


def test_wrong_values_are_named():
    assert len(problems(QueryDecoder(queries=0, width=9, heads=2, dropout=1.0))) == 2
    assert "do not divide" in problems(QueryDecoder(width=9, heads=2))[0]
