import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.contrastive import info_nce, plain_info_nce
from jaxrep.losses.pairwise.scan import Rows
from tests.helpers import loss_oracle as oracle

B, D, SCALE = 12, 4, 10.0
PICTURES = np.array([0, 1, 2, 0, 4, 5, 6, 7, 0, 9, 10, 11], np.int32)
NAMES = np.array([0, 1, 1, 3, 4, 4, 6, 7, 8, 9, 10, 7], np.int32)
WEIGHTS = np.linspace(0.5, 2, B).astype(np.float32)
HERE, THERE = np.arange(B) % 5 != 0, np.arange(B) % 4 != 1
# Ids and presence of the 3 rows of extra_a and of the 5 of extra_b; an id of -1 is that of no picture.
MARKS = (
    ((np.array([0, 5, 9], np.int32), np.array([-1, -1, 4], np.int32)), None),
    ((np.full(5, -1, np.int32), np.array([1, 4, 7, 4, 99], np.int32)), np.array([1, 1, 0, 0, 1], bool)),
)
IDS = {"ids": (PICTURES, NAMES)}

CASES = {
    "plain": {},
    "sum": {"direction": "sum"},
    "a_to_b": {"direction": "a_to_b", "extra": True},
    "b_to_a": {"direction": "b_to_a", "extra": True, "label_smoothing": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "extra": {"extra": True, "label_smoothing": 0.1},
    "masked": {"positives": "masked", **IDS},
    "masked, smoothing": {"positives": "masked", "label_smoothing": 0.1, "extra": True, **IDS},
    "masked, no other": {"positives": "masked", "label_smoothing": 0.1, "ids": (np.zeros(B, np.int32),)},
    "masked, extra alone": {
        "positives": "masked",
        "label_smoothing": 0.1,
        "extra": True,
        "ids": (np.zeros(B, np.int32),),
    },
    "masked, the other absent": {
        "positives": "masked",
        "label_smoothing": 0.1,
        "ids": (np.array([1] + [0] * (B - 1), np.int32),),
        "present": (np.arange(B) > 0, np.arange(B) > 0),
    },
    "mean of logs": {"positives": "mean_of_logs", "label_smoothing": 0.1, **IDS},
    "log of sum": {"positives": "log_of_sum", "ids": (NAMES,)},
    "weights": {"weights": WEIGHTS},
    "present": {"present": (HERE, THERE), "label_smoothing": 0.1},
    "marked extra": {"positives": "masked", "label_smoothing": 0.1, "extra": True, "marks": MARKS, **IDS},
    "absent extra": {"extra": True, "marks": (oracle.NOTHING, ((), MARKS[1][1]))},
    "everything": {
        "present": (HERE, None),
        "weights": WEIGHTS,
        "positives": "mean_of_logs",
        "label_smoothing": 0.2,
        "extra": True,
        "direction": "sum",
        **IDS,
    },
}


def arguments(extra=False):
    a, b = oracle.rows(0, B, D), oracle.rows(1, B, D)
    return (a, b, np.float32(SCALE), *((oracle.rows(2, 3, D), oracle.rows(3, 5, D)) if extra else ()))


def loss(options, a, b, scale, *extra, marks=(oracle.NOTHING, oracle.NOTHING)):
    extra_a, extra_b = (Rows(x, *mark) for x, mark in zip(extra, marks, strict=True)) if extra else (None, None)
    used = {"extra_a": extra_a, "extra_b": extra_b}
    used.pop({"a_to_b": "extra_a", "b_to_a": "extra_b"}.get(options.get("direction"), ""), None)
    return info_nce(a, b, scale, **used, **options)


@pytest.mark.parametrize("case", CASES)
def test_value_and_derivatives_equal_the_oracle(case):
    options = dict(CASES[case])
    values = arguments(options.pop("extra", False))
    want = oracle.value_and_derivatives(functools.partial(oracle.info_nce, **options), *values)
    marks = {"marks": options.pop("marks")} if "marks" in options else {}
    function = functools.partial(loss, {**options, "block_size": 4}, **marks)
    got = jax.jit(jax.value_and_grad(function, argnums=range(len(values))))(*values)
    oracle.assert_close(got, want, SCALE)
    for x, here in zip(got[1], options.get("present", ()), strict=False):
        assert here is None or not np.any(x[~here]), "an absent row has a derivative"


@pytest.mark.parametrize("block_size", [None, 1, 5])
def test_blocks_of_any_size_give_the_same(block_size):
    want = oracle.value_and_derivatives(oracle.info_nce, *arguments())
    function = functools.partial(loss, {"block_size": block_size})
    oracle.assert_close(jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*arguments()), want, SCALE)


def test_the_plain_form_equals_the_oracle():
    want = oracle.value_and_derivatives(oracle.info_nce, *arguments())
    oracle.assert_close(jax.jit(jax.value_and_grad(plain_info_nce, (0, 1, 2)))(*arguments()), want, SCALE)


