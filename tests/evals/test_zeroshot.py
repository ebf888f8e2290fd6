"""Zero-shot classification: prompts, ensembles, and strict accuracy."""

import numpy as np
import pytest
from evals.fake import FakeModel, given, pictures, unit

from jaxrep.errors import JaxrepError
from jaxrep.evals.zeroshot import ZeroShot, class_embeddings

NAMES = ("cat", "dog", "bird", "fish")
TEMPLATES = ("a {}.", "my {}!")


def world(n=30, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=n).astype(np.int32)  # no fish
    centres = random.normal(size=(4, 6))
    texts = {
        t.format(name): unit(centres[k] + random.normal(size=6)) for k, name in enumerate(NAMES) for t in TEMPLATES
    }
    return FakeModel(unit(centres[labels] + random.normal(size=(n, 6))), texts), pictures(range(n)), labels


def test_accuracies_equal_the_definition():
    model, images, labels = world()
    data = given({"label": NAMES}, image=images, label=labels)
    found = ZeroShot(data=data, templates=TEMPLATES, ks=(1, 2)).run(model)
    ensemble = unit([sum(model.texts[t.format(name)].astype(np.float64) for t in TEMPLATES) for name in NAMES])
    order = np.argsort(-(model.images @ ensemble.T), axis=1)
    right = order[:, 0] == labels
    expected = {
        "zeroshot/top1": right.mean(),
        "zeroshot/top2": (order[:, :2] == labels[:, None]).any(1).mean(),
        "zeroshot/mean_per_class": np.mean([right[labels == k].mean() for k in range(3)]),
    }
    assert found == pytest.approx(expected)
    assert 0 < found["zeroshot/top1"] < found["zeroshot/top2"] <= 1
    given_names = ZeroShot(data=given(image=images, label=labels), classes=NAMES, templates=TEMPLATES, ks=(1, 2))
    assert given_names.run(model) == found


def test_an_ensemble_is_the_renormalised_mean_of_unit_embeddings():
    model, *_ = world()
    found = class_embeddings(model, NAMES, TEMPLATES)
    for k, name in enumerate(NAMES):
        mean = (model.texts[f"a {name}."] + model.texts[f"my {name}!"]) / 2
        np.testing.assert_allclose(found[k], mean / np.linalg.norm(mean), rtol=1e-6)  # float32
    assert found.dtype == np.float32


def test_ties_count_against_the_model_and_equal_names_are_one_answer():
    model = FakeModel(unit([[1, 0]] * 2), {"crane": unit([1, 0]), "maillot": unit([0, 1]), "bird": unit([1, 0])})
    data = given(image=pictures([0, 1]), label=np.int32([0, 2]))
    twice = ZeroShot(data=data, classes=("crane", "maillot", "crane"), ks=(1,)).run(model)
    assert twice == {"zeroshot/top1": 1.0, "zeroshot/mean_per_class": 1.0}
    tied = ZeroShot(data=data, classes=("crane", "maillot", "bird"), ks=(1, 2)).run(model)
    assert tied == {"zeroshot/top1": 0.0, "zeroshot/top2": 1.0, "zeroshot/mean_per_class": 0.0}


def test_what_cannot_be_measured_is_an_error_that_names_it():
    model, images, labels = world()
    with pytest.raises(JaxrepError, match="does not name the classes of 'label'"):
        ZeroShot(data=given(image=images, label=labels)).run(model)
    with pytest.raises(JaxrepError, match=r"'label' of example \d+ is 2, and there are 2 names"):
        ZeroShot(data=given(image=images, label=labels), classes=("cat", "dog"), templates=TEMPLATES).run(model)
    model.texts["my dog!"] = -model.texts["a dog."]
    with pytest.raises(JaxrepError, match="the class 'dog' is not finite"):
        ZeroShot(data=given(image=images, label=labels), classes=NAMES, templates=TEMPLATES).run(model)


def test_values_that_make_no_sense_are_named():
    _, images, labels = world()
    data = given(image=images, label=labels)
    assert not [*ZeroShot(data=data).problems()]
    found = [*ZeroShot(data=data, label="lable", templates=("a photo",), ks=()).problems()]
    assert [sentence.split()[0] for sentence in found] == ["ks", "a", "the"]
