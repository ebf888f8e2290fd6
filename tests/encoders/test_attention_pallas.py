"""The TPU kernel by Pallas's interpreter, and by the TPU compiler where there is one."""

import functools
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrep.encoders import PatchStem, TextTransformer, ViT
from jaxrep.encoders import attention_pallas as kernels
from jaxrep.encoders.attention import attend
from jaxrep.encoders.attention_pallas import lanes_of, pallas_attention, queries_of, vmem_bytes
from jaxrep.encoders.attention_splash import splash_attention
from jaxrep.encoders.layers import attention_mask
from jaxrep.mesh import Mesh
from jaxrep.methods import DualEncoder
from jaxrep.plan.plan import plan
from jaxrep.plan.topology import devices, memory_bytes, prepare
from tests.helpers.attention_kernels import as_if_on_tpu
from tests.helpers.harness import QUICK, RECIPE, batch, ctx, set_up

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu: no libtpu here")


def arrays(shape, kv_heads=None, dtype=jnp.float32):
    """Return queries, keys, values and derivatives by the output, [B,N,H,d]."""
    rng, rows = np.random.default_rng(0), (*shape[:2], kv_heads or shape[2], shape[3])
    return [jnp.asarray(rng.normal(size=size), dtype) for size in (shape, rows, rows, shape)]


def by_xla(query, key, value, *, causal, lengths):
    valid = None if lengths is None else jnp.arange(query.shape[1]) < lengths[:, None]
    return attend(query, key, value, mask=attention_mask(valid, query.shape[1], causal=causal))


def with_gradients(function, query, key, value, d_out, **options):
    """Return the output and the derivatives by queries, keys and values."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(query, key, value, d_out):
        out, pull = jax.vjp(functools.partial(function, **options), query, key, value)
        return out, *pull(d_out)

    return both(query, key, value, d_out)


def distance(x, y, norm=np.max):
    """Return the difference of arrays relative to the size of the second."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return norm(np.abs(x - y)) / norm(np.abs(y))


CASES: dict[str, Any] = {
    "one block": dict(shape=(2, 33, 4, 8)),
    "a head fills the lanes": dict(shape=(2, 20, 2, 128)),
    "blocks of queries": dict(shape=(1, 150, 2, 8), block=48),
    "causal, in blocks": dict(shape=(2, 50, 2, 16), block=16, causal=True),
    "key lengths": dict(shape=(4, 21, 2, 8), lengths=(21, 1, 9, 0)),
    "all of it": dict(shape=(3, 50, 4, 8), block=16, causal=True, lengths=(50, 7, 0), kv_heads=2),
}


def case(monkeypatch, shape, *, block=0, causal=False, lengths=None, kv_heads=None):
    if block:
        monkeypatch.setattr(kernels, "LOGITS_BYTES", 0)
        monkeypatch.setattr(kernels, "MIN_QUERIES", block)
        assert queries_of(shape[1], shape[1]) < shape[1]
    return kv_heads, dict(causal=causal, lengths=None if lengths is None else jnp.asarray(lengths, jnp.int32))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_float32_equal_xlas(name, monkeypatch):
    kv_heads, options = case(monkeypatch, **CASES[name])
    values = arrays(CASES[name]["shape"], kv_heads)
    found, expected = (with_gradients(function, *values, **options) for function in (pallas_attention, by_xla))
    for got, want in zip(found, expected, strict=True):
        assert distance(got, want) < 1e-6


@pytest.mark.parametrize("name", ["one block", "all of it"])
def test_errors_in_bfloat16_are_those_of_xla(name, monkeypatch):
    """Both against float32. XLA does not round the derivatives by logits on a CPU; on a TPU both do."""
    kv_heads, options = case(monkeypatch, **CASES[name])
    values = arrays(CASES[name]["shape"], kv_heads, jnp.bfloat16)
    exact = with_gradients(by_xla, *(x.astype(jnp.float32) for x in values), **options)
    found, expected = (with_gradients(function, *values, **options) for function in (pallas_attention, by_xla))
    for got, want, real in zip(found, expected, exact, strict=True):
        assert got.dtype == jnp.bfloat16
        assert distance(got, real, np.sum) < 1.2 * distance(want, real, np.sum)


