"""Linear probes against scikit-learn's logistic regression, and the search for the penalty."""

import math

import jax
import numpy as np
import pytest
from sklearn import linear_model

from jaxrep.data.transforms.subsets import few_of_each
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.base import run_evals
from jaxrep.evals.classification.few_shot import FewShot
from jaxrep.evals.classification.linear_probe import LinearProbe
from jaxrep.mesh import Mesh
from jaxrep.metrics import logistic_regression
from jaxrep.metrics.logistic_regression import LogisticRegression, search_l2
from tests.helpers.fake_model import FakeModel, given, pictures

CLASSES, WIDTH = 4, 6


def made(n=240, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=n)
    features = 2 * (random.normal(size=(CLASSES, WIDTH))[labels] + 1.5 * random.normal(size=(n, WIDTH)))
    return features.astype(np.float32), labels


FEATURES, LABELS = made()
TRAIN, TEST = slice(160), slice(160, 240)


def oracle(l2, rows=TRAIN):
    """scikit-learn's minimum in float64; C = 1 / l2, as its loss is a sum over examples as well."""
    return linear_model.LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(
        FEATURES[rows].astype(float), LABELS[rows]
    )


@pytest.mark.parametrize("block", [64, 4096])
def test_fit_equals_scikit_learn_at_every_strength(monkeypatch, block):
    monkeypatch.setattr(logistic_regression, "BLOCK", block)
    ours = LogisticRegression(FEATURES[TRAIN], LABELS[TRAIN], CLASSES)
    for l2 in (1e4, 10.0, 0.1, 1e-3):
        found, expected = ours.fit(l2), oracle(l2)
        logits = FEATURES[TEST] @ found.weights.T + found.bias
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        # Gradients end at 1e-5, and a flat minimum is that much wider.
        np.testing.assert_allclose(p, expected.predict_proba(FEATURES[TEST]), atol=2e-3)
        np.testing.assert_allclose(found.weights - found.weights.mean(0), expected.coef_, atol=1e-2)


def test_objective_gradient():
    random = np.random.default_rng(0)
    ours = LogisticRegression(FEATURES[TRAIN], LABELS[TRAIN], CLASSES)
    table = random.normal(size=(CLASSES, WIDTH + 1)).astype(np.float32)
    value, gradient = logistic_regression._objective(table, *ours._blocks, 0.3, 1 / 160)
    seen = np.asarray(ours._blocks[0], float).reshape(-1, WIDTH + 1)[:160, :-1]
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    assert seen.var(0).mean() == pytest.approx(1, rel=1e-5)
    logits = seen @ table[:, :-1].T.astype(float) + table[:, -1]
    log = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = -log[np.arange(160), LABELS[TRAIN]].mean() + 0.15 * (table[:, :-1].astype(float) ** 2).sum()
    assert float(value) == pytest.approx(expected, rel=1e-6)
    error = (np.exp(log) - np.eye(CLASSES)[LABELS[TRAIN]]) / 160
    weights = error.T @ seen + 0.3 * table[:, :-1]
    np.testing.assert_allclose(gradient, np.column_stack([weights, error.sum(0)]), atol=1e-5)  # float32


@pytest.mark.parametrize("best", [-48, -47, -16, 0, 13, 35, 48])
def test_search_finds_the_best_of_97_strengths(best):
    tried = []

    def score(l2):
        tried.append(l2)
        return -abs(math.log10(l2) * 8 - best)

    assert search_l2(score) == pytest.approx(10 ** (best / 8))
    assert len(tried) <= 7 + 2 * 4 and tried[0] == pytest.approx(1e6)
    places = np.log10(tried) * 8
    np.testing.assert_allclose(places, places.round(), atol=1e-9)


def test_search_prefers_the_stronger_of_equal_penalties():
    assert search_l2(lambda l2: 1.0) == pytest.approx(1e6)
    assert search_l2(lambda l2: float(l2 <= 1)) == pytest.approx(1)


def sources(cut):
    return given(image=pictures(range(240))[cut], label=LABELS[cut].astype(np.int32))


def test_probe_equals_scikit_learn_on_all_of_train_with_the_chosen_penalty():
    found = LinearProbe(train=sources(TRAIN), data=sources(TEST), ks=(1, 2)).run(FakeModel(FEATURES, {}))
    votes = oracle(found["probe/l2"]).predict_proba(FEATURES[TEST])
    order = np.argsort(-votes, axis=1)
    right = order[:, 0] == LABELS[TEST]
    np.testing.assert_array_equal(found["probe/top1"].values, right)
    assert found["probe/top2"] == np.mean((order[:, :2] == LABELS[TEST][:, None]).any(1))
    assert found["probe/mean_per_class"] == pytest.approx(np.mean([right[LABELS[TEST] == k].mean() for k in range(4)]))
    assert 0.5 < right.mean() < 1


