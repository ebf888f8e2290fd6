"""Check the losses on a mesh, and their memory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxrep.losses.contrastive import info_nce, plain_info_nce
from jaxrep.losses.pairwise import reduce
from jaxrep.losses.pairwise.pairs import PairOptions
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.losses.sigmoid import pairwise_sigmoid, plain_pairwise_sigmoid
from jaxrep.mesh import ROWS, Mesh
from tests.helpers import loss_oracle as oracle

B, D, SCALE, BIAS = 16, 4, 10.0, -5.0
IDS = (np.arange(B, dtype=np.int32) % 11, np.arange(B, dtype=np.int32) // 2)
WEIGHTS = np.linspace(0.5, 2, B).astype(np.float32)
MESHES = {1: Mesh(data=1), 2: Mesh(data=2), 8: Mesh(data=2, fsdp=4)}
CASES = {
    "info_nce": {
        "plain": {},
        "smoothing": {"label_smoothing": 0.1},
        "ids": {"ids": IDS, "duplicates": "supcon"},
        "extra": {},
    },
    "sigmoid": {
        "plain": {},
        "smoothing": {"weights": WEIGHTS},
        "ids": {"ids": IDS, "duplicates": "positive"},
        "extra": {},
    },
}


def arguments(name, case):
    """Return a number of extra rows that no mesh divides, and one that all do."""
    scalars = (np.float32(SCALE),) if name == "info_nce" else (np.float32(SCALE), np.float32(BIAS))
    extras = (oracle.rows(2, 5, D), oracle.rows(3, 8, D)) if case == "extra" else ()
    return (oracle.rows(0, B, D), oracle.rows(1, B, D), *scalars, *extras)


@functools.cache
def reference(name, case):
    function = functools.partial(getattr(oracle, name), **CASES[name][case])
    return oracle.value_and_derivatives(function, *arguments(name, case))


def on_mesh(mesh, *values):
    """Shard rows of the batch over the devices, as the loader does, and replicate everything else."""
    rows, whole = NamedSharding(mesh, ROWS), NamedSharding(mesh, jax.P())
    return [jax.device_put(x, rows if np.shape(x)[:1] == (B,) else whole) for x in values]


def matrix():
    """Yield all combinations; those that cover every pair of choices are not marked slow."""
    names, counts, ways, cases = tuple(CASES), tuple(MESHES), ("gather", "ring"), tuple(CASES["info_nce"])
    for (n, name), (d, count), (w, way), (c, case) in itertools.product(*map(enumerate, (names, counts, ways, cases))):
        chosen = n == (d + c) % 2 and w == (d + c // 2) % 2
        yield pytest.param(name, count, way, case, marks=() if chosen else pytest.mark.slow)


@pytest.mark.parametrize(("name", "count", "way", "case"), matrix())
def test_value_and_gradient_on_any_mesh_equal_oracle(name, count, way, case, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    mesh = MESHES[count].build(jax.devices()[:count])
    values = arguments(name, case)
    function = functools.partial(oracle.apply, name, CASES[name][case])
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(function, argnums=range(len(values))))(*on_mesh(mesh, *values))
    oracle.assert_close(got, reference(name, case), SCALE)


@pytest.mark.parametrize("way", ["gather", "ring"])
def test_cross_entropy_with_any_table_length_on_mesh_equals_oracle(way, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    x, table, labels = oracle.rows(0, B, D), oracle.rows(1, 9, D), np.arange(B, dtype=np.int32) % 9
    mesh = MESHES[8].build()
    function = jax.value_and_grad(lambda x, table, scale: oracle.mean_cross_entropy(x, table, labels, scale), (0, 1, 2))
    with jax.set_mesh(mesh):
        got = jax.jit(function)(*on_mesh(mesh, x, table, np.float32(SCALE)))
    want = oracle.value_and_derivatives(lambda *v: oracle.table_cross_entropy(*v, labels), x, table, SCALE)
    oracle.assert_close(got, want, SCALE)


def test_absent_rows_on_mesh_equal_oracle(monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 0)
    present = (np.arange(B) % 5 != 0, np.arange(B) % 3 != 0)
    values = arguments("info_nce", "plain")
    function = jax.value_and_grad(functools.partial(info_nce, options=PairOptions(present=present)), (0, 1, 2))
    with jax.set_mesh(MESHES[8].build()):
        got = jax.jit(function)(*values)
    want = oracle.value_and_derivatives(functools.partial(oracle.info_nce, present=present), *values)
    oracle.assert_close(got, want, SCALE)


def test_absent_and_duplicate_extra_rows_on_mesh_equal_oracle(monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 0)
    options = {"ids": IDS, "duplicates": "ignore"}
    marks = ((np.array([3, -1, 7, 99, 1], np.int32), np.full(5, -1, np.int32)), np.arange(5) != 1)
    values = (*arguments("info_nce", "plain"), oracle.rows(3, 5, D))

    def function(a, b, scale, extra):
        return info_nce(a, b, scale, PairOptions(extra_b=Rows(extra, *marks), **options))

    mesh = MESHES[8].build()
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(function, (0, 1, 2, 3)))(*on_mesh(mesh, *values))
    want = oracle.value_and_derivatives(
        lambda *v: oracle.info_nce(*v[:3], extra_b=v[3], marks=(oracle.NO_MARKS, marks), **options), *values
    )
    oracle.assert_close(got, want, SCALE)


def test_batch_not_divisible_by_mesh_is_refused():
    a = oracle.rows(0, B + 1, D)
    with jax.set_mesh(MESHES[8].build()), pytest.raises(ValueError, match="17 rows does not divide over the 8 devices"):
        jax.eval_shape(info_nce, a, a, 1.0)


def compiled(function, mesh, count, width=8, block_size=None):
    row = jax.ShapeDtypeStruct((count, width), jnp.float32, sharding=NamedSharding(mesh, ROWS))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, jax.P()))
    count_scalars = 1 if function is info_nce else 2
    with jax.set_mesh(mesh):
        step = functools.partial(function, options=PairOptions(block_size=block_size))
        gradient = jax.jit(jax.value_and_grad(step, argnums=range(2 + count_scalars)))
        return gradient.lower(row, row, *[scalar] * count_scalars).compile()


@pytest.mark.parametrize("function", [info_nce, pairwise_sigmoid])
def test_memory_is_linear_in_batch_size(function):
    """Require at most four times the memory for four times the batch, at the same number of logits per block."""
    mesh = MESHES[1].build(jax.devices()[:1])
    sizes = []
    for count in (8192, 32768):
        memory = compiled(function, mesh, count, block_size=2**18 // count).memory_analysis()
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] < 4.1 * sizes[0] < 4.1 * 0.02 * 4 * 8192**2


@pytest.mark.parametrize(
    ("function", "plain"), [(info_nce, plain_info_nce), (pairwise_sigmoid, plain_pairwise_sigmoid)]
)
def test_default_block_size_keeps_memory_low(function, plain):
    """Require at most 3% of the plain loss at B = 16,384, and less than 1 GiB at 131,072; D = 256."""
    values = [jax.ShapeDtypeStruct((), jnp.float32)] * (1 if function is info_nce else 2)

    def temporaries(loss, count):
        row = jax.ShapeDtypeStruct((count, 256), jnp.float32)
        gradient = jax.jit(jax.value_and_grad(loss, argnums=range(2 + len(values))))
        return gradient.lower(row, row, *values).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(function, 16_384) <= 0.03 * temporaries(plain, 16_384)
    assert temporaries(function, 131_072) < 2**30


@pytest.mark.parametrize("way", ["gather", "ring"])
def test_more_devices_need_less_memory_per_device(way, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    totals = []
    for count in (1, 2, 4, 8):
        memory = compiled(info_nce, Mesh().build(jax.devices()[:count]), 2048, 64).memory_analysis()
        totals.append(memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes)
    assert totals == sorted(totals, reverse=True), totals


@pytest.mark.parametrize(("way", "collective"), [("gather", "all-gather"), ("ring", "collective-permute")])
def test_size_chooses_gather_or_ring(way, collective, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 64 * 8 * 4 if way == "gather" else 64 * 8 * 4 - 1)
    text = compiled(info_nce, MESHES[8].build(), 64).as_text()
    assert collective in text
    assert {"all-gather": "collective-permute", "collective-permute": "all-gather"}[collective] not in text