def test_programs_take_whole_heads_and_all_queries():
    assert [lanes_of(heads * head, head) for heads, head in ((16, 64), (12, 64), (16, 80), (16, 72), (3, 64))] == [
        *(128, 128, 640, 1152, 192)
    ]
    for tokens in (1, 16, 257, 577, 1370, 4096, 4097):
        block = queries_of(tokens, tokens)
        assert block == tokens or (block % 16 == 0 and block * -(-tokens // block) - tokens < block)
    assert queries_of(257, 257) == 257
    assert vmem_bytes(4096, 4096, 128, 2) > vmem_bytes(1370, 1370, 128, 2) > vmem_bytes(257, 257, 128, 2)


SMALL: Any = dict(width=32, depth=1, heads=4, mlp_ratio=1.0)
CLIP = RECIPE.replace(
    {
        "method": DualEncoder(
            towers={"image": ViT(**SMALL, stem=PatchStem(patch=2)), "text": TextTransformer(**SMALL)}, dim=16
        )
    }
)


def step_on(mesh: Mesh, recipe, count: int):
    """Return loss and gradients of a step on some of the simulated devices."""
    setup = set_up(recipe.replace(mesh=mesh), devices=count)
    found = setup.shapes
    rng = np.random.default_rng(0)
    values = {
        path: np.asarray(rng.normal(size=leaf.shape) * 0.2 + ("scale" in path), leaf.dtype)
        for path, leaf in found.arrays.items()
    }
    params = {path: values.pop(path) for path in found.trained(setup.updater)}
    # Rows that differ: gradients of similar ones cancel, and little else than rounding is left.
    rows = batch() | {
        "image": rng.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8),
        "text": rng.integers(1, 9, (8, 6)).astype(np.int32),
        "text/valid": np.arange(6) < rng.integers(1, 7, (8, 1)),
    }
    with jax.set_mesh(setup.mesh):
        step = jax.jit(found.computation.value_and_grad, compiler_options=QUICK)
        (loss, *_), gradients = step(params, values, rows, ctx())
    return np.asarray(loss), {path: np.asarray(x) for path, x in gradients.items()}


@pytest.mark.slow
def test_a_clip_step_on_eight_devices_has_the_loss_and_gradients_of_xla(monkeypatch):
    mesh = Mesh(data=2, fsdp=2, tensor=2, min_shard_size=1)
    loss, gradients = step_on(mesh, CLIP, 8)
    as_if_on_tpu(monkeypatch)
    by = {f"method.towers.{tower}.attention": "pallas" for tower in ("image", "text")}
    got, found = step_on(mesh, CLIP.replace(by), 8)
    assert abs(got - loss) < 1e-6 * abs(loss)
    # Sums of rounded numbers that cancel: XLA's form on one device and on eight differs by as much.
    size = max(np.abs(gradient).max() for gradient in gradients.values())
    for path, gradient in gradients.items():
        assert np.abs(found[path] - gradient).max() < 1e-6 * size, path


def test_rows_that_the_devices_do_not_divide_are_computed_by_each():
    values = arrays((3, 9, 2, 8))
    with jax.set_mesh(Mesh(data=2).build(jax.devices()[:2])):
        found = with_gradients(pallas_attention, *values, causal=True, lengths=jnp.array([9, 2, 4]))
    expected = with_gradients(by_xla, *values, causal=True, lengths=jnp.array([9, 2, 4]))
    for got, want in zip(found, expected, strict=True):
        assert distance(got, want) < 1e-6


# The TPU compiler -----------------------------------------------------------------------------------------------------


@pytest.fixture
def environment():
    before = dict(os.environ)
    prepare("v5e:2x2")
    yield
    os.environ.clear()
    os.environ.update(before)


KERNELS = {"pallas": (pallas_attention, 2), "splash": (splash_attention, 3)}
"""Functions, and the kernels in the value with its gradients."""


@TPU
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens"), [("pallas", 257), ("pallas", 577), ("pallas", 1370), ("pallas", 4096), ("splash", 4097)]
)
def test_value_and_gradients_compile_for_a_tpu(name, tokens, environment):
    """As in ViT-L: 16 heads of 64 channels, in bfloat16."""
    function, kernels_of_it = KERNELS[name]
    mesh = Mesh().build(devices("v5e:1x1"))
    x = jax.ShapeDtypeStruct((2, tokens, 16, 64), jnp.bfloat16, sharding=NamedSharding(mesh, P()))

    def both(query, key, value, d_out):
        out, pull = jax.vjp(functools.partial(function, causal=False, lengths=None), query, key, value)
        return out, pull(d_out)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        text = jax.jit(both).lower(x, x, x, x).compile().as_text()
    assert text is not None and text.count('custom_call_target="tpu_custom_call"') == kernels_of_it


@TPU
@pytest.mark.slow
def test_a_clip_step_compiles_for_a_tpu(environment):
    """Over rows and heads, with causal texts and their lengths, inside scanned blocks that are computed again."""
    recipe = CLIP.replace({"log.embedding_metrics": False}, mesh=Mesh(fsdp=2, tensor=2, min_shard_size=1))
    by = {f"method.towers.{tower}.attention": "pallas" for tower in ("image", "text")}
    chips = devices("v5e:2x2")
    assert plan(recipe.replace(by), chips, memory_bytes(chips[0])).fits
