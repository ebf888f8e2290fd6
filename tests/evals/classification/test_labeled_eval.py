"""Labeled images: any model output or the pixels as features, and errors in one sentence."""

import numpy as np
import pytest

from experiments import common
from experiments.evaluation import emoji
from experiments.image_text import mrl
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.classification import Classification
from jaxrep.evals.classification.clustering import Clustering
from jaxrep.evals.classification.description import DescriptionClassification
from jaxrep.evals.classification.few_shot import FewShot
from jaxrep.evals.classification.frechet_mean import FrechetMean
from jaxrep.evals.classification.knn import Knn
from jaxrep.evals.classification.labeled_eval import FittedEval, LabeledEval
from jaxrep.evals.classification.linear_probe import LinearProbe
from jaxrep.evals.classification.nearest_mean import NearestMean
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.embed import embed_rows, embed_texts
from jaxrep.evals.retrieval.same_class import SameClass
from jaxrep.evals.retrieval.utilization import Utilization
from tests.helpers.fake_model import FakeModel, given, pictures, unit

RAW = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 12.0]], np.float32)
MODEL = FakeModel(unit(RAW), {}, **{"image/pooled": RAW, "image/tokens": np.ones((3, 4, 2), np.float32)})
IMAGES = pictures([0, 1, 2])


def of(labels, classes=None):
    return given(classes and {"label": classes}, image=IMAGES[: len(labels)], label=np.array(labels, np.int32))


def test_any_output_raw_or_normalized():
    examples = of([0, 1, 1]).open()
    raw, _ = embed_rows(MODEL, examples, "image", ("image/pooled",), unit=False)
    np.testing.assert_array_equal(raw, RAW)
    for output in ("", "image/pooled"):
        np.testing.assert_allclose(embed_rows(MODEL, examples, "image", (output,), unit=True)[0], unit(RAW), rtol=1e-6)


def test_pixels_as_features():
    found, _ = embed_rows(MODEL, of([0, 1, 1]).open(), "image", ("pixels",), unit=False)
    np.testing.assert_array_equal(found, IMAGES.reshape(3, 12).astype(np.float32) / 255)
    scaled, _ = embed_rows(MODEL, of([0, 1, 1]).open(), "image", ("pixels",), unit=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), [0, 1, 1], atol=1e-6)  # black stays zero
    assert Clustering(data=of([0, 1]), output="pixels").reads == ()
    assert Clustering(data=of([0, 1]), output="image/pooled").reads == ("image/pooled",)


def error_of(run, error=JaxrepError):
    with pytest.raises(error) as raised:
        run()
    return str(raised.value)


def test_unmeasurable_data_is_one_sentence():
    empty, two = of([]), of([0, 1])
    assert error_of(lambda: ZeroShot(data=empty, classes=("a",)).run(MODEL)) == "zeroshot: data holds no example"
    assert error_of(lambda: Knn(train=empty, data=two).run(MODEL)) == "knn: train holds no example"
    assert error_of(lambda: Knn(train=of([0, -1]), data=two).run(MODEL)) == (
        "knn: 'label' of example 1 is -1, and there are 1 classes"
    )
    assert error_of(lambda: NearestMean(train=two, data=of([0, 3], ("a", "b"))).run(MODEL)) == (
        "nearest_mean: 'label' of example 1 is 3, and there are 2 names"
    )
    assert error_of(lambda: Knn(train=two, data=two).run(MODEL)) == (
        "knn: 20 neighbors need as many images; train has 2"
    )
    assert error_of(lambda: Clustering(data=two, clusters=3).run(MODEL)) == (
        "clustering: 3 clusters need as many images, and there are 2"
    )


def test_class_names_of_train_and_data_must_agree():
    run = lambda train: Knn(train=of([0, 1], train), data=of([0, 1], ("cat", "dog")), neighbors=(1,)).run(MODEL)  # noqa: E731
    assert run(("cat", "dog"))["knn/1/top1"] == 1
    assert error_of(lambda: run(("cat", "cow"))).endswith(
        "means different classes: 1 is 'cow' in train and 'dog' in data"
    )
    assert error_of(lambda: run(("cat", "dog", "elk"))).endswith(
        "means different classes: 2 is 'elk' in train and None in data"
    )


ONE_CLASS = of([1, 1, 1], ("dog", "cat"))
TWO_CLASSES = of([0, 1, 1], ("dog", "cat"))


@pytest.mark.parametrize(
    ("evaluation", "part"),
    [
        (ZeroShot(data=ONE_CLASS), "data"),
        (DescriptionClassification(data=ONE_CLASS, descriptors={"dog": ("legs",), "cat": ("ears",)}), "data"),
        (FrechetMean(data=ONE_CLASS), "data"),
        (Classification(data=ONE_CLASS), "data"),
        (Clustering(data=ONE_CLASS), "data"),
        (SameClass(data=ONE_CLASS), "data"),
        (Knn(train=TWO_CLASSES, data=ONE_CLASS), "data"),
        (Knn(train=ONE_CLASS, data=TWO_CLASSES), "train"),
        (LinearProbe(train=ONE_CLASS, data=TWO_CLASSES), "train"),
        (FewShot(train=TWO_CLASSES, data=ONE_CLASS), "data"),
        (NearestMean(train=TWO_CLASSES, data=ONE_CLASS), "data"),
    ],
)
def test_images_of_one_class_are_refused(evaluation, part):
    assert error_of(lambda: evaluation.run(MODEL)) == (
        f"{evaluation.name}: all 3 images of {part} (Given) have the 'label' 1, 'cat', and two classes or more are "
        "expected: choose another split or part of the source, or another label"
    )


def test_utilization_takes_images_of_one_class():
    assert Utilization(train=TWO_CLASSES, data=ONE_CLASS).run(MODEL)["utilization"] == pytest.approx(0, abs=1e-6)


def test_emoji_evaluations_hold_several_classes():
    assert len(np.unique(OpenMoji(image_size=48, part="test").open().column("group"))) == 1
    measured = [*emoji.evals, *common.probes(), *mrl.tiny.evals]
    sources = {
        (part, each.label)
        for each in measured
        if isinstance(each, LabeledEval)
        for part in (each.data, *((each.train,) if isinstance(each, FittedEval) else ()))
    }
    assert len(sources) > 4
    assert min(len(np.unique(part.open().column(label))) for part, label in sources) >= 9


def test_missing_tower_or_pooled_output_is_one_sentence():
    examples = given(photo=IMAGES, picture=IMAGES).open()
    assert error_of(lambda: embed_rows(MODEL, examples, "picture", unit=True), UsageError) == (
        "the model has no tower that reads 'picture'; there are: image, photo, text, title"
    )
    assert "no tower that reads 'caption'" in error_of(lambda: embed_texts(MODEL, ["a"], "caption"), UsageError)
    assert error_of(lambda: embed_rows(MODEL, of([0, 1]).open(), "image", ("image/tokens",), unit=True)) == (
        "'image/tokens' is an array of shape [4, 2] per row, and evaluations compare vectors: choose a pooled output, "
        "as image"
    )
