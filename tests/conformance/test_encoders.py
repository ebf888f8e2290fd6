"""Every exported encoder: JSON, help texts, shapes, gradients, padding, draws per row, and parameters over a mesh.

A new encoder, or part of one, needs an example in EXAMPLES.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep import encoders
from jaxrep.batch import Field, StepContext
from jaxrep.encoders import Encoder, EncoderInputs, EncoderOutput
from jaxrep.mesh import Mesh, shardings
from jaxrep.params import Structure, split
from tests.helpers.exported_specs import assert_examples_are_complete, assert_valid_with_json_and_help
from tests.helpers.harness import QUICK

SMALL: dict[str, Any] = dict(width=8, depth=2, heads=2, mlp_ratio=2.0, dropout=0.3)
MODERN: dict[str, Any] = {
    **dict(SMALL, width=16, heads=4, dropout=0.0, stochastic_depth=0.5, positions="none", norm_type="rms"),
    **dict(qk_norm=True, kv_heads=2, gated=True, activation="silu", out_bias=False, mlp_bias=False),
}
PATCHES: dict[str, Any] = dict(stem=encoders.PatchStem(patch=4), registers=2)
GROUPS = encoders.GroupNorm(groups=2)
EXAMPLES: Mapping[str, Any] = {
    "bert": encoders.Bert(**SMALL, distances=8, pool="tanh"),
    "context regressor": encoders.ContextRegressor(**SMALL),
    "efficientnet": encoders.EfficientNet(width_factor=0.25, stages=2, norm=GROUPS, stochastic_depth=0.5),
    "perceptron": encoders.Perceptron(widths=(8, 6), dropout=0.3),
    "modern text": encoders.TextTransformer(
        **MODERN,
        causal=False,
        rotary=encoders.SequenceRotary(),
        local=encoders.LocalAttention(window=1, global_every=2),
    ),
    "modern vit": encoders.ViT(
        **MODERN, **PATCHES, patch_dropout=0.3, rotary=encoders.AxialRotary(shift=0.5, jitter=1.2, rescale=1.2)
    ),
    "resnet": encoders.ResNet(depths=(1, 1), width=4, stem="small", norm=GROUPS, stochastic_depth=0.5),
    "resnet with batch norm": encoders.ResNet(depths=(1,), width=4, stem="small", bottleneck=False),
    "series convolutions": encoders.SeriesConvolutions(length=6, channels=(4, 4), kernel=2, pool=2, dropout=0.3),
    "series transformer": encoders.SeriesTransformer(**SMALL, length=6, pool="flatten"),
    "text": encoders.TextTransformer(**SMALL),
    "text with attention pool": encoders.TextTransformer(**SMALL, causal=False, pool="attention"),
    "triples": encoders.TripleTransformer(**SMALL, tokens=3),
    "vit": encoders.ViT(**SMALL, **PATCHES, patch_dropout=0.3),
    "vit of bands": encoders.ViT(
        **SMALL,
        stem=encoders.BandsStem(groups=((0, 2), (1,)), patch=4),
        positions="sincos",
        sine_widths=(4, 2, 2),
        patch_dropout=0.3,
    ),
    "vit with relative positions": encoders.ViT(**SMALL, **PATCHES, positions="relative", patch_dropout=0.3),
    "token decoder": encoders.TokenDecoder(**SMALL, mask_token=False),
    # Parts of encoders, and the decoder, which reads tokens.
    "upsampler": encoders.Upsampler(doublings=1),
    "query decoder": encoders.QueryDecoder(queries=2, width=8, depth=1, heads=2),
    "axial rotary positions": encoders.AxialRotary(),
    "batch norm": encoders.BatchNorm(),
    "group norm": encoders.GroupNorm(),
    "local attention": encoders.LocalAttention(),
    "mark table": encoders.MarkTable(mark="speaker", classes=2),
    "rotary positions of sequences": encoders.SequenceRotary(),
    "bands stem": encoders.BandsStem(groups=((0, 2), (1,))),
    "conv stem": encoders.ConvStem(),
    "patch stem": encoders.PatchStem(),
    "pixels": encoders.PixelNorm(),
}
B = 4
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8)
SERIES = RANDOM.normal(size=(B, 6, 2)).astype(np.float32)
X = {
    "ContextRegressor": np.random.default_rng(2).normal(size=(B, 6, 8)).astype(np.float32),
    "SeriesConvolutions": SERIES,
    "SeriesTransformer": SERIES,
    "Perceptron": SERIES[:, 0],
    "TokenDecoder": SERIES,
    "TripleTransformer": RANDOM.integers(1, 9, (B, 6, 3), dtype=np.int32),
    **{name: RANDOM.integers(1, 9, (B, 6), dtype=np.int32) for name in ("Bert", "TextTransformer")},
    **{name: IMAGES for name in ("EfficientNet", "ResNet", "ViT")},
}
# Valid tokens of a row, and the part of a row that may change. A triple exists if its subject has more than two tokens;
# the circular convolution of series reads one time step more to either side.
TOKEN = np.arange(6)
PADDED = {
    "Bert": (TOKEN < 4, TOKEN >= 4),
    "TextTransformer": (TOKEN < 4, TOKEN >= 4),
    "SeriesTransformer": (TOKEN < 3, TOKEN[:, None] == 4),
    "TripleTransformer": ((TOKEN[:, None] < 3) | (np.arange(3) < 2), TOKEN[:, None] >= 3),
}
ENCODERS = [name for name, example in EXAMPLES.items() if isinstance(example, Encoder)]
COUPLED = ("resnet with batch norm",)  # rows of a batch depend on each other
every_encoder = pytest.mark.parametrize("name", ENCODERS)
# The gradient of a key's bias is zero but for rounding: it adds the same number to all logits of a query.
NO_GRADIENT = ("key/bias",)


def x_of(name: str) -> np.ndarray:
    return X[type(EXAMPLES[name]).__name__]


@functools.cache
def built(name: str) -> tuple[Structure, dict[str, np.ndarray]]:
    """Return the structure, and arrays that are drawn without compiling the initializers."""
    x = x_of(name)
    field = Field(x.shape[1:], str(x.dtype), 9 if x.dtype == np.int32 else None)
    structure, shapes = split(nnx.eval_shape(lambda: EXAMPLES[name].build(nnx.Rngs(0), inputs=field)))
    rng = np.random.default_rng(1)
    arrays = {path: rng.normal(size=leaf.shape).astype(leaf.dtype) * 0.3 for path, leaf in shapes.items()}
    return structure, {
        path: np.abs(x) + 0.5 if "scale" in path or "variance" in path else x for path, x in arrays.items()
    }


def context(rows: slice = slice(None)) -> StepContext:
    positions = np.stack([np.zeros(B), 7 + np.arange(B)], 1).astype(np.uint32)[rows]
    return StepContext(step=np.int32(0), base_key=jax.random.key(0), positions=positions)


@functools.cache
def training_pass(name: str):
    """Return a compiled function (arrays, inputs) -> (gradients of a function of the features, output)."""
    structure, _ = built(name)

    def loss(arrays: Any, inputs: EncoderInputs):
        output: EncoderOutput = structure.merge(arrays)(inputs)
        return jnp.sum(
            jnp.sin(output.pooled) * jnp.arange(1, output.pooled.size + 1).reshape(output.pooled.shape)
        ), output

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)


@functools.cache
def trained(name: str) -> Any:
    return jax.device_get(training_pass(name)(built(name)[1], EncoderInputs(x_of(name), ctx=context())))


@functools.cache
def inference(name: str):
    """Return a compiled function (arrays, inputs) -> output."""
    structure, _ = built(name)
    return jax.jit(lambda arrays, inputs: structure.merge(arrays)(inputs), compiler_options=QUICK)


def test_every_exported_spec_has_an_example():
    assert_examples_are_complete(encoders, EXAMPLES, but=(EncoderInputs, EncoderOutput))


@pytest.mark.parametrize("name", EXAMPLES)
def test_spec_is_valid_and_has_json_and_help(name: str):
    assert_valid_with_json_and_help(EXAMPLES[name])


@every_encoder
def test_output_has_the_declared_shapes(name: str):
    spec, (structure, arrays), x = EXAMPLES[name], built(name), x_of(name)
    output = jax.eval_shape(lambda arrays: structure.merge(arrays)(EncoderInputs(x)), arrays)
    assert spec.rank == x.ndim
    assert output.pooled.shape == (B, spec.features) and output.pooled.dtype == np.float32
    assert output.tokens is None or output.tokens.shape[0] == B
    assert output.valid is None or output.valid.shape == output.tokens.shape[:2]  # pyright: ignore


@every_encoder
def test_every_parameter_has_a_finite_gradient(name: str):
    gradients, output = trained(name)
    assert np.isfinite(output.pooled).all()
    trainable = built(name)[0].trainable
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert path not in trainable or path.endswith(NO_GRADIENT) or np.abs(gradient).max() > 0, path


@pytest.mark.parametrize("name", [name for name in ENCODERS if type(EXAMPLES[name]).__name__ in PADDED])
def test_padding_does_not_change_features(name: str):
    valid, padding = PADDED[type(EXAMPLES[name]).__name__]
    x = x_of(name)
    changed = np.where(padding, x + 1, x).astype(x.dtype)
    valid = np.broadcast_to(valid, (B, *valid.shape))
    before, after = (inference(name)(built(name)[1], EncoderInputs(inputs, valid)).pooled for inputs in (x, changed))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in COUPLED])
def test_draws_of_a_row_are_equal_in_any_microbatch(name: str):
    whole, rows = trained(name)[1].pooled, slice(1, 3)
    structure, arrays = built(name)
    encode = jax.jit(lambda arrays, inputs: structure.merge(arrays)(inputs).pooled, compiler_options=QUICK)
    part = encode(arrays, EncoderInputs(x_of(name)[rows], ctx=context(rows)))
    np.testing.assert_allclose(part, whole[rows], rtol=1e-4, atol=1e-5)  # float32, in another order
    moved = dataclasses.replace(context(), positions=context().positions + 100)
    other = training_pass(name)(arrays, EncoderInputs(x_of(name), ctx=moved))[1].pooled
    assert np.abs(other - whole).max() > 1e-3


@every_encoder
def test_parameters_over_two_devices_give_equal_features(name: str):
    _, arrays = built(name)
    expected = inference(name)(arrays, EncoderInputs(x_of(name))).pooled
    spec = Mesh(fsdp=2, min_shard_size=1)
    mesh = spec.build(jax.devices()[:2])
    layout = shardings(mesh, spec, arrays)
    assert any(not sharding.is_fully_replicated for sharding in layout.values())
    with jax.set_mesh(mesh):
        pooled = inference(name)(jax.device_put(arrays, layout), EncoderInputs(x_of(name))).pooled
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)  # float32, in another order
