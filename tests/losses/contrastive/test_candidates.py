"""Compare InfoNCE with other candidates (all 2B rows, a queue, rows of single rows) with NumPy and released code."""

import functools
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxrep.losses.contrastive import info_nce, partner_first
from jaxrep.losses.pairwise import reduce
from jaxrep.losses.pairwise.pairs import PairOptions
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.losses.sigmoid import pairwise_sigmoid
from jaxrep.mesh import ROWS, Mesh
from tests.helpers import loss_oracle as oracle

B, D, M, SCALE = 8, 4, 3, 10.0
LABELS = np.array([0, 1, 1, 2, 0, 1, -1, -1], np.int32)
NAMES = np.array([0, 1, 2, 3, 4, 5, 6, 3], np.int32)
HERE, THERE = np.arange(B) % 5 != 0, np.arange(B) % 4 != 1
PRESENT = np.arange(B * M).reshape(B, M) % 4 > 0
PRESENT[2] = False
SAME = {"same_side": True}
IDS = {"ids": (LABELS, NAMES)}
QUEUE_MARKS = (oracle.NO_MARKS, ((np.array([1, -1, 2, 0, -1], np.int32),), np.array([1, 1, 1, 0, 1], bool)))

CASES = {
    "same side": SAME,
    "same side, one direction": {**SAME, "direction": "b_to_a"},
    "same side, sum": {**SAME, "direction": "sum", "label_smoothing": 0.1},
    "same side, ignore": {**SAME, "duplicates": "ignore", "label_smoothing": 0.1, **IDS},
    "same side, supcon": {**SAME, "duplicates": "supcon", **IDS},
    "same side, supcon, smoothing": {**SAME, "duplicates": "supcon", "label_smoothing": 0.2, **IDS},
    "same side, mil_nce": {**SAME, "duplicates": "mil_nce", "ids": (LABELS,)},
    "same side, extra": {**SAME, "extra": True, "label_smoothing": 0.1, "weights": np.linspace(0.5, 2, B)},
    "same side, present": {**SAME, "present": (HERE, THERE), "duplicates": "supcon", "ids": (LABELS,)},
    "decoupled": {"decoupled": True},
    "decoupled, same side": {**SAME, "decoupled": True},
    "decoupled, supcon": {**SAME, "decoupled": True, "duplicates": "supcon", **IDS},
    "decoupled, ignore": {"decoupled": True, "duplicates": "ignore", "ids": (LABELS,)},
    "decoupled, nothing left": {"decoupled": True, "duplicates": "supcon", "ids": (np.array([0] * B, np.int32),)},
    "queue": {"in_batch": False, "extra": True},
    "queue, smoothing": {"in_batch": False, "extra": True, "label_smoothing": 0.1, "direction": "sum"},
    "queue, one direction": {"in_batch": False, "extra": True, "direction": "a_to_b"},
    "queue, decoupled": {"in_batch": False, "extra": True, "decoupled": True},
    "queue, duplicates": {
        "in_batch": False,
        "extra": True,
        "duplicates": "ignore",
        "ids": (LABELS,),
        "marks": QUEUE_MARKS,
        "present": (HERE, None),
    },
    "negative ids": {"duplicates": "supcon", "ids": (LABELS,)},
    "negative ids, ignore": {"duplicates": "ignore", "ids": (LABELS,), "label_smoothing": 0.1},
}


def arguments(extra=False):
    a, b = oracle.rows(0, B, D), oracle.rows(1, B, D)
    return (a, b, np.float32(SCALE), *((oracle.rows(2, 3, D), oracle.rows(3, 5, D)) if extra else ()))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_oracle(case):
    options = dict(CASES[case])
    values = arguments(options.pop("extra", False))
    if "weights" in options:
        options["weights"] = np.float32(options["weights"])
    oracle.assert_equals_loss("info_nce", options, values, SCALE)


def row_rows(seed):
    return oracle.rows(seed, B * M, D).reshape(B, M, D)


