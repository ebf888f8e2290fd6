"""Accuracy of a classifier's own heads, by the definition written out."""

import numpy as np
import pytest

from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.classification import Classification, linear_ranks
from tests.helpers.fake_model import FakeModel, given, pictures


def world(n=50):
    random = np.random.default_rng(0)
    tables = {}
    for name, width in (("classes", 6), ("classes/2", 2), ("classes/4", 4)):
        tables |= {name: random.normal(size=(5, width)), f"{name}/bias": random.normal(size=5)}
    features = random.normal(size=(n, 6)).astype(np.float32)
    labels = random.integers(5, size=n).astype(np.int32)
    return FakeModel(features, {}, **tables), given(image=pictures(range(n)), label=labels), labels


@pytest.mark.parametrize("dims", [(), (2, 4)])
def test_each_head_uses_its_width(dims):
    model, data, labels = world()
    found = Classification(data=data, dims=dims, ks=(1, 3)).run(model)
    for dim in dims or (6,):
        table = f"classes/{dim}" if dims else "classes"
        logits = model.images[:, :dim] @ model.tables[table].T + model.tables[f"{table}/bias"]
        order = np.argsort(-logits, axis=1)
        name = f"classification/{dim}" if dims else "classification"
        right = order[:, 0] == labels
        np.testing.assert_array_equal(found[f"{name}/top1"].values, right)
        assert found[f"{name}/top3"] == np.mean((order[:, :3] == labels[:, None]).any(1))
        expected = np.mean([right[labels == k].mean() for k in range(5)])
        assert found[f"{name}/mean_per_class"] == pytest.approx(expected)


def test_tie_counts_against_the_model_and_errors_are_one_sentence():
    same = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(
        linear_ranks(same, np.array([0, 1, 2]), np.ones((3, 2)), np.array([0, 0, 1.0])), [3, 3, 1]
    )
    with pytest.raises(JaxrepError, match="labels run up to 2, and the head has 2 classes"):
        linear_ranks(same, np.array([0, 1, 2]), np.ones((2, 2)), np.zeros(2))
    model, data, _ = world()
    with pytest.raises(UsageError, match="the model does not emit 'classes/3'"):
        Classification(data=data, dims=(3,)).run(model)
