"""Compute the losses row by row in NumPy, and their derivatives by the complex step, both in float64.

The complex step, Im f(x + ih) / h, has no cancellation: with h = 1e-30 a derivative is as exact as the value. So
oracles consist of analytic functions only, and take no maxima out of their exponentials (float64 does not need it).
"""

import dataclasses
import functools

import jax
import numpy as np

from jaxrep import losses
from jaxrep.losses import PairOptions, Rows


def rows(seed, count, width):
    """Return normalized float32 rows."""
    x = np.random.default_rng(seed).normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def duplicate(ids, i, j):
    """Return whether two rows are duplicates; a negative id is that of no other row."""
    return any(array[i] == array[j] >= 0 for array in ids)


def _one_direction(
    queries, keys, extra, marks, own, own_present, scale, smoothing, ids, duplicates, weights, sources, present
):
    """Sum the losses of the queries.

    ``present``: of the queries, of the keys; ``marks``: of the extra rows; ``own``: the rows [B,M,D] of single queries;
    ``sources``: the options in_batch, same_side and decoupled.
    """
    in_batch, same_side, decoupled = sources
    total = 0.0
    pairs = [i for i in range(len(queries)) if present[0][i] and present[1][i]]
    for i in pairs:
        # (row, whether it is a target), in one list for both sides
        met = [(keys[j], j == i or duplicate(ids, i, j), j == i) for j in range(len(keys)) if present[1][j]]
        if same_side:
            met += [(x, duplicate(ids, i, j), False) for j, x in enumerate(queries) if j != i and present[0][j]]
        if not in_batch:
            met = [entry for entry in met if entry[2]]
        if duplicates == "ignore":
            met = [entry for entry in met if entry[2] or not entry[1]]
        targets = [partner or (duplicates in ("supcon", "mil_nce") and same) for _, same, partner in met]
        candidates = [x for x, same, partner in met if not (decoupled and (partner or same))]
        candidates += [*extra[_met(marks, ids, i, len(extra))], *own[i][own_present[i]]]
        if decoupled and not candidates:
            continue
        logits = scale * np.stack(candidates) @ queries[i]
        lse = np.log(np.sum(np.exp(logits)))
        right = scale * np.stack([x for (x, *_), here in zip(met, targets, strict=True) if here]) @ queries[i] - lse
        target = np.log(np.exp(right).sum()) if duplicates == "mil_nce" else right.mean()
        total = total - weights[i] * ((1 - smoothing) * target + smoothing * (logits.mean() - lse))
    return total / weights[pairs].sum() if pairs else total


def _met(marks, ids, i, count):
    """Return which extra rows a row meets: present ones that are no duplicates. ``marks``: their (ids, present)."""
    extra_ids, present = marks
    present = np.ones(count, bool) if present is None else present
    same = [any(x[j] == y[i] >= 0 for x, y in zip(extra_ids, ids, strict=False)) for j in range(count)]
    return present & ~np.array(same, bool)


NO_MARKS = ((), None)


LOSSES = {"info_nce": (losses.info_nce, 1), "sigmoid": (losses.pairwise_sigmoid, 2)}
OPTIONS = {field.name for field in dataclasses.fields(PairOptions)}


def apply(name, options, a, b, *values, marks=(NO_MARKS, NO_MARKS)):
    """Compute the library's loss with the arguments of its oracle: a, b, scalars, extra_a, extra_b, and options."""
    loss, scalars = LOSSES[name]
    extras = [Rows(x, *mark) if len(x) else x for x, mark in zip(values[scalars:], marks, strict=False)]
    unused = {"a_to_b": "extra_a", "b_to_a": "extra_b"}.get(options.get("direction"))
    extras = {k: x for k, x in zip(("extra_a", "extra_b"), extras, strict=False) if k != unused and len(x)}
    pair_options = PairOptions(**extras, **{k: v for k, v in options.items() if k in OPTIONS})
    return loss(a, b, *values[:scalars], pair_options, **{k: v for k, v in options.items() if k not in OPTIONS})


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
    duplicates="negative",
    weights=None,
    present=(None, None),
    marks=(NO_MARKS, NO_MARKS),
    row_extra_a=None,
    row_extra_b=None,
    in_batch=True,
    same_side=False,
    decoupled=False,
):
    """Return the loss; ``marks``: ids and presence of the rows of extra_a and of extra_b."""
    weights, present = _defaults(len(a), weights, present)
    extra_a, extra_b = (np.zeros((0, a.shape[1])) if x is None else x for x in (extra_a, extra_b))
    own_a, own_b = (_own(x, *a.shape) for x in (row_extra_a, row_extra_b))
    options = (scale, label_smoothing, ids, duplicates, weights, (in_batch, same_side, decoupled))
    a_to_b = _one_direction(a, b, extra_b, marks[1], *own_b, *options, present)
    b_to_a = _one_direction(b, a, extra_a, marks[0], *own_a, *options, present[::-1])
    return {"mean": (a_to_b + b_to_a) / 2, "sum": a_to_b + b_to_a, "a_to_b": a_to_b, "b_to_a": b_to_a}[direction]


