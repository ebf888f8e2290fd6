"""Check the GPU kernel through Pallas's interpreter, and its lowering for CUDA, which needs no GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from jaxrep.losses.pairwise import pallas, reduce
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.mesh import AXES, Mesh
from tests.helpers import loss_oracle as oracle

B, D, SCALE, BIAS = 18, 3, 10.0, -5.0
IDS = (np.arange(B, dtype=np.int32) % 17, np.arange(B, dtype=np.int32) // 2)
PRESENT = (np.arange(B) % 5 != 0, np.arange(B) % 4 != 1)
WEIGHTS = np.linspace(0.5, 2, B).astype(np.float32)
CASES = {
    ("info_nce", "extra"): {"label_smoothing": 0.1},
    ("info_nce", "ids"): {"ids": IDS, "duplicates": "supcon", "label_smoothing": 0.1, "present": PRESENT},
    ("info_nce", "same side"): {"same_side": True, "ids": IDS, "duplicates": "supcon", "present": PRESENT},
    ("sigmoid", "extra"): {"weights": WEIGHTS},
    ("sigmoid", "ids"): {"ids": IDS, "duplicates": "positive", "weights": WEIGHTS, "present": PRESENT},
}


@pytest.fixture
def interpreted(monkeypatch):
    """Use the kernel on any platform, in tiles that do not divide the rows."""
    monkeypatch.setattr(pallas, "use_kernel", lambda a, b: True)
    monkeypatch.setattr(pallas, "TILE", 16)


def arguments(name, case):
    scalars = (np.float32(SCALE),) if name == "info_nce" else (np.float32(SCALE), np.float32(BIAS))
    extras = (oracle.rows(2, 3, D), oracle.rows(3, 17, D)) if case == "extra" else ()
    return (oracle.rows(0, B, D), oracle.rows(1, B, D), *scalars, *extras)


def gradient(name, case, options=None):
    options = CASES.get((name, case), {}) if options is None else options

    loss = functools.partial(oracle.apply, name, options)
    return jax.jit(jax.value_and_grad(loss, argnums=range(len(arguments(name, case)))))


@functools.cache
def reference(name, case):
    return oracle.value_and_derivatives(
        functools.partial(getattr(oracle, name), **CASES.get((name, case), {})), *arguments(name, case)
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_value_and_gradient_equal_oracle_and_scan(name, case, interpreted, monkeypatch):
    values = arguments(name, case)
    got = gradient(name, case)(*values)
    oracle.assert_close(got, reference(name, case), SCALE)
    monkeypatch.setattr(pallas, "use_kernel", lambda a, b: False)
    oracle.assert_close(got, gradient(name, case)(*values), SCALE)


@pytest.mark.parametrize(("name", "case", "way"), [("info_nce", "plain", "gather"), ("sigmoid", "plain", "ring")])
def test_value_and_gradient_on_two_devices_equal_oracle(name, case, way, interpreted, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    # The interpreter's loop does not declare over which axes its values vary; the lowering below does not need this.
    monkeypatch.setattr(jax, "shard_map", functools.partial(jax.shard_map, check_vma=False))
    with jax.set_mesh(Mesh(data=2).build(jax.devices()[:2])):
        got = gradient(name, case)(*arguments(name, case))
    oracle.assert_close(got, reference(name, case), SCALE)


def test_products_are_as_exact_as_float32():
    """Check that parts sum to their numbers, bit for bit, and that products are within float32's error bound."""
    x = (np.random.default_rng(0).normal(size=(2, 64, 128)) * np.logspace(-9, 9, 128)).astype(np.float32)
    parts = jax.jit(pallas._split)(x)
    np.testing.assert_array_equal(sum(np.asarray(p, np.float64) for p in parts), x)
    a, b = x[0], x[1, :, ::-1]
    got = jax.jit(lambda a, b: pallas._product(pallas._split(a), pallas._split(b), 1))(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    # Sums of 128 terms in float32, in any order, are off by 128 half units in the last place of the sum of sizes at
    # most; rounding at random gives about their square root.
    assert np.max(np.abs(got - a @ b.T) / (np.abs(a) @ np.abs(b).T)) < 128**0.5 * 2**-24


def devices(platform, count=1):
    device = AbstractDevice("any", None, platform)
    return AbstractMesh((count, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device)


def uses_kernel(platform, rows, others, width):
    with jax.sharding.use_abstract_mesh(devices(platform)):
        return pallas.use_kernel(*(Rows(jax.ShapeDtypeStruct((n, width), jnp.float32)) for n in (rows, others)))


def test_platform_and_shapes_choose_kernel():
    least, most = pallas.MIN_ROWS, pallas.MAX_WIDTH
    assert uses_kernel("gpu", least, least, most)
    assert not uses_kernel("gpu", least, least, most + 1)
    assert not uses_kernel("gpu", least - 1, least, most)
    assert not uses_kernel("gpu", least, least - 1, most)
    assert not any(uses_kernel(platform, least, least, most) for platform in ("cpu", "tpu"))


def lowered(name, mesh, count, width=64, **options):
    """Return the program for CUDA of the value and all derivatives."""
    row, scalar = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((count, width), ()))
    values = (row, row, *[scalar] * (1 if name == "info_nce" else 2))
    with jax.sharding.use_abstract_mesh(mesh):
        return gradient(name, "plain", options).trace(*values).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("name", "count", "way"), [("info_nce", 1, "gather"), ("info_nce", 2, "gather"), ("sigmoid", 2, "ring")]
)
def test_value_and_gradient_lower_for_cuda(name, count, way, monkeypatch):
    """Expect kernels for rows and columns, forward and backward; the sigmoid loss needs no columns forward."""
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**40 if way == "gather" else 0)
    text = lowered(name, devices("gpu", count), pallas.MIN_ROWS * count)
    assert text.count("@__gpu$xla.gpu.triton") == (4 if name == "info_nce" else 3)
    assert "stablehlo.dot_general" not in text


def test_every_option_lowers_for_cuda():
    many = np.resize(IDS[0], pallas.MIN_ROWS + 1)
    options = {"ids": (many,), "duplicates": "supcon", "present": (many > 3, many > 5), "label_smoothing": 0.1}
    text = lowered("info_nce", devices("gpu"), pallas.MIN_ROWS + 1, width=50, **options)
    # Log-sum-exp, sum of alike ones, count of alike ones (which has no derivative), in both directions.
    assert text.count("@__gpu$xla.gpu.triton") == 2 * (2 + 2 + 1)
    assert "stablehlo.dot_general" not in text


def test_few_or_wide_rows_lower_to_scan():
    text = lowered("info_nce", devices("gpu"), 2048, pallas.MAX_WIDTH + 1)
    assert "triton" not in text
    assert "stablehlo.dot_general" in text
