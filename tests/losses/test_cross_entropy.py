import functools

import jax
import numpy as np
import pytest

from jaxrep.losses.cross_entropy import blockwise_cross_entropy
from tests.helpers import loss_oracle as oracle

B, K, D, SCALE = 10, 7, 4, 10.0
LABELS = np.array([0, 6, 3, -1, 2, 2, 5, -1, 1, 4], np.int32)
WEIGHTS = np.linspace(0.5, 2, B).astype(np.float32)


def arguments():
    return oracle.rows(0, B, D), oracle.rows(1, K, D), np.float32(SCALE)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weights": WEIGHTS}])
def test_value_and_gradient_equal_oracle(options):
    want = oracle.value_and_derivatives(
        lambda x, table, scale: oracle.table_cross_entropy(x, table, scale, LABELS, **options), *arguments()
    )
    function = functools.partial(oracle.mean_cross_entropy, block_size=4, **options)
    got = jax.jit(jax.value_and_grad(lambda x, table, scale: function(x, table, LABELS, scale), (0, 1, 2)))(
        *arguments()
    )
    oracle.assert_close(got, want, SCALE)


def test_losses_per_row_equal_oracle():
    x, table, scale = arguments()
    got = blockwise_cross_entropy(x, table, LABELS, scale)
    assert not np.any(got[LABELS < 0])
    for i in np.flatnonzero(LABELS >= 0):
        want = oracle.table_cross_entropy(x[i : i + 1].astype(float), table.astype(float), scale, LABELS[i : i + 1])
        oracle.assert_close((got[i], []), (want, []), SCALE)


def test_rows_without_label_are_not_read():
    x, table, scale = arguments()
    broken = np.where(LABELS[:, None] < 0, np.nan, x)
    function = jax.jit(jax.value_and_grad(lambda x, table: oracle.mean_cross_entropy(x, table, LABELS, scale), (0, 1)))
    jax.tree.map(np.testing.assert_array_equal, function(broken, table), function(x, table))


def test_label_beyond_table_is_nan():
    x, table, _ = arguments()
    assert np.isnan(oracle.mean_cross_entropy(x, table, np.full(B, K, np.int32)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"table": np.zeros((K, D + 1), np.float32)}, "table is 5 wide and the rows it meets are 4 wide"),
        ({"labels": np.zeros(B, np.float32)}, r"labels is float32\[10\], expected integers"),
        ({"labels": np.zeros(B - 1, np.int32)}, r"labels is int32\[9\], expected integers \[10\]"),
        ({"block_size": -1}, "block_size is -1"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    x, table, _ = arguments()
    with pytest.raises(ValueError, match=sentence):
        blockwise_cross_entropy(**{"x": x, "table": table, "labels": LABELS, **change})
