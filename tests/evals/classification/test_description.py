"""Classification by description: the mean over descriptors, and which of them spoke."""

import json

import numpy as np
import pytest

from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.description import DescriptionClassification, read_descriptors
from tests.helpers.fake_model import FakeModel, given, pictures, unit

DESCRIPTORS = {"hen": ("two legs", "a red comb", "feathers"), "cat": ("whiskers", "four legs"), "sun": ("rays",)}
NAMES = tuple(DESCRIPTORS)


def world(n=60):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=n).astype(np.int32)
    centers = random.normal(size=(3, 8))
    texts = {
        f"{name} which has {each}": unit(centers[k] + 1.5 * random.normal(size=8))
        for k, name in enumerate(NAMES)
        for each in DESCRIPTORS[name]
    }
    images = unit(centers[labels] + 2 * random.normal(size=(n, 8)))
    return FakeModel(images, texts), given({"label": NAMES}, image=pictures(range(n)), label=labels), labels


def score(model, image, name):
    """Menon and Vondrick 2023, eq. 1."""
    texts = [model.texts[f"{name} which has {each}"] for each in DESCRIPTORS[name]]
    return sum(float(image.astype(float) @ text.astype(float)) for text in texts) / len(texts)


def test_accuracy_uses_the_mean_over_descriptors():
    model, data, labels = world()
    found = DescriptionClassification(data=data, descriptors=DESCRIPTORS, ks=(1, 2)).run(model)
    scores = np.array([[score(model, image, name) for name in NAMES] for image in model.images])
    order = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(found["description/top1"].values, order[:, 0] == labels)
    np.testing.assert_array_equal(found["description/top2"].values, (order[:, :2] == labels[:, None]).any(1))
    assert 0.4 < found["description/top1"] < 1


def test_explain_sorts_descriptors_by_similarity():
    model, data, _ = world()
    found = DescriptionClassification(data=data, descriptors=DESCRIPTORS).explain(
        model, pictures([5])[0], NAMES, classes=2
    )
    scores = {name: score(model, model.images[5], name) for name in NAMES}
    assert [each.name for each in found] == sorted(scores, key=lambda name: -scores[name])[:2]
    for each in found:
        assert (NAMES[each.label], each.score) == (each.name, pytest.approx(scores[each.name], abs=1e-6))
        similar = dict(each.descriptors)
        assert set(similar) == set(DESCRIPTORS[each.name]) and list(similar.values()) == sorted(similar.values())[::-1]
        for descriptor, value in similar.items():
            text = model.texts[f"{each.name} which has {descriptor}"]
            assert value == pytest.approx(float(text @ model.images[5]), abs=1e-6)


def test_missing_descriptors_are_one_sentence(tmp_path):
    model, data, _ = world()
    with pytest.raises(JaxrepError, match="description: the class 'sun' has no descriptors; there are: hen, cat"):
        DescriptionClassification(data=data, descriptors={name: DESCRIPTORS[name] for name in NAMES[:2]}).run(model)
    wrong = DescriptionClassification(data=data, descriptors={"hen": ()}, template="{name}")
    assert [sentence.split()[0] for sentence in wrong.problems()] == ["template", "descriptors"]
    file = tmp_path / "descriptors.json"
    file.write_text(json.dumps({name: list(each) for name, each in DESCRIPTORS.items()}))
    assert read_descriptors(str(file)) == DESCRIPTORS
    for text in ("[1]", "{", '{"hen": "two legs"}'):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"descriptors\.json"):
            read_descriptors(str(file))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{descriptor}", None),
        ("{name} which has {descriptor}", None),
        ("{name}", "'{name}' does not"),
        ("{} which has {descriptor}", "holds {}"),
        ("{name}, {attribute}: {descriptor}", "holds {attribute}"),
        ("{descriptor}}", "the braces of '{descriptor}}' do not match"),
    ],
)
def test_template_holds_the_descriptor_and_no_other_field(template, end):
    found = [*DescriptionClassification(data=world()[1], descriptors=DESCRIPTORS, template=template).problems()]
    assert found == [] if end is None else found[0].endswith(end)