@pytest.mark.parametrize("options", [{}, {"in_batch": False}, {"same_side": True}, {"label_smoothing": 0.1}], ids=str)
def test_rows_of_single_rows_equal_oracle(options):
    values = (*arguments(), row_rows(4), row_rows(5))

    def ours(a, b, scale, own_a, own_b):
        own = PairOptions(row_extra_a=own_a, row_extra_b=Rows(own_b, (), PRESENT), block_size=3)
        return info_nce(a, b, scale, own, **options)

    def exact(a, b, scale, own_a, own_b):
        return oracle.info_nce(a, b, scale, row_extra_a=own_a, row_extra_b=Rows(own_b, (), PRESENT), **options)

    got = jax.jit(jax.value_and_grad(ours, range(5)))(*values)
    oracle.assert_close(got, oracle.value_and_derivatives(exact, *values), SCALE)
    assert not np.any(got[1][4][~PRESENT])


def test_sigmoid_on_rows_of_single_rows_equals_oracle():
    values = (*arguments(), np.float32(-3), row_rows(5))

    def ours(a, b, scale, bias, own):
        return pairwise_sigmoid(a, b, scale, bias, PairOptions(row_extra_b=Rows(own, (), PRESENT)))

    def exact(a, b, scale, bias, own):
        return oracle.sigmoid(a, b, scale, bias, row_extra_b=Rows(own, (), PRESENT))

    got = jax.jit(jax.value_and_grad(ours, range(5)))(*values)
    oracle.assert_close(got, oracle.value_and_derivatives(exact, *values), SCALE)


@pytest.mark.parametrize("devices", [1, 8])
def test_share_of_partners_that_come_first_is_counted(devices):
    a, b, queue, own = (
        oracle.rows(0, B, D),
        oracle.rows(0, B, D) + oracle.rows(1, B, D),
        oracle.rows(2, 5, D),
        row_rows(5),
    )
    options = PairOptions(extra_b=queue, row_extra_b=Rows(own, (), PRESENT), present=(HERE, THERE))
    with jax.set_mesh(Mesh(data=devices).build(jax.devices()[:devices])):
        got = jax.jit(lambda: partner_first(a, b, options, direction="a_to_b"))()
    first = [a[i] @ b[i] > max(np.max(queue @ a[i]), *(own[i] @ a[i])[PRESENT[i]], -9) for i in range(B)]
    kept = HERE & THERE
    assert 0 < np.mean(np.array(first)[kept]) < 1
    np.testing.assert_allclose(got, np.mean(np.array(first)[kept]), rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint8, np.uint32])
def test_ids_of_any_integer_type(kind):
    """Negative ids become other numbers, of which a byte holds too few for 200 rows."""
    labels = np.arange(200) % 100 - (2 if np.issubdtype(kind, np.signedinteger) else 0)
    a, b, queue = (oracle.rows(seed, count, 3) for seed, count in ((0, 200), (1, 200), (2, 4)))

    def loss(kinds):
        def of(kind):
            extra = Rows(queue, (np.array([0, 1, 97, 5]).astype(kind),))
            options = PairOptions(ids=(labels.astype(kind),), duplicates="ignore", extra_a=extra, extra_b=extra)
            return info_nce(a, b, 5.0, options, same_side=True)

        return jax.jit(lambda: [of(kind) for kind in kinds])()

    got, want = loss((kind, np.int32))
    np.testing.assert_allclose(got, want, rtol=1e-6)


MESH_CASES = ["same side", "same side, supcon", "decoupled, supcon", "queue"]


WAYS = [(2, "ring"), (8, "gather")]
MORE_WAYS = [(1, "gather"), (8, "ring")]


