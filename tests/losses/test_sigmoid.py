import functools

import jax
import numpy as np
import pytest

from jaxrep.losses.pairwise.pairs import PairOptions
from jaxrep.losses.sigmoid import pairwise_sigmoid, plain_pairwise_sigmoid
from tests.helpers import loss_oracle as oracle

B, D, SCALE, BIAS = 12, 4, 10.0, -5.0
PICTURES = np.array([0, 1, 2, 0, 4, 5, 6, 7, 0, 9, 10, 11], np.int32)
NAMES = np.array([0, 1, 1, 3, 4, 4, 6, 7, 8, 9, 10, 7], np.int32)
WEIGHTS = np.linspace(0.5, 2, B).astype(np.float32)
HERE, THERE = np.arange(B) % 5 != 0, np.arange(B) % 4 != 1
# Ids and presence of the 3 rows of extra_a and of the 5 of extra_b; an id of -1 is that of no picture.
MARKS = (
    ((np.array([0, 5, 9], np.int32), np.array([-1, -1, 4], np.int32)), None),
    ((np.full(5, -1, np.int32), np.array([1, 4, 7, 4, 99], np.int32)), np.array([1, 1, 0, 0, 1], bool)),
)

CASES = {
    "plain": {},
    "extra": {"extra": True},
    "ignore": {"duplicates": "ignore", "ids": (PICTURES, NAMES)},
    "positive": {"duplicates": "positive", "ids": (PICTURES, NAMES)},
    "weights": {"weights": WEIGHTS},
    "present": {"present": (HERE, THERE)},
    "marked extra": {"duplicates": "ignore", "ids": (PICTURES, NAMES), "extra": True, "marks": MARKS},
    "everything": {
        "duplicates": "positive",
        "ids": (NAMES,),
        "weights": WEIGHTS,
        "present": (HERE, THERE),
        "extra": True,
    },
}


def arguments(extra=False):
    pairs = oracle.rows(0, B, D), oracle.rows(1, B, D), np.float32(SCALE), np.float32(BIAS)
    return (*pairs, *((oracle.rows(2, 3, D), oracle.rows(3, 5, D)) if extra else ()))


loss = functools.partial(oracle.apply, "sigmoid")


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_oracle(case):
    options = dict(CASES[case])
    oracle.assert_equals_loss("sigmoid", options, arguments(options.pop("extra", False)), SCALE)


def test_plain_form_equals_oracle():
    want = oracle.value_and_derivatives(oracle.sigmoid, *arguments())
    oracle.assert_close(jax.jit(jax.value_and_grad(plain_pairwise_sigmoid, (0, 1, 2, 3)))(*arguments()), want, SCALE)


def test_gradients_of_well_separated_pairs_keep_their_digits():
    """Partners at a logit of +15, others at -15: a sigmoid of 3e-7 minus 1, plus 1, would have no digit left."""
    a = np.eye(4, dtype=np.float32)
    want = oracle.value_and_derivatives(oracle.sigmoid, a, a, 30.0, -15.0)
    oracle.assert_close(jax.jit(jax.value_and_grad(pairwise_sigmoid, (0, 1, 2, 3)))(a, a, 30.0, -15.0), want, 30.0)


def test_values_of_absent_rows_are_not_read():
    a, b, scale, bias = arguments()
    broken = np.where(HERE[:, None], a, np.nan)
    function = jax.jit(jax.value_and_grad(functools.partial(loss, {"present": (HERE, THERE)}), (0, 1, 2, 3)))
    jax.tree.map(np.testing.assert_array_equal, function(broken, b, scale, bias), function(a, b, scale, bias))


def test_loss_without_pairs_is_zero():
    a, b, scale, bias = arguments()
    function = functools.partial(loss, {"present": (HERE, ~HERE)})
    value, gradients = jax.jit(jax.value_and_grad(function, (0, 1, 2, 3)))(a, b, scale, bias)
    assert value == 0
    assert all(not np.any(x) for x in gradients)


def test_duplicates_need_ids():
    with pytest.raises(ValueError, match="'ignore' and 'positive' need at least one"):
        pairwise_sigmoid(*arguments(), PairOptions(duplicates="ignore"))
