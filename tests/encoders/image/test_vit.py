"""The vision transformer: stems, positions, pooling, patch dropout, masked patches, sizes of presets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.stem import ConvStem, PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.positions import sincos_positions
from jaxrep.pretrained.resize import resize_positions
from jaxrep.spec import problems

FIELD = Field((16, 12, 3), "uint8")
SPEC = ViT(width=8, depth=2, heads=2, stem=PatchStem(patch=4))
IMAGES = jnp.array(np.random.default_rng(0).integers(0, 256, (4, 16, 12, 3)), jnp.uint8)
SAME = dict(atol=2e-6, rtol=2e-5)  # float32, the same sums in another order


def built(**changes):
    return dataclasses.replace(SPEC, **changes).build(nnx.Rngs(0), inputs=FIELD)


def encode(module, images=IMAGES, **inputs):
    return jax.jit(module.__call__)(EncoderInputs(images, **inputs))


def ctx(rows, training=True):
    positions = jnp.stack([jnp.zeros(len(rows), jnp.uint32), jnp.array(list(rows), jnp.uint32)], axis=1)
    return StepContext(step=jnp.int32(0), base_key=jax.random.key(3), positions=positions, training=training)


def convolve(x, kernel, stride, padding):
    strides, sides = (stride, stride), ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, kernel, strides, sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_patches_are_a_strided_convolution():
    stem = PatchStem(patch=4).build(nnx.Rngs(0), inputs=(16, 12, 3), width=8)
    x = IMAGES / 255.0
    expected = convolve(x, stem.project.kernel[...].reshape(4, 4, 3, 8), 4, 0).reshape(4, 12, 8)
    np.testing.assert_allclose(stem(x), expected, **SAME)


@pytest.mark.parametrize("size", [(16, 12), (15, 11)])
def test_conv_stem_is_convolutions_then_patches(size):
    stem = ConvStem(channels=(5, 6), patch=1).build(nnx.Rngs(0), inputs=(*size, 3), width=8)
    x = IMAGES[:, : size[0], : size[1]] / 255.0
    expected = x
    for layer in stem.convolutions:
        layer.bias[...] = jnp.linspace(-0.1, 0.1, layer.bias.shape[0])
        expected = jax.nn.relu(convolve(expected, layer.kernel[...], 2, 1) + layer.bias[...])
    expected = expected.reshape(4, 12, 6) @ stem.patches.project.kernel[...]
    np.testing.assert_allclose(jax.jit(stem.__call__)(x), expected, **SAME)


def test_pixels_are_normalized_as_uint8_and_float():
    norm = PixelNorm.imagenet()
    expected = (np.asarray(IMAGES, np.float64) / 255 - norm.mean) / norm.std
    np.testing.assert_allclose(norm(IMAGES), expected, **SAME)
    np.testing.assert_allclose(norm(IMAGES / 255.0), expected, **SAME)
    with pytest.raises(ValueError, match="have 1 channels and the pixel normalization 3"):
        norm(IMAGES[..., :1])


def test_sincos_positions_are_those_of_moco():
    """Entry by entry: width 8 has two frequencies, 1 and 1/10000."""
    positions = sincos_positions((2, 3), 8)
    row, column = 1, 2
    expected = [np.sin(2), np.sin(2e-4), np.cos(2), np.cos(2e-4), np.sin(1), np.sin(1e-4), np.cos(1), np.cos(1e-4)]
    np.testing.assert_allclose(positions[row * 3 + column], expected, rtol=1e-6)
    module = built(positions="sincos", pool="mean")
    assert "positions" not in nnx.state(module)
    np.testing.assert_array_equal(module.embed(IMAGES)[1], sincos_positions((4, 3), 8))


@pytest.mark.parametrize("pool", ["cls", "mean", "attention"])
def test_tokens_are_the_patches_alone(pool):
    module = built(pool=pool, registers=3)
    encoded = encode(module)
    assert encoded.tokens.shape == (4, 12, 8)
    assert encoded.pooled.shape == (4, 8)
    if pool == "mean":
        np.testing.assert_allclose(encoded.pooled, encoded.tokens.mean(1), **SAME)


@pytest.mark.parametrize("pool", ["cls", "mean", "attention"])
def test_the_last_norm_may_follow_the_pooling(pool):
    """Then features are normed, and tokens are as the last block leaves them."""
    plain, first = built(pool=pool, norm_epsilon=0.1), built(pool=pool, norm_epsilon=0.1, pool_first=True)
    out = encode(first, intermediates=(0, 1))
    x = np.asarray(out.pooled, np.float64)
    np.testing.assert_allclose(out.intermediates[1], x, **SAME)
    # Of scale 1 and bias 0, a norm leaves a mean of 0, and less than 1 of the variance.
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
    assert x.var(1).min() > 0 and x.var(1).max() < 1
    tokens = np.asarray(out.tokens, np.float64)
    normed = tokens - tokens.mean(-1, keepdims=True)
    normed /= np.sqrt((normed**2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(encode(plain).tokens, normed, **SAME)
    if pool == "mean":
        mean = tokens.mean(1) - tokens.mean((1, 2))[:, None]
        np.testing.assert_allclose(x, mean / np.sqrt((mean**2).mean(1, keepdims=True) + 0.1), **SAME)


def test_registers_are_attended_to():
    module = built(registers=3)
    before = encode(module).pooled
    module.registers[...] = module.registers[:, ::-1]
    assert np.abs(encode(module).pooled - before).max() > 1e-4


def test_patch_dropout_keeps_a_share_drawn_per_row():
    module = built(patch_dropout=0.7, pool="mean")
    run = jax.jit(lambda images, ctx: module(EncoderInputs(images, ctx=ctx)))
    encoded = run(IMAGES, ctx([0, 1, 2, 3]))
    assert encoded.tokens.shape == (4, 4, 8)  # 30% of 12, rounded
    kept = np.asarray(encoded.kept)
    assert (np.diff(kept, axis=1) > 0).all() and kept.min() >= 0 and kept.max() < 12
    assert len({tuple(row) for row in kept}) > 1

    elsewhere = run(IMAGES[::-1], ctx([7, 2, 1, 8]))  # rows 1 and 2 among others
    np.testing.assert_array_equal(elsewhere.kept[1:3], kept[2:0:-1])
    np.testing.assert_allclose(elsewhere.pooled[1:3], encoded.pooled[2:0:-1], **SAME)

    h, positions, _ = module.embed(IMAGES)  # what is left out has no influence
    alone = module.encode(jnp.take_along_axis(h, kept[..., None], axis=1), positions[kept], EncoderInputs(IMAGES))
    np.testing.assert_allclose(encoded.pooled, alone.pooled, **SAME)
    assert encode(module, ctx=ctx(range(4), training=False)).tokens.shape == (4, 12, 8)


def test_patches_are_kept_equally_often():
    kept = encode(built(patch_dropout=0.5), IMAGES[jnp.zeros(400, int)], ctx=ctx(range(400))).kept
    counts = np.bincount(np.asarray(kept).ravel(), minlength=12)
    np.testing.assert_allclose(counts, 200, atol=45)  # standard deviation 10, twelve counts


def test_masked_patches_influence_by_position_only():
    module = built(mask_token=True, pool="mean")
    masked = jnp.zeros((4, 12), bool).at[:, :3].set(True)  # the first row of patches
    changed = IMAGES.at[:, :4].set(255 - IMAGES[:, :4])
    a, b = encode(module, masked=masked).pooled, encode(module, changed, masked=masked).pooled
    np.testing.assert_array_equal(a, b)
    assert np.abs(encode(module, masked=masked[:, ::-1]).pooled - a).max() > 1e-4
    with pytest.raises(ValueError, match="mask_token = True"):
        built()(EncoderInputs(IMAGES, masked=masked))


@pytest.mark.parametrize(
    ("spec", "millions"),
    [
        (ViT.ti16(), 5.5),
        (ViT.s16(), 21.7),
        (ViT.b32(), 87.5),
        (ViT.b16(), 85.8),
        (ViT.l14(), 303.2),
        (ViT.h14(), 630.8),
        (ViT.g14(), 1011.2),
        (ViT.so400m14(pool="attention"), 427.7),
        (ViT.dinov3_s16(), 21.6),
        (ViT.dinov3_b16(), 85.7),
        (ViT.dinov3_l16(), 303.1),
        (ViT.dinov3_h16plus(), 840.6),
        (ViT.eva02_b16(), 85.9),
        (ViT.eva02_l14(), 303.3),
    ],
    ids=["ti16", "s16", "b32", "b16", "l14", "h14", "g14", "so400m14", *("dinov3_" + x for x in "sblh"), "e_b", "e_l"],
)
def test_presets_have_the_published_sizes(spec, millions):
    """As timm counts the towers without classifier at 224 pixels (class tokens have a position there; DINOv3: qkvb)."""
    module = nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=Field((224, 224, 3), "uint8")))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert round(count / 1e6, 1) == millions
    assert not list(spec.problems())


def test_pool_first_needs_a_last_norm():
    assert list(dataclasses.replace(SPEC, norm="post", pool_first=True).problems()) == [
        'pool_first = True needs norm = "pre": with "post" there is no last norm'
    ]


def test_as_clip_keeps_the_size():
    clip = ViT.b32().as_clip()
    assert clip == ViT.b32(
        stem=PatchStem(patch=32, bias=False), embed_norm=True, activation="quick_gelu", pixels=PixelNorm.clip()
    )


@pytest.mark.parametrize("size", [(8, 20), (24, 16)])
def test_any_size_resizes_positions(size):
    images = jnp.array(np.random.default_rng(1).integers(0, 256, (2, *size, 3)), jnp.uint8)
    module = built(any_size=True)
    _, positions, _ = module.embed(images)
    expected = resize_positions(np.asarray(module.positions[...]), (4, 3), (size[0] // 4, size[1] // 4), antialias=True)
    np.testing.assert_allclose(positions, expected, **SAME)
    np.testing.assert_array_equal(module.embed(IMAGES)[1], module.positions[...])
    fixed = built(any_size=True, positions="sincos")
    np.testing.assert_array_equal(fixed.embed(images)[1], sincos_positions((size[0] // 4, size[1] // 4), 8))
    assert encode(module, images).tokens.shape == (2, size[0] * size[1] // 16, 8)


def test_wrong_shapes_and_values_are_named():
    with pytest.raises(ValueError, match="16 x 12 pixels does not split into patches of 5 x 5"):
        built(stem=PatchStem(patch=5))
    with pytest.raises(ValueError, match=r"16 x 12 pixels \(4 x 3 after convolutions\) does not split"):
        built(stem=ConvStem(channels=(4, 4), patch=2))
    with pytest.raises(ValueError, match=r"built for images of shape \(16, 12, 3\), got \(16, 16, 3\)"):
        built()(EncoderInputs(jnp.zeros((2, 16, 16, 3))))
    with pytest.raises(ValueError, match=r"shape \(H, W, C\), and its input has shape \(6,\)"):
        SPEC.build(nnx.Rngs(0), inputs=Field((6,), "int32"))
    wrong = ViT(width=6, depth=1, heads=2, positions="sincos")
    assert list(wrong.problems()) == ["width = 6 is not a multiple of 4, which sin-cos positions need"]


def test_maps_are_tokens_where_the_patches_lie():
    asked = dict(intermediate_tokens=(0,), intermediate_maps=(1, 0))
    out = encode(built(registers=2, pool="cls"), **asked)
    assert out.map.shape == (4, 4, 3, 8)
    np.testing.assert_array_equal(out.intermediate_maps[1], out.map)
    np.testing.assert_array_equal(out.intermediate_maps[0].reshape(4, 12, 8), out.intermediate_tokens[0])
    assert set(out.intermediate_tokens) == {0} and set(out.intermediate_maps) == {0, 1}
    wider = jnp.tile(IMAGES, (1, 1, 2, 1))
    assert encode(built(any_size=True), wider).map.shape == (4, 4, 6, 8)


def test_dropped_patches_make_no_map():
    dropped = encode(built(patch_dropout=0.5), ctx=ctx(range(4)))
    with pytest.raises(ValueError, match=r"6 tokens make no map of 4 x 3: keep all tokens \(patch_dropout = 0\)"):
        _ = dropped.map
    with pytest.raises(ValueError, match="6 tokens make no map of 4 x 3"):
        encode(built(patch_dropout=0.5), ctx=ctx(range(4)), intermediate_maps=(0,))


def test_sines_without_endpoint_are_those_of_mae():
    """``get_2d_sincos_pos_embed`` of facebookresearch/mae (util/pos_embed.py): frequencies 10000 ** -(i / n)."""
    rows, columns = np.indices((4, 3)).reshape(2, -1)
    omega = 10_000.0 ** -(np.arange(2) / 2)
    axes = [np.concatenate([np.sin(x[:, None] * omega), np.cos(x[:, None] * omega)], 1) for x in (columns, rows)]
    positions = built(positions="sincos", sine_endpoint=False, pool="mean").embed(IMAGES)[1]
    np.testing.assert_allclose(positions, np.concatenate(axes, axis=1), atol=1e-7)
    assert "sine_endpoint is that of" in problems(ViT(width=8, depth=1, heads=2, sine_endpoint=False))[0]


def test_a_class_token_beside_the_mean_is_seen_by_all_and_not_pooled():
    beside, without, cls = built(pool="mean", class_token=True), built(pool="mean"), built()
    out = beside(EncoderInputs(IMAGES))
    np.testing.assert_allclose(out.pooled, out.tokens.mean(1), rtol=1e-5)
    assert np.abs(out.pooled - without(EncoderInputs(IMAGES)).pooled).max() > 1e-3
    np.testing.assert_array_equal(out.tokens, cls(EncoderInputs(IMAGES)).tokens)  # the same arrays, another pooling
