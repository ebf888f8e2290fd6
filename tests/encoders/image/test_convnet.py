"""Convolutional encoders, on an EfficientNet and a ResNet of a few channels."""

import dataclasses
import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.convolution import BatchNorm, GroupNorm
from jaxrep.encoders.image.efficientnet import EfficientNet
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.spec import problems

INPUTS = Field(shape=(16, 16, 3), dtype="uint8")
X = jnp.array(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)), jnp.uint8)
NORM = BatchNorm(momentum=0.5, epsilon=1e-3)
RESNET = ResNet(depths=(1, 2), width=8, stem="small", norm=NORM)
EFFICIENTNET = EfficientNet(width_factor=0.25, depth_factor=0.3, norm=NORM, stochastic_depth=0.0)
SPECS = {"efficientnet": EFFICIENTNET, "resnet": RESNET}
BLOCKS = (0, 2)


def ctx(first=0):
    low = first + jnp.arange(len(X), dtype=jnp.uint32)
    return StepContext(
        step=jnp.int32(0), base_key=jax.random.key(0), positions=jnp.stack([jnp.zeros_like(low), low], axis=1)
    )


def filled(path, leaf):
    """Values that are neither 0 nor 1, made without compiling anything."""
    path = jax.tree_util.keystr(path)
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    if "kernel" in path:
        return jnp.array(rng.normal(0, (2 / math.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), leaf.dtype)
    positive = "scale" in path or "variance" in path
    return jnp.array(rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.1, leaf.shape), leaf.dtype)


def build(spec):
    graph, state = nnx.split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=INPUTS)))
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(filled, state))


@jax.jit
def train(module, x, ctx):
    return module(EncoderInputs(x, ctx=ctx))


@jax.jit
def infer(module, x):
    return module(EncoderInputs(x, intermediates=BLOCKS, intermediate_maps=BLOCKS, intermediate_tokens=BLOCKS[1:]))


@pytest.fixture(params=SPECS, scope="module")
def spec(request):
    return SPECS[request.param]


def test_batch_statistics_are_returned_and_the_module_is_unchanged(spec):
    module = build(spec)
    before = jax.tree.map(np.asarray, nnx.state(module))
    batch_stats = train(module, X, ctx()).batch_stats
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(module)))
    assert jax.tree.structure(batch_stats) == jax.tree.structure(nnx.state(module, nnx.BatchStat))

    # the first batch norm reads what can be computed apart: the first convolution of the normalized pixels
    stem, new, keep = module.stem.layer, batch_stats["stem"]["layer"]["norm"], spec.norm.momentum
    h = np.asarray(stem.conv(module.pixels(X)), np.float64)
    for name, batch in (("mean", h.mean((0, 1, 2))), ("variance", h.var((0, 1, 2)))):
        old = before["stem"]["layer"]["norm"][name][...]
        np.testing.assert_allclose(new[name][...], keep * old + (1 - keep) * batch, rtol=1e-4, atol=1e-6)


def test_inference_uses_running_statistics(spec):
    """Given the batch's own statistics (taken back from the running average), inference repeats the training pass."""
    module = build(spec)
    trained, keep = train(module, X, ctx()), spec.norm.momentum
    assert np.abs(np.asarray(infer(module, X).pooled - trained.pooled)).max() > 0.3
    old = nnx.state(module, nnx.BatchStat)
    nnx.update(module, jax.tree.map(lambda new, old: (new - keep * old) / (1 - keep), trained.batch_stats, old))
    again = infer(module, X)
    assert again.batch_stats is None
    # the last norms see six values a channel: where these nearly agree, rounding is magnified
    np.testing.assert_allclose(again.pooled, trained.pooled, atol=0.02)


def test_remat_gives_equal_gradients_and_statistics_have_none():
    def gradients(remat, weight):
        @functools.partial(jax.jit, static_argnums=1)
        @functools.partial(jax.grad, has_aux=True)
        def gradient(params, graph, rest):
            out = nnx.merge(graph, params, rest)(EncoderInputs(X, ctx=ctx()))
            new = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out.batch_stats))
            return jnp.square(out.pooled).mean() + weight * new, out.batch_stats

        graph, params, rest = nnx.split(build(dataclasses.replace(RESNET, remat=remat)), nnx.Param, ...)
        return gradient(params, graph, rest)

    plain, again = gradients(False, 0.0), gradients(True, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, again)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(plain[0]["blocks"]))


