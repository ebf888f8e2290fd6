"""Recall of a picture's class among its neighbors, and how far test pictures are from training ones."""

import numpy as np
import pytest

from jaxrep.errors import JaxrepError
from jaxrep.evals.retrieval.same_class import SameClass
from jaxrep.evals.retrieval.utilization import Utilization
from tests.helpers.fake_model import FakeModel, given, pictures, unit

LABELS = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3], np.int32)
EMBEDDED = unit(np.random.default_rng(3).normal(size=(10, 3)))


def test_recall_excludes_the_image_itself():
    found = SameClass(data=given(image=pictures(range(10)), label=LABELS)).run(FakeModel(EMBEDDED, {}))
    for k in (1, 2, 4, 8):
        hits = []
        for i, label in enumerate(LABELS):
            others = [j for j in np.argsort(-(EMBEDDED @ EMBEDDED[i])) if j != i]
            if np.sum(label == LABELS) > 1:
                hits.append(any(LABELS[j] == label for j in others[:k]))
        assert found[f"same_class/r{k}"] == pytest.approx(np.mean(hits))
        assert len(found[f"same_class/r{k}"].values) == 9  # the class of one picture asks nothing


def test_tie_with_another_class_counts_against_the_image():
    same = unit(np.ones((4, 3)))
    labels = np.array([0, 0, 1, 1], np.int32)
    found = SameClass(data=given(image=pictures(range(4)), label=labels), ks=(2, 3)).run(FakeModel(same, {}))
    assert found == {"same_class/r2": 0.0, "same_class/r3": 1.0}


def test_utilization_is_the_squared_distance_to_the_nearest_training_image():
    train = given(image=pictures(range(6)), label=LABELS[:6])
    data = given(image=pictures(range(6, 10)), label=LABELS[6:])
    found = Utilization(train=train, data=data).run(FakeModel(EMBEDDED, {}))
    distances = ((EMBEDDED[6:, None] - EMBEDDED[None, :6]) ** 2).sum(axis=2)
    assert found["utilization"] == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)


def test_classes_of_one_image_each_are_an_error():
    data = given(image=pictures(range(4)), label=np.arange(4, dtype=np.int32))
    with pytest.raises(JaxrepError, match="no two images have the same class"):
        SameClass(data=data).run(FakeModel(EMBEDDED, {}))
