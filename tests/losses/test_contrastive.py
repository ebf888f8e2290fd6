import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.contrastive import info_nce, plain_info_nce
from jaxrep.losses.pairwise.pairs import PairOptions
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
    "ignore": {"duplicates": "ignore", **IDS},
    "ignore, smoothing": {"duplicates": "ignore", "label_smoothing": 0.1, "extra": True, **IDS},
    "ignore, no other": {"duplicates": "ignore", "label_smoothing": 0.1, "ids": (np.zeros(B, np.int32),)},
    "ignore, extra alone": {
        "duplicates": "ignore",
        "label_smoothing": 0.1,
        "extra": True,
        "ids": (np.zeros(B, np.int32),),
    },
    "ignore, the other absent": {
        "duplicates": "ignore",
        "label_smoothing": 0.1,
        "ids": (np.array([1] + [0] * (B - 1), np.int32),),
        "present": (np.arange(B) > 0, np.arange(B) > 0),
    },
    "supcon": {"duplicates": "supcon", "label_smoothing": 0.1, **IDS},
    "mil_nce": {"duplicates": "mil_nce", "ids": (NAMES,)},
    "weights": {"weights": WEIGHTS},
    "present": {"present": (HERE, THERE), "label_smoothing": 0.1},
    "marked extra": {"duplicates": "ignore", "label_smoothing": 0.1, "extra": True, "marks": MARKS, **IDS},
    "absent extra": {"extra": True, "marks": (oracle.NO_MARKS, ((), MARKS[1][1]))},
    "everything": {
        "present": (HERE, None),
        "weights": WEIGHTS,
        "duplicates": "supcon",
        "label_smoothing": 0.2,
        "extra": True,
        "direction": "sum",
        **IDS,
    },
}


def arguments(extra=False):
    a, b = oracle.rows(0, B, D), oracle.rows(1, B, D)
    return (a, b, np.float32(SCALE), *((oracle.rows(2, 3, D), oracle.rows(3, 5, D)) if extra else ()))


loss = functools.partial(oracle.apply, "info_nce")


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_oracle(case):
    options = dict(CASES[case])
    oracle.assert_equals_loss("info_nce", options, arguments(options.pop("extra", False)), SCALE)


@pytest.mark.parametrize("block_size", [None, 1, 5])
def test_block_size_does_not_change_the_loss(block_size):
    want = oracle.value_and_derivatives(oracle.info_nce, *arguments())
    function = functools.partial(loss, {"block_size": block_size})
    oracle.assert_close(jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*arguments()), want, SCALE)


def test_plain_form_equals_oracle():
    want = oracle.value_and_derivatives(oracle.info_nce, *arguments())
    oracle.assert_close(jax.jit(jax.value_and_grad(plain_info_nce, (0, 1, 2)))(*arguments()), want, SCALE)


def test_values_of_absent_rows_are_not_read():
    a, b, scale = arguments()
    broken = np.where(HERE[:, None], a, np.nan)
    function = jax.jit(jax.value_and_grad(functools.partial(loss, {"present": (HERE, THERE)}), (0, 1, 2)))
    jax.tree.map(np.testing.assert_array_equal, function(broken, b, scale), function(a, b, scale))


def test_loss_without_pairs_is_zero():
    a, b, scale = arguments()
    none = np.zeros(B, bool)
    function = functools.partial(loss, {"present": (none, THERE)})
    value, gradients = jax.jit(jax.value_and_grad(function, (0, 1, 2)))(a, b, scale)
    assert value == 0
    assert all(not np.any(x) for x in gradients)


def test_large_logit_scale_neither_overflows_nor_loses_digits():
    a, b, _ = arguments()
    want = oracle.value_and_derivatives(oracle.info_nce, a, b, 100.0)
    oracle.assert_close(jax.jit(jax.value_and_grad(info_nce, (0, 1, 2)))(a, b, 100.0), want, 100.0)


def test_half_precision_weights_are_summed_in_float32():
    a, b, scale = arguments()
    heavy = np.full(B, 6000, np.float16)  # their sum is beyond float16
    half, full = (info_nce(a, b, scale, PairOptions(weights=heavy.astype(kind))) for kind in (np.float16, np.float32))
    np.testing.assert_array_equal(half, full)


def test_empty_extra_rows_are_none():
    a, b, scale = arguments()
    for empty in (b[:0], Rows(b[:0])):
        assert info_nce(a, b, scale, PairOptions(extra_b=empty)) == info_nce(a, b, scale)


def test_gradient_by_weights_equals_oracle():
    a, b, scale = arguments()
    want = oracle.value_and_derivatives(lambda w: weighted_oracle(a, b, scale, w), WEIGHTS)
    got = jax.jit(jax.value_and_grad(lambda w: info_nce(a, b, scale, PairOptions(weights=w))))(WEIGHTS)
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
            {"ids": (PICTURES.astype(np.float32),), "duplicates": "ignore"},
            r"ids\[0\] is float32\[12\], expected integers",
        ),
        ({"ids": (PICTURES[:3],), "duplicates": "ignore"}, r"ids\[0\] is int32\[3\], expected integers \[12\]"),
        ({"ids": PICTURES, "duplicates": "ignore"}, "ids is a ndarray, expected a tuple"),
        ({"ids": (PICTURES,)}, "'negative' reads none"),
        ({"duplicates": "ignore"}, "need at least one"),
        ({"duplicates": "mask"}, "duplicates is 'mask', expected one of negative, ignore"),
        ({"direction": "both"}, "direction is 'both', expected one of mean, sum"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected a share"),
        ({"extra_b": np.zeros((3, D + 1), np.float32)}, "extra_b is 5 wide"),
        ({"extra_b": Rows(np.zeros((3, D)), (NAMES[:3],))}, "extra_b has 1 arrays of ids and the pairs have 0"),
        ({"extra_b": Rows(np.zeros((3, D)), (), THERE)}, r"extra_b.present is bool\[12\], expected booleans \[3\]"),
        ({"weights": np.ones(B, np.int32)}, r"weights is int32\[12\], expected floats"),
        ({"present": (np.ones(B), None)}, r"present\[0\] is float64\[12\], expected booleans"),
        ({"block_size": 0}, "block_size is 0, expected a positive number of rows"),
        ({"a": np.zeros((0, D)), "b": np.zeros((0, D))}, "there are no rows"),
        ({"logit_scale": np.ones(D)}, r"logit_scale is an array of shape \[4\], expected one number"),
        ({"extra_a": np.zeros((3, D)), "direction": "a_to_b"}, "direction='a_to_b' has no use for extra_a"),
        ({"extra_b": np.zeros((3, D)), "direction": "b_to_a"}, "direction='b_to_a' has no use for extra_b"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    values = dict(zip(("a", "b", "logit_scale"), arguments(), strict=True))
    options = PairOptions(**{k: x for k, x in change.items() if k in oracle.OPTIONS})
    with pytest.raises(ValueError, match=sentence):
        info_nce(**{**values, **{k: x for k, x in change.items() if k not in oracle.OPTIONS}}, options=options)


def test_logits_have_highest_precision():
    text = str(jax.make_jaxpr(jax.grad(info_nce, (0, 1, 2)))(*map(jnp.asarray, arguments())))
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0
