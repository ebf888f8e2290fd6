"""BERT against transformers: with the same random weights, the same tokens and the same pooled features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.text.bert import Bert

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

RNG = np.random.default_rng(0)
WIDTH, DEPTH, HEADS, LENGTH, WORDS = 32, 3, 4, 9, 50
SPLIT = (HEADS, WIDTH // HEADS)


def randomized(model):
    """Return a random torch model without ones and zeros, and its parameters as NumPy arrays by name."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            center = 1.0 if "LayerNorm.weight" in name else 0.0
            value.copy_(torch.tensor(center + RNG.normal(0, 0.2, value.shape)))
    return model.eval(), {name: value.numpy().copy() for name, value in model.state_dict().items()}


def dense(w, source, inputs=(), outputs=()):
    """Return kernel and bias of a dense layer from torch's [out, in]; ``inputs`` and ``outputs`` split these axes."""
    weight, bias = w[f"{source}.weight"], w[f"{source}.bias"]
    shape = (*(inputs or weight.shape[1:]), *(outputs or weight.shape[:1]))
    return {"kernel": weight.T.reshape(shape), "bias": bias.reshape(outputs or bias.shape)}


def norm(w, source):
    return {"scale": w[f"{source}.weight"], "bias": w[f"{source}.bias"]}


def block(w, at):
    heads = {name: dense(w, f"{at}.attention.self.{name}", outputs=SPLIT) for name in ("query", "key", "value")}
    return {
        "attention": {**heads, "out": dense(w, f"{at}.attention.output.dense", inputs=SPLIT)},
        "norm1": norm(w, f"{at}.attention.output.LayerNorm"),
        "mlp": {"up": dense(w, f"{at}.intermediate.dense"), "down": dense(w, f"{at}.output.dense")},
        "norm2": norm(w, f"{at}.output.LayerNorm"),
    }


def parameters(w, pool):
    layers = [block(w, f"encoder.layer.{i}") for i in range(DEPTH)]
    values = {
        "embedding": w["embeddings.word_embeddings.weight"],
        "positions": w["embeddings.position_embeddings.weight"],
        "segments": w["embeddings.token_type_embeddings.weight"],
        "embed_norm": norm(w, "embeddings.LayerNorm"),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *layers),
    }
    return values | ({"pool": {"dense": dense(w, "pooler.dense")}} if pool == "tanh" else {})


@pytest.mark.parametrize("pool", ["cls", "mean", "tanh"])
def test_bert(pool):
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LENGTH,
    )
    ids = RNG.integers(1, WORDS, (4, LENGTH))
    valid = np.arange(LENGTH) < np.array([[9], [5], [1], [7]])
    segments = RNG.integers(0, 2, ids.shape)
    ids = np.where(valid, ids, 0)
    with torch.no_grad():
        model, w = randomized(transformers.BertModel(config))
        theirs = model(torch.tensor(ids), torch.tensor(valid), torch.tensor(segments))

    spec = Bert(width=WIDTH, depth=DEPTH, heads=HEADS, pool=pool)
    graph, state = nnx.split(spec.build(nnx.Rngs(0), inputs=Field((LENGTH,), "int32", classes=WORDS)))
    values = parameters(w, pool)
    assert jax.tree.structure(nnx.to_pure_dict(state)) == jax.tree.structure(values)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, values))
    ours = nnx.merge(graph, state)
    h, positions, found = ours.embed(jnp.asarray(ids), jnp.asarray(segments))
    np.testing.assert_array_equal(found, valid)
    encoded = jax.jit(lambda h, positions, valid: ours.encode(h, positions, EncoderInputs(ids, valid)))(
        h, positions, found
    )

    tokens = theirs.last_hidden_state.numpy()
    mean = np.stack([row[real].mean(0) for row, real in zip(tokens, valid, strict=True)])
    want = {"cls": tokens[:, 0], "mean": mean, "tanh": theirs.pooler_output.numpy()}[pool]
    # float32 sums in another order; features are of size one
    np.testing.assert_allclose(encoded.pooled, want, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(encoded.tokens)[valid], tokens[valid], atol=1e-5, rtol=1e-5)