def test_what_is_in_an_absent_row_is_not_read():
    a, b, scale = arguments()
    broken = np.where(HERE[:, None], a, np.nan)
    function = jax.jit(jax.value_and_grad(functools.partial(loss, {"present": (HERE, THERE)}), (0, 1, 2)))
    jax.tree.map(np.testing.assert_array_equal, function(broken, b, scale), function(a, b, scale))


def test_no_pair_left_is_no_loss():
    a, b, scale = arguments()
    nobody = np.zeros(B, bool)
    function = functools.partial(loss, {"present": (nobody, THERE)})
    value, slopes = jax.jit(jax.value_and_grad(function, (0, 1, 2)))(a, b, scale)
    assert value == 0
    assert all(not np.any(x) for x in slopes)


def test_a_large_scale_neither_overflows_nor_loses_digits():
    a, b, _ = arguments()
    want = oracle.value_and_derivatives(oracle.info_nce, a, b, 100.0)
    oracle.assert_close(jax.jit(jax.value_and_grad(info_nce, (0, 1, 2)))(a, b, 100.0), want, 100.0)


def test_weights_of_half_precision_are_summed_in_float32():
    a, b, scale = arguments()
    heavy = np.full(B, 6000, np.float16)  # their sum is beyond float16
    half, full = (info_nce(a, b, scale, weights=heavy.astype(kind)) for kind in (np.float16, np.float32))
    np.testing.assert_array_equal(half, full)


def test_no_extra_rows_are_none():
    a, b, scale = arguments()
    for nothing in (b[:0], Rows(b[:0])):
        assert info_nce(a, b, scale, extra_b=nothing) == info_nce(a, b, scale)


def test_weights_have_derivatives_too():
    a, b, scale = arguments()
    want = oracle.value_and_derivatives(lambda w: weighted_oracle(a, b, scale, w), WEIGHTS)
    got = jax.jit(jax.value_and_grad(lambda w: info_nce(a, b, scale, weights=w)))(WEIGHTS)
    oracle.assert_close((got[0], [got[1]]), want, SCALE)


def weighted_oracle(a, b, scale, weights):
    one = [oracle.info_nce(a, b, scale, weights=np.eye(B)[i], present=(np.ones(B, bool),) * 2) for i in range(B)]
    return np.sum(weights * np.array(one)) / np.sum(weights)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"b": np.zeros((B, D + 1), np.float32)}, r"a is \(12, 4\) and b is \(12, 5\)"),
        ({"a": np.zeros((B, D), np.int32)}, r"a is int32\[12, 4\], expected floating-point rows"),
        (
            {"ids": (PICTURES.astype(np.float32),), "positives": "masked"},
            r"ids\[0\] is float32\[12\], expected integers",
        ),
        ({"ids": (PICTURES[:3],), "positives": "masked"}, r"ids\[0\] is int32\[3\], expected integers \[12\]"),
        ({"ids": PICTURES, "positives": "masked"}, "ids is a ndarray, expected a tuple"),
        ({"ids": (PICTURES,)}, "'pair' reads none"),
        ({"positives": "masked"}, "need at least one"),
        ({"positives": "mask"}, "positives is 'mask', expected one of pair, masked"),
        ({"direction": "both"}, "direction is 'both', expected one of mean, sum"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected a share"),
        ({"extra_b": np.zeros((3, D + 1), np.float32)}, "extra_b is 5 wide"),
        ({"extra_b": Rows(np.zeros((3, D)), (NAMES[:3],))}, "extra_b has 1 arrays of ids and the pairs have 0"),
        ({"extra_b": Rows(np.zeros((3, D)), (), THERE)}, r"extra_b.present is bool\[12\], expected booleans \[3\]"),
        ({"weights": np.ones(B, np.int32)}, r"weights is int32\[12\], expected floats"),
        ({"present": (np.ones(B), None)}, r"present\[0\] is float64\[12\], expected booleans"),
        ({"block_size": 0}, "block_size is 0, expected a positive number of rows"),
        ({"a": np.zeros((0, D)), "b": np.zeros((0, D))}, "there are no rows"),
        ({"scale": np.ones(D)}, r"scale is an array of shape \[4\], expected one number"),
        ({"extra_a": np.zeros((3, D)), "direction": "a_to_b"}, "direction='a_to_b' has no use for extra_a"),
        ({"extra_b": np.zeros((3, D)), "direction": "b_to_a"}, "direction='b_to_a' has no use for extra_b"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    a, b, scale = arguments()
    with pytest.raises(ValueError, match=sentence):
        info_nce(**{"a": a, "b": b, "scale": scale, **change})


def test_logits_are_made_at_the_highest_precision():
    text = str(jax.make_jaxpr(jax.grad(info_nce, (0, 1, 2)))(*map(jnp.asarray, arguments())))
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0