@pytest.mark.parametrize(
    ("case", "devices", "way"),
    [
        *((case, *way) for case, way in itertools.product(MESH_CASES, WAYS)),
        *(pytest.param(c, *way, marks=pytest.mark.slow) for c, way in itertools.product(MESH_CASES, MORE_WAYS)),
    ],
)
def test_devices_do_not_change_value_or_gradient(case, devices, way, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    options = dict(CASES[case])
    values = (*arguments(options.pop("extra", False)), row_rows(5))

    def ours(*values):
        *values, own = values
        return oracle.apply("info_nce", {**options, "row_extra_b": own}, *values)

    def exact(*values):
        *values, own = values
        return oracle.info_nce(*values, row_extra_b=own, **options)

    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    rows, whole = NamedSharding(mesh, ROWS), NamedSharding(mesh, jax.P())
    placed = [jax.device_put(x, rows if np.shape(x)[:1] == (B,) else whole) for x in values]
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(ours, range(len(values))))(*placed)
    oracle.assert_close(got, oracle.value_and_derivatives(exact, *values), SCALE)


@pytest.mark.parametrize("options", [{"same_side": True}, {"same_side": True, "decoupled": True}], ids=str)
def test_memory_of_all_rows_is_linear_in_the_batch(options):
    sizes = []
    for count in (4096, 16384):
        rows = jax.ShapeDtypeStruct((count, 8), np.float32)
        loss = functools.partial(info_nce, options=PairOptions(block_size=2**17 // count), **options)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(rows, rows, 10.0).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 4.1 * sizes[0] < 4.1 * 0.05 * 4 * 4096**2


def test_supcon_of_classes_of_one_row_is_simclr():
    a, b, scale = arguments()
    apart = (np.arange(B, dtype=np.int32), np.full(B, -1, np.int32))
    supcon = [PairOptions(ids=(ids,), duplicates="supcon") for ids in apart]

    @jax.jit
    def both(a, b):
        def of(*options, decoupled):
            loss = functools.partial(info_nce, same_side=True, decoupled=decoupled)
            return jax.value_and_grad(lambda a, b: loss(a, b, scale, *options), (0, 1))(a, b)

        return [
            ([of(options, decoupled=decoupled) for options in supcon], of(decoupled=decoupled))
            for decoupled in (False, True)
        ]

    for found, want in both(a, b):
        for got in found:
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-7), got, want)


@pytest.mark.parametrize(
    ("options", "choices", "sentence"),
    [
        ({}, {"in_batch": False}, "direction='mean' has none on side a: name a queue in extra_a"),
        ({"extra_b": np.zeros((0, D), np.float32)}, {"in_batch": False, "direction": "a_to_b"}, "none on side b"),
        ({"extra_b": oracle.rows(0, 3, D)}, {"in_batch": False}, "has none on side a"),
        ({}, {"in_batch": False, "same_side": True}, "same_side=True adds rows of the batch"),
        (
            {"extra_b": oracle.rows(0, 3, D), "ids": (LABELS,), "duplicates": "supcon"},
            {"in_batch": False, "direction": "a_to_b"},
            "duplicates='supcon' takes other rows of the batch as targets",
        ),
        ({}, {"decoupled": True, "label_smoothing": 0.1}, "over which label_smoothing would spread it"),
        ({"duplicates": "supcon"}, {"same_side": True}, "need at least one"),
        ({"row_extra_b": row_rows(0)[1:]}, {}, r"row_extra_b is float32\[7, 3, 4\], expected .* rows \[8,M,D\]"),
        ({"row_extra_b": row_rows(0)[..., 1:]}, {}, "row_extra_b is 3 wide and the rows it meets are 4 wide"),
        ({"row_extra_a": Rows(row_rows(0), (LABELS,))}, {}, "row_extra_a has ids"),
        (
            {"row_extra_a": Rows(row_rows(0), (), HERE)},
            {},
            r"row_extra_a.present is bool\[8\], expected booleans \[8, 3",
        ),
        ({"row_extra_a": row_rows(0)}, {"direction": "a_to_b"}, "direction='a_to_b' has no use for row_extra_a"),
        ({"extra_b": oracle.rows(0, 3, D + 1)}, {"in_batch": False, "direction": "a_to_b"}, "extra_b is 5 wide"),
    ],
)
def test_bad_input_is_one_sentence(options, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        info_nce(*arguments(), PairOptions(**options), **choices)
