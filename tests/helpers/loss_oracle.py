"""The losses written out row by row in NumPy, and their derivatives by the complex step, both in float64.

The complex step, Im f(x + ih) / h, has no cancellation: with h = 1e-30 a derivative is as exact as the value. So
oracles are made of analytic functions only, and take no maxima out of their exponentials (float64 does not need it
here).
"""

import numpy as np


def rows(seed, count, width):
    """Normalized float32 rows."""
    x = np.random.default_rng(seed).normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def alike(ids, i, j):
    return any(array[i] == array[j] for array in ids)


def _one_direction(queries, keys, extra, marks, scale, smoothing, ids, positives, weights, present):
    """``present``: of the queries, of the keys; ``marks``: which extra rows are a query's candidates."""
    total = 0.0
    pairs = [i for i in range(len(queries)) if present[0][i] and present[1][i]]
    for i in pairs:
        others = [j for j in range(len(keys)) if present[1][j]]
        if positives == "masked":
            others = [j for j in others if j == i or not alike(ids, i, j)]
        targets = [j == i or (positives in ("mean_of_logs", "log_of_sum") and alike(ids, i, j)) for j in others]
        candidates = np.concatenate([keys[others], extra[_met(marks, ids, i, len(extra))]])
        p = np.exp(scale * candidates @ queries[i])
        p = p / p.sum()
        right = p[: len(others)][np.array(targets)]
        found = np.log(right.sum()) if positives == "log_of_sum" else np.log(right).mean()
        total = total - weights[i] * ((1 - smoothing) * found + smoothing * np.log(p).mean())
    return total / weights[pairs].sum() if pairs else total


def _met(marks, ids, i, count):
    """Which extra rows a row meets: those that are there and not alike. ``marks``: (ids, present) of theirs."""
    own, here = marks
    here = np.ones(count, bool) if here is None else here
    return here & ~np.array([any(x[j] == y[i] for x, y in zip(own, ids, strict=False)) for j in range(count)], bool)


NOTHING = ((), None)


def info_nce(
    a,
    b,
    scale,
    extra_a=None,
    extra_b=None,
    *,
    direction="mean",
    label_smoothing=0.0,
    ids=(),
    positives="pair",
    weights=None,
    present=(None, None),
    marks=(NOTHING, NOTHING),
):
    """``marks``: ids and presence of the rows of extra_a and of extra_b."""
    weights, present = _defaults(len(a), weights, present)
    extra_a, extra_b = (np.zeros((0, a.shape[1])) if x is None else x for x in (extra_a, extra_b))
    options = (scale, label_smoothing, ids, positives, weights)
    a_to_b = _one_direction(a, b, extra_b, marks[1], *options, present)
    b_to_a = _one_direction(b, a, extra_a, marks[0], *options, present[::-1])
    return {"mean": (a_to_b + b_to_a) / 2, "sum": a_to_b + b_to_a, "a_to_b": a_to_b, "b_to_a": b_to_a}[direction]


def sigmoid(
    a,
    b,
    scale,
    bias,
    extra_a=None,
    extra_b=None,
    *,
    ids=(),
    positives="pair",
    weights=None,
    present=(None, None),
    marks=(NOTHING, NOTHING),
):
    weights, present = _defaults(len(a), weights, present)
    extra_a, extra_b = (np.zeros((0, a.shape[1])) if x is None else x for x in (extra_a, extra_b))
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            if not (present[0][i] and present[1][j]) or (positives == "masked" and i != j and alike(ids, i, j)):
                continue
            z = 1 if i == j or (positives == "shared" and alike(ids, i, j)) else -1
            total = total + (weights[i] + weights[j]) / 2 * np.log(1 + np.exp(-z * (scale * a[i] @ b[j] + bias)))
    for i in range(len(a)):
        for query, extra, mark, here in ((a[i], extra_b, marks[1], present[0]), (b[i], extra_a, marks[0], present[1])):
            met = extra[_met(mark, ids, i, len(extra))]
            total = total + here[i] * weights[i] * np.log(1 + np.exp(scale * met @ query + bias)).sum()
    return total / sum(weights[i] for i in range(len(a)) if present[0][i] and present[1][i])


def table_cross_entropy(x, table, scale, labels, *, label_smoothing=0.0, weights=None):
    weights, _ = _defaults(len(x), weights, (None, None))
    total, used = 0.0, [i for i in range(len(x)) if labels[i] >= 0]
    for i in used:
        p = np.exp(scale * table @ x[i])
        log_p = np.log(p / p.sum())
        total = total - weights[i] * ((1 - label_smoothing) * log_p[labels[i]] + label_smoothing * log_p.mean())
    return total / weights[used].sum()


def _defaults(count, weights, present):
    weights = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    return weights, tuple(np.ones(count, bool) if here is None else here for here in present)


def value_and_derivatives(function, *arguments):
    """The value, and one array of derivatives an argument."""
    arguments = [np.asarray(x, np.complex128) for x in arguments]
    derivatives = []
    for k, x in enumerate(arguments):
        d = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            moved = x.copy()
            moved[index] += 1e-30j
            d[index] = function(*arguments[:k], moved, *arguments[k + 1 :]).imag / 1e-30
        derivatives.append(d)
    return function(*arguments).real, derivatives


def assert_close(got, want, scale):
    """Value and derivatives of a float32 loss against the oracle's, both as (value, derivatives).

    A logit is as large as ``scale`` and carries a rounding of up to half a unit in the last place, 2**-24 of it; in an
    exponent that is a relative error of what it weighs. Sums of a few dozen terms and a log-sum-exp add some more: 8
    such errors, against the largest number of each array, or 1/16 where parts cancel to less.
    """
    for x, y in zip([got[0], *got[1]], [want[0], *want[1]], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=8 * scale * 2**-24 * max(np.max(np.abs(y)), 1 / 16))