def test_statistics_on_a_mesh_are_those_of_the_global_batch():
    module = build(RESNET)
    alone = train(module, X, ctx())
    mesh = jax.make_mesh((2, 1, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        shared = jax.jit(lambda module, x, ctx: module(EncoderInputs(x, ctx=ctx)))(
            module, jax.device_put(X, rows), ctx()
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),  # sums in another order
        (alone.pooled, alone.batch_stats),
        (shared.pooled, shared.batch_stats),
    )


def test_intermediates_are_pooled_features_after_a_block(spec):
    module = build(spec)
    out = infer(module, X)
    first = jax.jit(lambda m, x: m.blocks[0](m.stem(m.pixels(x), False), False).mean((1, 2)))
    np.testing.assert_allclose(out.intermediates[0], first(module, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.pooled, out.tokens.mean(1), rtol=1e-5, atol=1e-6)
    assert out.pooled.shape == (6, spec.features) and set(out.intermediates) == set(BLOCKS)
    last = len(module.blocks) - 1
    with pytest.raises(ValueError, match=rf"intermediates \[{last + 1}\] are not blocks"):
        module(EncoderInputs(X, intermediates=(last + 1,)))


def test_maps_are_features_where_they_lie(spec):
    module = build(spec)
    out = infer(module, X)
    first = jax.jit(lambda m, x: m.blocks[0](m.stem(m.pixels(x), False), False))
    np.testing.assert_allclose(out.intermediate_maps[0], first(module, X), rtol=1e-4, atol=1e-5)
    for block, h in out.intermediate_maps.items():
        np.testing.assert_allclose(h.mean((1, 2)), out.intermediates[block], rtol=1e-5, atol=1e-6)
    assert set(out.intermediate_maps) == set(BLOCKS) and set(out.intermediate_tokens) == {BLOCKS[1]}
    last = out.intermediate_maps[BLOCKS[1]]
    np.testing.assert_array_equal(out.intermediate_tokens[BLOCKS[1]].reshape(last.shape), last)
    assert out.map.shape == (6, *out.grid, spec.features)
    np.testing.assert_array_equal(out.map.reshape(out.tokens.shape), out.tokens)
    if spec is RESNET:  # the last block's map is the encoder's, 8 x 8: one stage halves the picture
        np.testing.assert_array_equal(out.map, last)
        assert out.grid == (8, 8)


def test_a_block_that_does_not_exist_has_no_map(spec):
    with pytest.raises(ValueError, match=r"intermediates \[9\] are not blocks"):
        build(spec)(EncoderInputs(X, intermediate_maps=(9,)))


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"images of shape \(H, W, C\)"):
        RESNET.build(nnx.Rngs(0), inputs=Field(shape=(8,), dtype="int32"))
    for mask in (dict(masked=jnp.zeros((6, 4), bool)), dict(keep=jnp.zeros((6, 1), jnp.int32))):
        with pytest.raises(ValueError, match="it takes no valid, masked or kept tokens"):
            build(RESNET)(EncoderInputs(X, **mask))


def test_wrong_values_are_named(spec):
    assert not list(spec.problems())
    (sentence,) = dataclasses.replace(spec, norm=GroupNorm(groups=3)).problems()
    assert "norm.groups = 3 do not divide" in sentence
    (sentence,) = problems(dataclasses.replace(spec, stochastic_depth=1.0))
    assert sentence == "stochastic_depth: expected a number of at least 0 and below 1, got 1.0"


@pytest.mark.parametrize(
    ("spec", "parameters", "features"),
    [
        (EfficientNet.b0(), 4_007_548, 1280),  # Keras: trainable, without the classifier
        (EfficientNet.b0(head_conv=False), 4_007_548 - 320 * 1280 - 2 * 1280, 320),
        (ResNet.resnet18(), 11_689_512 - 513_000, 512),  # torchvision, without the classifier
        (ResNet.resnet50(), 25_557_032 - 2_049_000, 2048),
    ],
    ids=["b0", "b0 without head", "resnet18", "resnet50"],
)
def test_presets_have_the_published_number_of_parameters(spec, parameters, features):
    module = nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=INPUTS))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))) == parameters
    assert spec.features == features


def test_align_towers_have_the_published_widths():
    """Jia et al. 2021, section 6.1: 640 for B7 and 1376 for L2."""
    assert EfficientNet.b7(head_conv=False).features == 640
    assert EfficientNet.l2(head_conv=False).features == 1376
