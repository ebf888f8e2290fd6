"""Towers against transformers: from the same random weights the same embeddings and features of every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

RNG = np.random.default_rng(0)
SIZE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
SHAPE = dict(width=32, depth=3, heads=4, mlp_ratio=3.0)
PIXELS = PixelNorm(mean=(0.0,) * 3, std=(1.0,) * 3)
CLOSE = dict(atol=1e-5, rtol=1e-5)  # float32 sums in another order; features are of size one


def randomized(model):
    """Return a random torch model without ones and zeros, and its parameters as NumPy arrays by name."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value.copy_(torch.tensor(center + RNG.normal(0, 0.2, value.shape)))
    return model.eval(), {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assign(module, values):
    """Set all parameters of a module by path, in their shapes."""
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    assert {"/".join(map(str, path)) for path, _ in state} == set(values)
    for path, parameter in state:
        value = values["/".join(map(str, path))]
        assert parameter.shape == value.shape, path
        parameter[...] = jnp.asarray(value)


def dense(target, weight, bias, inputs=None, outputs=None):
    """Return kernel and bias of a dense layer from torch's [out, in]; ``inputs`` and ``outputs`` split these axes."""
    shape = (*(inputs or weight.shape[1:]), *(outputs or weight.shape[:1]))
    return {f"{target}/kernel": weight.T.reshape(shape), f"{target}/bias": bias.reshape(outputs or bias.shape)}


def norm(target, source, w):
    return {f"{target}/scale": w[f"{source}.weight"], f"{target}/bias": w[f"{source}.bias"]}


def blocks(w):
    """Return the stacked parameters of all blocks."""

    def layer(i):
        at, heads = f"encoder.layers.{i}.", (SHAPE["heads"], SHAPE["width"] // SHAPE["heads"])
        values = {**norm("norm1", at + "layer_norm1", w), **norm("norm2", at + "layer_norm2", w)}
        for ours, theirs in {"query": "q_proj", "key": "k_proj", "value": "v_proj"}.items():
            source = f"{at}self_attn.{theirs}."
            values |= dense(f"attention/{ours}", w[source + "weight"], w[source + "bias"], outputs=heads)
        out = f"{at}self_attn.out_proj."
        values |= dense("attention/out", w[out + "weight"], w[out + "bias"], inputs=heads)
        values |= dense("mlp/up", w[f"{at}mlp.fc1.weight"], w[f"{at}mlp.fc1.bias"])
        return values | dense("mlp/down", w[f"{at}mlp.fc2.weight"], w[f"{at}mlp.fc2.bias"])

    layers = [layer(i) for i in range(SHAPE["depth"])]
    return {f"blocks/{name}": np.stack([values[name] for values in layers]) for name in layers[0]}


def patches(weight):
    """Reshape torch's [D,C,P,P] to [P*P*C,D]."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def layer_norm(x, w, source):
    """Normalize a layer's output in float64, for features of inner layers."""
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f"{source}.weight"] + w[f"{source}.bias"]


def test_clip_image_tower():
    config = transformers.CLIPVisionConfig(**SIZE, image_size=12, patch_size=4, hidden_act="quick_gelu")
    with torch.no_grad():
        model, w = randomized(transformers.CLIPVisionModel(config))
        images = RNG.uniform(size=(3, 12, 12, 3)).astype(np.float32)
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)

    ours = ViT(**SHAPE, stem=PatchStem(patch=4)).as_clip().build(nnx.Rngs(0), inputs=Field((12, 12, 3), "float32"))
    ours.pixels = PIXELS
    positions = w["embeddings.position_embedding.weight"]
    values = {
        "stem/project/kernel": patches(w["embeddings.patch_embedding.weight"]),
        "class_token": w["embeddings.class_embedding"] + positions[0],  # one parameter here, a sum of two there
        "positions": positions[1:],
    }
    values |= norm("embed_norm", "pre_layrnorm", w) | norm("norm", "post_layernorm", w) | blocks(w)
    assign(ours, values)

    encoded = jax.jit(lambda x: ours(EncoderInputs(x, intermediates=(0, 1, 2))))(jnp.asarray(images))
    np.testing.assert_allclose(encoded.pooled, theirs.pooler_output, **CLOSE)
    tokens = layer_norm(theirs.last_hidden_state[:, 1:], w, "post_layernorm")
    np.testing.assert_allclose(encoded.tokens, tokens, **CLOSE)
    for layer, pooled in encoded.intermediates.items():
        expected = layer_norm(theirs.hidden_states[layer + 1][:, 0], w, "post_layernorm")
        np.testing.assert_allclose(pooled, expected, **CLOSE)