def test_penalty_is_chosen_on_held_out_images():
    random = np.random.default_rng(0)
    features = np.concatenate([FEATURES, random.normal(size=(240, 60))], axis=1).astype(
        np.float32
    )  # much to overfit to
    probe = LinearProbe(train=sources(TRAIN), data=sources(TEST))
    chosen = probe.run(FakeModel(features, {}))
    weakest = LogisticRegression(features[TRAIN], LABELS[TRAIN], CLASSES).fit(1e-6)
    right = (features[TEST] @ weakest.weights.T + weakest.bias).argmax(1) == LABELS[TEST]
    assert chosen["probe/l2"] > 0.1 and chosen["probe/top1"] > right.mean()
    with pytest.raises(JaxrepError, match=r"probe: train holds 2 images, too few to hold out a fraction of 0\.2"):
        LinearProbe(train=sources(slice(2)), data=sources(TEST)).run(FakeModel(features, {}))


@pytest.mark.parametrize("sizes", [[1] * 100, [7] * 20, [1, 2, 3, 30, 4, 5, 6, 7, 8], [50, 50, 50, 50, 50, 1]])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_are_held_out_whole(sizes, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    probe = LinearProbe(train=sources(TRAIN), data=sources(TEST), hold_out_by="concept", seed=seed)
    held_out, kept = probe._held_out(groups)
    np.testing.assert_array_equal(np.sort([*held_out, *kept]), np.arange(len(groups)))
    assert not set(groups[held_out]) & set(groups[kept])
    assert abs(len(held_out) - 0.2 * len(groups)) <= max(sizes) / 2 + 0.5


def test_images_alone_are_held_out_by_a_permutation():
    held_out, kept = LinearProbe(train=sources(TRAIN), data=sources(TEST), seed=3)._held_out(np.arange(160))
    np.testing.assert_array_equal([*held_out, *kept], np.random.default_rng(3).permutation(160))
    assert len(held_out) == 32


def variants(columns=("concept",)):
    """Sixty drawings in four variants each: features tell a drawing, and only faintly its class."""
    random = np.random.default_rng(0)
    concept = np.repeat(np.arange(60), 4)
    labels = (concept % 3).astype(np.int32)
    drawings = 3 * random.normal(size=(60, 80))
    features = drawings[concept] + 0.1 * random.normal(size=(240, 80)) + np.eye(80)[labels]
    data = given(image=pictures(range(240)), label=labels, **dict.fromkeys(columns, concept.astype(np.int32)))
    return FakeModel(features.astype(np.float32), {}), data


def test_penalty_is_chosen_on_other_groups():
    model, data = variants()
    alone, by_concept = (
        LinearProbe(train=data, data=data, hold_out_by=column, max_iterations=50).run(model)["probe/l2"]
        for column in ("", "concept")
    )
    # A variant of each held-out drawing is among the kept ones, so a weak penalty, which learns drawings, seems best.
    assert by_concept > 10 * alone


def test_column_of_groups_is_checked():
    model, data = variants()
    with pytest.raises(UsageError, match=r"^probe: train \(Given\) has no column 'concept'"):
        run_evals((LinearProbe(train=variants(())[1], data=data, hold_out_by="concept"),), model)
    assert not [*LinearProbe(train=data, data=variants(())[1], hold_out_by="concept").problems()]
    with pytest.raises(JaxrepError, match=r"^probe: train holds 240 images in 3 groups of 'label', too few to"):
        LinearProbe(train=data, data=data, hold_out_by="label", validation=0.1).run(model)


def test_fit_is_equal_under_a_mesh():
    alone = LogisticRegression(FEATURES[TRAIN], LABELS[TRAIN], CLASSES).fit(1.0)
    with jax.set_mesh(Mesh().build()):
        within = LogisticRegression(FEATURES[TRAIN], LABELS[TRAIN], CLASSES).fit(1.0)
    np.testing.assert_allclose(within.weights, alone.weights, atol=1e-5)


def test_few_shot_is_the_mean_over_draws():
    model = FakeModel(FEATURES, {})
    task = FewShot(train=sources(TRAIN), data=sources(TEST), shots=(2, 8), draws=3, l2=1.0, normalize=False, ks=(1,))
    found = task.run(model)
    for shots in (2, 8):
        right = []
        for i in range(3):
            rows = few_of_each(LABELS[TRAIN], shots, np.random.default_rng((0, shots, i)))
            np.testing.assert_array_equal(np.bincount(LABELS[rows]), [shots] * CLASSES)
            right.append(oracle(1.0, rows).predict(FEATURES[TEST]) == LABELS[TEST])
        assert found[f"few_shot/{shots}/top1"] == pytest.approx(np.mean(right))
        assert found[f"few_shot/{shots}/spread"] == pytest.approx(np.mean(right, axis=1).std())
        np.testing.assert_allclose(found[f"few_shot/{shots}/top1"].values, np.mean(right, axis=0))
    assert found["few_shot/2/top1"] < found["few_shot/8/top1"]


def test_small_class_gives_all_its_images():
    rows = few_of_each(np.array([3, 0, 3, 3, 1]), 2, np.random.default_rng(0))
    assert len(rows) == 4 and len(set(rows)) == 4 and {1, 4} < set(rows.tolist())
