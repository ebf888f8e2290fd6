"""The choice of what computes attention, encoders by kernels, and cuDNN's call."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from jaxrep.batch import Field
from jaxrep.encoders import (
    Bert,
    EncoderInputs,
    LocalAttention,
    PatchStem,
    SequenceRotary,
    TextTransformer,
    ViT,
    attention,
)
from jaxrep.encoders.attention import MIN_TOKENS, attend, choose_kernel, cudnn_attention
from jaxrep.encoders.layers import attention_mask
from jaxrep.errors import UsageError
from jaxrep.mesh import AXES
from jaxrep.methods import DualEncoder
from jaxrep.params import split
from jaxrep.spec import problems
from jaxrep.step.shapes import trace_shapes
from tests.helpers.attention_kernels import as_if_cudnn, as_if_on_tpu
from tests.helpers.harness import QUICK, RECIPE

SIZE: Any = dict(width=128, depth=2, heads=2)
IMAGE, TEXT = ViT(**SIZE), TextTransformer(**SIZE)


def chosen(spec, platform, *, kind="any", tokens=MIN_TOKENS, dtype="bfloat16", rows: Any = 4, valid=False, bias=False):
    """Return the name of the kernel for tokens on a platform; None: XLA."""
    device = AbstractDevice(kind, None, platform)
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device)
    h: Any = jax.ShapeDtypeStruct((rows, tokens, spec.width), dtype)
    real = jnp.ones((4, tokens), bool) if valid else None
    with jax.sharding.use_abstract_mesh(mesh):
        call: Any = choose_kernel(spec, h, real, causal=True, bias=bias)
    return call and call.kernel


# The rule -------------------------------------------------------------------------------------------------------------


def test_auto_takes_kernels_for_long_rows_where_they_can_compute_them():
    for spec in (IMAGE, TEXT):
        assert [chosen(spec, platform) for platform in ("cpu", "gpu", "tpu")] == [None, "cudnn", "pallas"]
        assert [chosen(spec, platform, tokens=MIN_TOKENS - 1) for platform in ("gpu", "tpu")] == [None, None]
        assert [chosen(spec, platform, dtype="float32") for platform in ("gpu", "tpu")] == [None, None]
        assert [chosen(spec, platform, bias=True) for platform in ("gpu", "tpu")] == [None, None]
    assert [chosen(TEXT, platform, valid=True) for platform in ("gpu", "tpu")] == ["cudnn", "pallas"]
    assert [chosen(IMAGE, platform, valid=True) for platform in ("gpu", "tpu")] == [None, None]
    wide = ViT(width=264, depth=1, heads=1)
    assert [chosen(wide, platform) for platform in ("gpu", "tpu")] == [None, None]
    assert chosen(ViT(width=160, depth=1, heads=1), "gpu") is None
    assert [chosen(LOCAL, platform) for platform in ("gpu", "tpu")] == [None, None]


def test_auto_takes_splash_only_where_the_keys_of_a_row_do_not_fit():
    assert chosen(IMAGE, "tpu", kind="TPU v4", tokens=1370) == "pallas"
    assert chosen(IMAGE, "tpu", kind="TPU v4", tokens=4096) == "splash"  # the compiler refuses the kernel there
    assert chosen(IMAGE, "tpu", kind="TPU v5 lite", tokens=4096) == "pallas"
    assert chosen(IMAGE, "tpu", kind="TPU v5 lite", tokens=2**15) == "splash"


@pytest.mark.parametrize(
    ("capability", "kernel"), [("7.5", None), ("8.0", "cudnn"), ("12.0", "cudnn"), ("gfx942", None)]
)
def test_auto_takes_cudnn_on_gpus_that_are_new_enough(capability, kernel, monkeypatch):
    h: Any = jax.ShapeDtypeStruct((4, MIN_TOKENS, 128), "bfloat16")
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(attention.jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    call = choose_kernel(IMAGE, h, None, causal=False, bias=False)
    assert (call and call.kernel) == (kernel or None)


@pytest.mark.parametrize(("form", "platform"), [("cudnn", "gpu"), ("pallas", "tpu"), ("splash", "tpu")])
def test_a_kernel_by_name_runs_on_its_platform_and_xla_elsewhere(form, platform):
    spec = dataclasses.replace(IMAGE, attention=form)
    for here in ("cpu", "gpu", "tpu"):
        assert chosen(spec, here, tokens=257) == (form if here == platform else None)
    assert chosen(dataclasses.replace(IMAGE, attention="xla"), platform) is None


def test_a_program_for_any_number_of_rows_takes_xla():
    """It is for any platform too: jaxrep export."""
    (rows,) = jax.export.symbolic_shape("b")
    assert chosen(dataclasses.replace(IMAGE, attention="pallas"), "tpu", rows=rows) is None


# Mistakes -------------------------------------------------------------------------------------------------------------

LOCAL = dataclasses.replace(TEXT, rotary=SequenceRotary(), local=LocalAttention())
ONE: Any = dict(heads=2, depth=1)
WRONG = {
    "computes in bfloat16 or float16, got float32": dataclasses.replace(TEXT, attention="cudnn", dtype="float32"),
    "takes heads of a multiple of 8 channels, at most 128, got 160": ViT(**ONE, width=320, attention="cudnn"),
    "takes heads of a multiple of 8 channels, at most 256, got 12": ViT(**ONE, width=24, attention="pallas"),
    "sees all tokens, and local limits some blocks to near ones": dataclasses.replace(LOCAL, attention="splash"),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_kernel_that_cannot_compute_a_spec_is_one_sentence(words):
    (sentence,) = problems(WRONG[words])
    assert words in sentence and sentence.endswith(': take "auto" or "xla"')


RELATIVE = ViT(width=16, depth=1, heads=2, stem=PatchStem(patch=2), positions="relative", attention="pallas")
SMALL: Any = dict(width=16, depth=1, heads=2)


def test_a_kernel_that_cannot_add_a_bias_is_one_sentence_of_validation_wherever_it_runs():
    text = TextTransformer(**SMALL)
    recipe = RECIPE.replace(method=DualEncoder(towers={"image": RELATIVE, "text": text}, dim=4))
    with pytest.raises(UsageError, match='image: attention = "pallas" adds no bias to the logits'):
        trace_shapes(recipe)


def encode(spec, x, classes=None, **inputs):
    """Return pooled features and tokens of an encoder with drawn parameters."""
    field = Field(x.shape[1:], str(x.dtype), classes)
    structure, shapes = split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=field)))
    rng = np.random.default_rng(1)
    arrays = {
        path: (rng.normal(size=leaf.shape) * 0.3 + ("scale" in path)).astype(np.float32)
        for path, leaf in shapes.items()
    }

    def run(arrays):
        out = structure.merge(arrays)(EncoderInputs(x, **inputs))
        return out.pooled, out.tokens

    return [np.asarray(x) for x in jax.jit(run, compiler_options=QUICK)(arrays)]


IMAGES = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
IDS = np.random.default_rng(0).integers(1, 20, (3, 9)).astype(np.int32)


def test_key_lengths_where_real_tokens_do_not_come_first_are_one_sentence():
    spec = ViT(**SMALL, stem=PatchStem(patch=2), attention="pallas")
    with pytest.raises(ValueError, match="the encoder does not declare that those come first"):
        encode(spec, IMAGES, valid=np.ones((2, 16), bool))


def test_more_keys_than_fit_are_one_sentence():
    with pytest.raises(UsageError, match='32768 tokens do not fit that of this device: take "splash"'):
        chosen(dataclasses.replace(IMAGE, attention="pallas"), "tpu", tokens=2**15)


# Encoders by the TPU kernel, in Pallas's interpreter ------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        TextTransformer(**SMALL),
        TextTransformer(**SMALL, causal=False, pool="mean", rotary=SequenceRotary(), kv_heads=1, qk_norm=True),
        Bert(**SMALL, pool="mean"),
    ],
)
def test_texts_with_padding_are_encoded_as_by_xla(spec, monkeypatch):
    """All tokens, those of the padding too."""
    ids = np.where(np.arange(9) < np.array([9, 4, 1])[:, None], IDS, 0)
    expected = encode(spec, ids, 20)
    as_if_on_tpu(monkeypatch)
    for found, plain in zip(encode(dataclasses.replace(spec, attention="pallas"), ids, 20), expected, strict=True):
        np.testing.assert_allclose(found, plain, rtol=0, atol=2e-6 * np.abs(plain).max())  # two blocks, in float32


def test_images_of_which_patches_are_kept_are_encoded_as_by_xla(monkeypatch):
    spec = ViT(**SMALL, stem=PatchStem(patch=2), registers=2)
    keep = np.array([[0, 3, 4, 9], [1, 2, 8, 15]], np.int32)
    expected = encode(spec, IMAGES, keep=keep)
    as_if_on_tpu(monkeypatch)
    for found, plain in zip(
        encode(dataclasses.replace(spec, attention="pallas"), IMAGES, keep=keep), expected, strict=True
    ):
        np.testing.assert_allclose(found, plain, rtol=0, atol=2e-6 * np.abs(plain).max())


# cuDNN ----------------------------------------------------------------------------------------------------------------

CALLS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
ALLOWED = [jax.export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
GPU = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU: cuDNN computes nowhere else")


def inputs(shape, kv_heads, dtype):
    rng, rows = np.random.default_rng(0), (*shape[:2], kv_heads, shape[3])
    return [jnp.asarray(rng.normal(size=size), dtype) for size in (shape, rows, rows)]


def by_xla(query, key, value, causal, lengths):
    valid = None if lengths is None else jnp.arange(query.shape[1]) < lengths[:, None]
    return attend(query, key, value, mask=attention_mask(valid, query.shape[1], causal=causal))


LENGTHS = jnp.array([7, 1, 4], jnp.int32)


@pytest.mark.parametrize("tokens", [7, 8])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("causal", [False, True])
def test_what_cudnn_is_asked_for_is_attention(tokens, lengths, causal, monkeypatch):
    """JAX's own form of the same call, by which all rows, padding and lengths have the numbers of a mask."""
    asked, real = [], jax.nn.dot_product_attention

    def computed(query, key, value, *, implementation, **options):
        asked.append((query.shape[1] % 2, key.shape[1] % 2, implementation))
        return real(query, key, value, implementation="xla", **options)

    query, key, value = inputs((3, tokens, 4, 8), 2, jnp.float32)
    expected = by_xla(query, key, value, causal, lengths)
    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", computed)
    found = cudnn_attention(query, key, value, causal=causal, lengths=lengths)
    assert asked == [(0, 0, "cudnn")]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [77, 256, 257])
