"""An evaluation goes without what cannot be read, and measures the rest as if there were nothing else."""

import tracemalloc

import numpy as np
import pytest

from jaxrep.data.source import Columns
from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.evals.base import run_evals
from jaxrep.evals.classification.vocabulary_free import VocabularyFree
from jaxrep.evals.embed import logit_scale
from jaxrep.evals.embedding_space import EmbeddingSpace
from jaxrep.evals.retrieval.layer_map import LayerMap
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.evals.text.sentence_pairs import SentenceSimilarity
from tests.helpers.fake_model import TABLES, FakeModel, given, pictures, unit

N = 40


class Damaged(Columns):
    """Columns of which example 7 cannot be read."""

    def gather(self, indices, keys=None, substitute=None):
        if 7 in indices:
            raise BadSample("a.tar, member 7.jpg", "the image is empty")
        return super().gather(indices, keys, substitute)


def world(rows, table=Columns):
    random = np.random.default_rng(0)
    images, texts = unit(random.normal(size=(N, 8))), unit(random.normal(size=(N, 8)))
    model = FakeModel(images, {f"text {number}": text for number, text in enumerate(texts)})
    columns = {"image": pictures(range(N))[rows], "text": [f"text {number}" for number in rows]}
    data = given(**columns)
    TABLES[data.key] = table(columns)
    return data, model


@pytest.mark.parametrize("make", [Retrieval, EmbeddingSpace])
def test_unreadable_example_is_skipped_and_reported(make, capsys):
    data, model = world(np.arange(N), Damaged)
    whole, _ = world(np.delete(np.arange(N), 7))
    found, expected = (make(data=each).run(model) for each in (data, whole))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )
    assert (
        "1 examples cannot be read (the first: a.tar, member 7.jpg: the image is empty) of 40"
        in capsys.readouterr().err
    )


TEXTS = [f"text {number}" for number in range(N)]
IDS = np.arange(2 * N).reshape(N, 2)
LABELS = np.arange(N, dtype=np.int32) % 2
SHOWN = given({"label": ("text 0", "text 1")}, image=pictures(range(N)), label=LABELS)


@pytest.mark.parametrize(
    ("make", "field", "columns"),
    [
        (lambda data: VocabularyFree(data=SHOWN, captions=data, temperature=1.0), "text", {"text": TEXTS}),
        (lambda data: EmbeddingSpace(data=data, towers=("text",)), "text", {"text": TEXTS}),
        (
            lambda data: LayerMap(data=data, dims=(2,)),
            "text",
            {"text": [*zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)], "text_id": IDS},
        ),
    ],
)
def test_example_without_a_text_is_skipped_and_counted(make, field, columns):
    model = Texts(*(unit(np.random.default_rng(seed).normal(size=(N, 8))) for seed in (0, 1)))
    kept = np.delete(np.arange(N), 7)
    whole = {name: values[kept] if name == "text_id" else [values[i] for i in kept] for name, values in columns.items()}
    holed = columns | {
        field: [
            ("" if isinstance(value, str) else ("", value[1])) if i == 7 else value
            for i, value in enumerate(columns[field])
        ]
    }
    (evaluation, complete) = (make(given(**each)) for each in (holed, whole))
    found, expected = (run_evals((each,), model) for each in (evaluation, complete))
    assert found == pytest.approx(expected | {f"{evaluation.name}/skipped_examples": 1.0})


class Texts(FakeModel):
    """It knows every text: its embedding is that of the number in it, or of its first letter."""

    def __init__(self, images, texts):
        super().__init__(images, None)
        self.table = texts

    def encode_text(self, texts, name="text"):
        return self.table[[int(text.split()[-1]) if " " in text else ord(text[0]) % N for text in texts]]

    def tokenize(self, texts):
        ids = np.array([[int(text.split()[-1])] for text in texts])
        return {"text": ids, "text/valid": ids >= 0}

    def outputs(self, batch, want):
        return {want[0]: np.stack([self.table[batch["text"][:, 0]]] * 2, axis=1)}


def many(count=300, length=300_000):
    """Texts of which one is long: an array of strings would take its length for each, 360 MB."""
    texts = [f"text {number % N}" for number in range(count)]
    texts[5] = "long " * (length // 5) + "5"
    return texts


def measured(name):
    texts = many()
    image, score = pictures(np.arange(len(texts)) % N), np.arange(len(texts)) % 5
    match name:
        case "sentences":
            return SentenceSimilarity(data=given(text=texts, text_2=texts[::-1], score=score))
        case "retrieval":
            return Retrieval(data=given(image=image, text=texts, image_id=np.arange(len(texts)) % N))
        case "vocabulary_free":
            labels = [f"text {number % 3}" for number in range(len(texts))]
            labels[5] = texts[5]
            return VocabularyFree(data=given(image=image, label=labels), captions=given(text=texts), temperature=1.0)
        case "geometry":
            return EmbeddingSpace(data=given(text=texts), towers=("text",), examples=0)


@pytest.mark.parametrize("name", ["sentences", "retrieval", "vocabulary_free", "geometry"])
def test_one_long_text_takes_its_own_memory_alone(name):
    evaluation = measured(name)
    model = Texts(*(unit(np.random.default_rng(seed).normal(size=(N, 8))) for seed in (0, 1)))
    tracemalloc.start()
    try:
        evaluation.run(model)
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()


def test_no_readable_example_is_an_error():
    data, model = world(np.arange(N))
    TABLES[data.key] = Nothing({"image": pictures([0]), "text": ["text 0"]})
    with pytest.raises(JaxrepError, match=r"1 examples cannot be read .* of 1: repair"):
        Retrieval(data=data).run(model)  # pyright: ignore[reportArgumentType]


class Nothing(Columns):
    def gather(self, indices, keys=None, substitute=None):
        raise BadSample("a.tar, member 0.jpg", "the image is empty")


def test_logit_scale_is_learned_or_given():
    assert logit_scale(FakeModel([], {}, scale=np.float32(50))) == 50
    assert logit_scale(FakeModel([], {}), temperature=0.5) == 2
    with pytest.raises(UsageError, match="has not learned a logit scale, so give a temperature"):
        logit_scale(FakeModel([], {}))