def _own(rows, count, width):
    """Return extra rows of single rows [B,M,D] and their presence [B,M]."""
    x, present = (rows.x, rows.present) if isinstance(rows, Rows) else (rows, None)
    x = np.zeros((count, 0, width)) if x is None else x
    return x, np.ones(x.shape[:2], bool) if present is None else present


def sigmoid(
    a,
    b,
    scale,
    bias,
    extra_a=None,
    extra_b=None,
    *,
    ids=(),
    duplicates="negative",
    weights=None,
    present=(None, None),
    marks=(NO_MARKS, NO_MARKS),
    row_extra_b=None,
):
    weights, present = _defaults(len(a), weights, present)
    extra_a, extra_b = (np.zeros((0, a.shape[1])) if x is None else x for x in (extra_a, extra_b))
    own, own_present = _own(row_extra_b, *a.shape)
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            if not (present[0][i] and present[1][j]) or (duplicates == "ignore" and i != j and duplicate(ids, i, j)):
                continue
            z = 1 if i == j or (duplicates == "positive" and duplicate(ids, i, j)) else -1
            total = total + (weights[i] + weights[j]) / 2 * np.log(1 + np.exp(-z * (scale * a[i] @ b[j] + bias)))
    for i in range(len(a)):
        for query, extra, mark, here in ((a[i], extra_b, marks[1], present[0]), (b[i], extra_a, marks[0], present[1])):
            met = extra[_met(mark, ids, i, len(extra))]
            total = total + here[i] * weights[i] * np.log(1 + np.exp(scale * met @ query + bias)).sum()
    for i in range(len(a)):
        met = own[i][own_present[i]]
        total = total + present[0][i] * weights[i] * np.log(1 + np.exp(scale * met @ a[i] + bias)).sum()
    return total / sum(weights[i] for i in range(len(a)) if present[0][i] and present[1][i])


def mean_cross_entropy(x, table, labels, logit_scale=1.0, *, weights=None, **options):
    """Compute the weighted mean of the library's cross-entropy over rows with a label."""
    weights = np.ones(len(x), np.float32) if weights is None else weights
    per_row = losses.blockwise_cross_entropy(x, table, labels, logit_scale, **options)
    return (per_row * weights).sum() / weights[labels >= 0].sum()


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
    """Return the value, and one array of derivatives per argument."""
    arguments = [np.asarray(x, np.complex128) for x in arguments]
    derivatives = [
        derivative(lambda moved, k=k: function(*arguments[:k], moved, *arguments[k + 1 :]), x)
        for k, x in enumerate(arguments)
    ]
    return function(*arguments).real, derivatives


def derivative(function, x):
    """Return the derivatives of a number by x, by the complex step: as exact as the value."""
    result = np.zeros(np.shape(x))
    for index in np.ndindex(result.shape):
        moved = np.array(x, np.complex128)
        moved[index] += 1e-30j
        result[index] = function(moved).imag / 1e-30
    return result


def assert_equals_loss(name, options, values, scale):
    """Compare value and gradient of the library's loss with the oracle; absent rows have no gradient."""
    options = dict(options)
    want = value_and_derivatives(functools.partial(globals()[name], **options), *values)
    marks = options.pop("marks", (NO_MARKS, NO_MARKS))
    loss = functools.partial(apply, name, {**options, "block_size": 4}, marks=marks)
    got = jax.jit(jax.value_and_grad(loss, argnums=range(len(values))))(*values)
    assert_close(got, want, scale)
    for x, present in zip(got[1], options.get("present", ()), strict=False):
        assert present is None or not np.any(x[~present]), "an absent row has a derivative"


def assert_close(got, want, scale):
    """Compare a float32 loss with the oracle, both as (value, derivatives).

    A logit is as large as ``scale`` and carries a rounding of up to half a unit in the last place, 2**-24 of it; in an
    exponent that is a relative error of what it weighs. Sums of a few dozen terms and a log-sum-exp add some more: 8
    such errors, against the largest number of each array, or 1/16 where parts cancel to less.
    """
    for x, y in zip([got[0], *got[1]], [want[0], *want[1]], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=8 * scale * 2**-24 * max(np.max(np.abs(y)), 1 / 16))