@pytest.mark.parametrize(("causal", "lengths"), [(False, False), (True, False), (True, True)])
def test_value_and_gradients_lower_for_cuda_to_cudnns_forward_and_backward_call(tokens, causal, lengths, monkeypatch):
    as_if_cudnn(monkeypatch)
    x = jax.ShapeDtypeStruct((2, tokens, 4, 64), jnp.bfloat16)
    counts = jax.ShapeDtypeStruct((2,), jnp.int32) if lengths else None

    def total(query, key, value, counts):
        return jnp.sum(cudnn_attention(query, key, value, causal=causal, lengths=counts).astype(jnp.float32))

    program = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    exported = jax.export.export(program, platforms=["cuda"], disabled_checks=ALLOWED)(x, x, x, counts)
    text = exported.mlir_module()
    assert [text.count(f"@{name}(") for name in CALLS] == [1, 1]
    padding = "PADDING" if lengths or tokens % 2 else "" if causal else "NO_MASK"
    kind = "_".join(filter(None, [padding, "CAUSAL" if causal else ""]))
    assert text.count(f"mask_type\\22: \\22{kind}\\22") == 2


@GPU
@pytest.mark.parametrize("tokens", [77, 256, 257])
@pytest.mark.parametrize(("causal", "lengths"), [(False, False), (True, False), (True, True)])
def test_cudnns_numbers_have_the_error_of_xlas(tokens, causal, lengths):
    counts = jnp.array([tokens, 1, tokens // 2], jnp.int32) if lengths else None
    values = inputs((3, tokens, 8, 64), 4, jnp.bfloat16)

    def both(form, *values):
        out, pull = jax.vjp(lambda *values: form(*values, causal=causal, lengths=counts), *values)
        return out, *pull(jnp.ones_like(out) * jnp.linspace(-1, 1, out.shape[3], dtype=out.dtype))

    exact = both(by_xla, *(x.astype(jnp.float32) for x in values))
    for found, plain, real in zip(both(cudnn_attention, *values), both(by_xla, *values), exact, strict=True):
        error, usual = (math.sqrt(float(jnp.mean((x.astype(jnp.float32) - real) ** 2))) for x in (found, plain))
        assert error < 1.5 * usual
