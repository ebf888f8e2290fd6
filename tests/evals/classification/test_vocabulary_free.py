"""Classification by words of retrieved captions."""

import numpy as np
import pytest
from scipy.special import softmax

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.vocabulary_free import VocabularyFree, candidate_scores, candidates, word_iou
from tests.helpers.fake_model import FakeModel, given, pictures, unit

CAPTIONS = ["a red car", "the car on a street", "cat on the mat", "My cat!", "street at night", "a photo of a dog"]
WORDS = ("red", "car", "street", "cat", "mat", "night", "dog")


def world():
    random = np.random.default_rng(0)
    words = {word: unit(random.normal(size=12)) for word in WORDS}
    texts = words | {
        text: unit(sum(words[word] for word in candidates([text])) + 0.1 * random.normal(size=12)) for text in CAPTIONS
    }
    names = ("car", "cat", "dog")
    labels = np.arange(30) % 3
    images = unit([words[names[k]] + 0.1 * random.normal(size=12) for k in labels])
    data = given({"label": names}, image=pictures(range(30)), label=labels.astype(np.int32))
    return FakeModel(images, texts, scale=np.float32(20)), data, given(text=[*CAPTIONS, "a red car"]), names, labels


def by_steps(model, image, retrieved, alpha):
    """Conti et al. 2023, section 4, step by step for one picture."""
    closest = sorted(CAPTIONS, key=lambda text: -float(image @ model.texts[text]))[:retrieved]
    centroid = np.mean([model.texts[text] for text in closest], axis=0)
    centroid /= np.linalg.norm(centroid)
    words = candidates(closest)
    table = np.stack([model.texts[word] for word in words]).astype(float)
    score = alpha * softmax(20 * table @ image) + (1 - alpha) * softmax(20 * table @ centroid)
    return words[int(score.argmax())]


@pytest.mark.parametrize("retrieved, alpha", [(1, 0.7), (3, 0.7), (3, 0.0), (50, 1.0)])
def test_predictions_equal_the_papers_steps(retrieved, alpha):
    model, data, captions, names, labels = world()
    task = VocabularyFree(data=data, captions=captions, retrieved=retrieved, alpha=alpha)
    expected = [by_steps(model, image.astype(float), retrieved, alpha) for image in model.images]
    assert task.predict(model, model.images) == expected
    found = task.run(model)
    assert found["vocabulary_free/iou"] == np.mean([word == names[k] for word, k in zip(expected, labels, strict=True)])
    if alpha == 1:
        assert found == {"vocabulary_free/iou": 1, "vocabulary_free/cluster_accuracy": 1}


def test_cluster_accuracy_assigns_words_to_classes():
    model, data, captions, *_ = world()
    for word, other in (("car", "red"), ("cat", "mat")):  # other words, and the same groups
        model.texts[word], model.texts[other] = model.texts[other], model.texts[word]
    found = VocabularyFree(data=data, captions=captions, alpha=1.0, retrieved=50).run(model)
    assert found["vocabulary_free/iou"] == pytest.approx(1 / 3)
    assert found["vocabulary_free/cluster_accuracy"] == 1


def test_candidates_are_words_without_stop_words():
    assert candidates(["A photo of the Red car, 2nd-hand!", "red CAR t"]) == ["red", "car", "nd", "hand"]
    assert candidates(["of the", ""]) == ["object"]
    assert candidates(["Größe 猫"]) == ["größe"]


def test_word_iou():
    assert word_iou("cat", "Siamese cat") == 0.5
    assert word_iou("cat", "cats") == 0
    assert word_iou("Cat", "cat") == 1


def test_candidate_scores_weigh_image_and_captions():
    words, image, captions = np.eye(3), np.array([1.0, 0, 0]), np.array([[0, 1.0, 0], [0, 0.0, 1.0]])
    np.testing.assert_allclose(candidate_scores(image, captions, words, 1e3, 0.7), [0.7, 0.15, 0.15], atol=1e-9)


def test_label_may_be_a_text():
    model, _, captions, names, labels = world()
    texts = given(image=pictures(range(30)), text=[f"the {names[k]}" for k in labels])
    found = VocabularyFree(data=texts, label="text", captions=captions, alpha=1.0, retrieved=50).run(model)
    assert found["vocabulary_free/iou"] == 0.5


def test_unmeasurable_data_is_one_sentence():
    model, data, _, _, labels = world()
    with pytest.raises(JaxrepError, match="vocabulary_free: captions holds no text"):
        VocabularyFree(data=data, captions=given(text=[])).run(model)
    unnamed = given(image=pictures(range(30)), label=labels)
    with pytest.raises(JaxrepError, match="labels run from 0 to 2, and the data name 0 classes"):
        VocabularyFree(data=unnamed, captions=data).run(model)
