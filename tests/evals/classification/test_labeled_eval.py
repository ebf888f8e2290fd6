"""LabeledEval pictures: any output of a model or the pixels, and one sentence on what cannot be measured."""

import numpy as np
import pytest

from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.clustering import Clustering
from jaxrep.evals.classification.knn import Knn
from jaxrep.evals.classification.nearest_mean import NearestMean
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.embed import embed_images, embed_texts
from tests.helpers.fake_model import FakeModel, given, pictures, unit

RAW = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 12.0]], np.float32)
MODEL = FakeModel(unit(RAW), {}, **{"image/pooled": RAW, "image/tokens": np.ones((3, 4, 2), np.float32)})
IMAGES = pictures([0, 1, 2])


def of(labels, classes=None):
    return given(classes and {"label": classes}, image=IMAGES[: len(labels)], label=np.array(labels, np.int32))


def test_any_output_is_taken_raw_or_of_unit_length():
    examples = of([0, 1, 1]).open()
    raw, _ = embed_images(MODEL, examples, "image", output="image/pooled", normalize=False)
    np.testing.assert_array_equal(raw, RAW)
    for output in ("", "image/pooled"):
        np.testing.assert_allclose(embed_images(MODEL, examples, "image", output=output)[0], unit(RAW), rtol=1e-6)


def test_pixels_stand_in_for_features():
    found, _ = embed_images(MODEL, of([0, 1, 1]).open(), "image", output="pixels", normalize=False)
    np.testing.assert_array_equal(found, IMAGES.reshape(3, 12).astype(np.float32) / 255)
    scaled, _ = embed_images(MODEL, of([0, 1, 1]).open(), "image", output="pixels")
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), [0, 1, 1], atol=1e-6)  # black stays zero
    assert Clustering(data=of([0, 1]), output="pixels").reads == ()
    assert Clustering(data=of([0, 1]), output="image/pooled").reads == ("image/pooled",)


def told(run, error=JaxrepError):
    with pytest.raises(error) as raised:
        run()
    return str(raised.value)


def test_what_cannot_be_measured_is_one_sentence():
    empty, two = of([]), of([0, 1])
    assert told(lambda: ZeroShot(data=empty, classes=("a",)).run(MODEL)) == "zeroshot: data holds no example"
    assert told(lambda: Knn(train=empty, data=two).run(MODEL)) == "knn: train holds no example"
    assert told(lambda: Knn(train=of([0, -1]), data=two).run(MODEL)) == (
        "knn: 'label' of example 1 is -1, and there are 1 classes"
    )
    assert told(lambda: NearestMean(train=two, data=of([0, 3], ("a", "b"))).run(MODEL)) == (
        "nearest_mean: 'label' of example 1 is 3, and there are 2 names"
    )
    assert told(lambda: Knn(train=two, data=two).run(MODEL)) == "knn: 20 neighbors are asked for, and train holds 2"
    assert told(lambda: Clustering(data=two, clusters=3).run(MODEL)) == (
        "clustering: 3 clusters are asked for, and there are 2 pictures"
    )


def test_labels_that_mean_another_class_in_train_are_refused():
    run = lambda train: Knn(train=of([0, 1], train), data=of([0, 1], ("cat", "dog")), neighbors=(1,)).run(MODEL)  # noqa: E731
    assert run(("cat", "dog"))["knn/1/top1"] == 1
    assert told(lambda: run(("cat", "cow"))).endswith("the same in both: 1 is 'cow' in train and 'dog' in data")
    assert told(lambda: run(("cat", "dog", "elk"))).endswith("the same in both: 2 is 'elk' in train and None in data")


def test_what_a_model_does_not_have_is_one_sentence():
    examples = given(photo=IMAGES, picture=IMAGES).open()
    assert told(lambda: embed_images(MODEL, examples, "picture"), UsageError) == (
        "the model has no tower that reads 'picture'; there are: image, photo, text, title"
    )
    assert "no tower that reads 'caption'" in told(lambda: embed_texts(MODEL, ["a"], "caption"), UsageError)
    assert told(lambda: embed_images(MODEL, of([0, 1]).open(), "image", output="image/tokens")) == (
        "'image/tokens' is an array of shape [4, 2] a picture, and evaluations compare vectors: take a pooled output, "
        "as image"
    )


def test_values_that_make_no_sense_are_named():
    found = [*Knn(train=of([0]), data=of([0]), label="lable", ks=(), neighbors=(), temperature=0).problems()]
    assert [sentence.split()[0] for sentence in found] == ["ks", "train", "data", "neighbors", "temperature"]
    assert found[1] == "train has no field 'lable'; did you mean label? there are: image, label"