def test_clip_text_tower():
    config = transformers.CLIPTextConfig(
        **SIZE, vocab_size=50, max_position_embeddings=9, hidden_act="quick_gelu", eos_token_id=49, bos_token_id=48
    )
    with torch.no_grad():
        model, w = randomized(transformers.CLIPTextModel(config))
        ids = RNG.integers(1, 48, (4, 9)).astype(np.int32)
        ends = [8, 5, 2, 3]
        for row, end in enumerate(ends):
            ids[row, end] = 49
            ids[row, end + 1 :] = 0
        ids[1, 2] = 0  # id 0 is also a word ("!")
        theirs = model(torch.tensor(ids), output_hidden_states=True)

    spec = TextTransformer(**SHAPE, activation="quick_gelu")
    ours = spec.build(nnx.Rngs(0), inputs=Field((9,), "int32", classes=50))
    values = {
        "embedding": w["embeddings.token_embedding.weight"],
        "positions": w["embeddings.position_embedding.weight"],
    }
    assign(ours, values | norm("norm", "final_layer_norm", w) | blocks(w))

    encoded = jax.jit(lambda x: ours(EncoderInputs(x, intermediates=(0, 1, 2))))(jnp.asarray(ids))
    np.testing.assert_allclose(encoded.pooled, theirs.pooler_output, **CLOSE)
    for row, end in enumerate(ends):  # what padding computes is read by nobody
        np.testing.assert_allclose(encoded.tokens[row, : end + 1], theirs.last_hidden_state[row, : end + 1], **CLOSE)
        for layer, pooled in encoded.intermediates.items():
            expected = layer_norm(theirs.hidden_states[layer + 1][row, end], w, "final_layer_norm")
            np.testing.assert_allclose(pooled[row], expected, **CLOSE)


def test_siglip_attention_pooling():
    config = transformers.SiglipVisionConfig(**SIZE, image_size=12, patch_size=4, layer_norm_eps=1e-5)
    with torch.no_grad():
        model, w = randomized(transformers.SiglipVisionModel(config))
        images = RNG.uniform(size=(3, 12, 12, 3)).astype(np.float32)
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2)))

    spec = ViT(**SHAPE, stem=PatchStem(patch=4), pool="attention", activation="gelu_tanh", pixels=PIXELS)
    ours = spec.build(nnx.Rngs(0), inputs=Field((12, 12, 3), "float32"))
    values = {
        "stem/project/kernel": patches(w["embeddings.patch_embedding.weight"]),
        "stem/project/bias": w["embeddings.patch_embedding.bias"],
        "positions": w["embeddings.position_embedding.weight"],
        "pool/probe": w["head.probe"][0, 0],
    }
    heads = (SHAPE["heads"], SHAPE["width"] // SHAPE["heads"])
    weights = np.split(w["head.attention.in_proj_weight"], 3)
    biases = np.split(w["head.attention.in_proj_bias"], 3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        values |= dense(f"pool/attention/{name}", weight, bias, outputs=heads)
    out = "head.attention.out_proj."
    values |= dense("pool/attention/out", w[out + "weight"], w[out + "bias"], inputs=heads)
    values |= dense("pool/mlp/up", w["head.mlp.fc1.weight"], w["head.mlp.fc1.bias"])
    values |= dense("pool/mlp/down", w["head.mlp.fc2.weight"], w["head.mlp.fc2.bias"])
    values |= norm("pool/norm", "head.layernorm", w) | norm("norm", "post_layernorm", w) | blocks(w)
    assign(ours, values)

    encoded = jax.jit(lambda x: ours(EncoderInputs(x)))(jnp.asarray(images))
    np.testing.assert_allclose(encoded.tokens, theirs.last_hidden_state, **CLOSE)
    np.testing.assert_allclose(encoded.pooled, theirs.pooler_output, **CLOSE)
