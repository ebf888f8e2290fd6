"""Adapters for other benchmarks give the metrics of their definitions."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxrep.errors import UsageError
from jaxrep.evals.interop import ClipBenchmark, MtebEncoder
from tests.helpers.fake_model import FakeModel, pictures, unit


class Fake(FakeModel):
    """Its ids of a text are the number in it."""

    def preprocess(self, picture, name="image"):
        return np.asarray(picture)

    def tokenize(self, texts):
        ids = np.array([[int(text.split()[-1]) + 1, 0] for text in texts], np.int32)
        return {"text": ids, "text/valid": ids > 0}

    def encode_image(self, pictures, name="image", *, output="", normalize=True):
        return super().encode_image([np.asarray(picture) for picture in pictures])

    def encode_text(self, texts, name="text", *, valid=None):
        if isinstance(texts, np.ndarray):
            assert (valid == (texts > 0)).all()
            texts = [f"text {number - 1}" for number in texts[:, 0]]
        return super().encode_text(texts)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)  # float32, scaled to unit length once more


@pytest.fixture
def model():
    random = np.random.default_rng(0)
    images = unit(random.normal(size=(12, 5)))
    texts = {f"text {i}": unit(images[i] + random.normal(size=5)) for i in range(12)}
    return Fake(images, texts)


def batches(**columns):
    return [{name: values[start : start + 5] for name, values in columns.items()} for start in range(0, 12, 5)]


def test_mteb_batches_of_texts_images_or_both(model):
    texts, shown = list(model.texts), [Image.fromarray(x) for x in pictures(range(12))]
    a, b = np.stack([*model.texts.values()]), model.images
    encoder = MtebEncoder(model)
    same(encoder.encode(batches(text=texts)), a)
    same(encoder.encode(batches(image=shown)), b)
    np.testing.assert_allclose(encoder.encode(batches(image=shown, text=texts)), unit(a + b), rtol=1e-5)
    with pytest.raises(UsageError, match="reads texts and images, and the task gives audio"):
        encoder.encode(batches(audio=texts))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["text 0", "text 1"], "inputs holds a str, expected batches"),
        ([{"text": "text 0"}], r"text is one string, expected a list of strings: write \['text 0'\]"),
        ([{"text": ["text 0", None]}], r"text\[1\] is a NoneType, expected a string"),
        ([{"image": Image.new("RGB", (2, 2))}], "images is one image"),
        ([{"image": [3]}], r"images\[0\] is a int, expected a path, a PIL image"),
    ],
)
def test_mteb_batches_of_another_type_are_one_sentence(model, inputs, sentence):
    with pytest.raises(UsageError, match=sentence):
        MtebEncoder(model).encode(inputs)


@pytest.mark.parametrize("tokens", [np.zeros((1, 3), np.int64), np.zeros(4, np.int64), np.zeros((1, 4)), ["text 0"]])
def test_clip_benchmark_takes_the_tokens_of_its_tokenizer(model, tokens):
    with pytest.raises(UsageError, match=r"tokens is an array of shape .*, expected the result of tokenize, \[n,2L\]"):
        ClipBenchmark(model).encode_text(tokens)


def test_prompt_precedes_texts_of_its_type(model):
    texts = list(model.texts)
    model.texts |= {f"query: {text}": x for text, x in zip(texts, model.images, strict=True)}
    encoder = MtebEncoder(model, prompts={"query": "query: "})
    same(encoder.encode(batches(text=texts), prompt_type="query"), model.images)
    assert not np.allclose(encoder.encode(batches(text=texts), prompt_type="document"), model.images)


def test_similarity_is_cosine_of_arrays_and_tensors(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    a, b = 3 * model.images, model.images[::-1].copy()
    encoder = MtebEncoder(model)
    np.testing.assert_allclose(
        encoder.similarity(a, torch.from_numpy(b)).numpy(), model.images @ b.T, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        encoder.similarity_pairwise(a, b).numpy(), np.sum(model.images * b, 1), rtol=1e-4, atol=1e-6
    )


def test_mteb_task(model):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install 'jaxrep[mteb]'")
    datasets = pytest.importorskip("datasets", reason="mteb's data sets are not installed")
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.models_protocols import EncoderProtocol

    random = np.random.default_rng(0)
    pairs = random.permutation([(i, j) for i in range(12) for j in range(i)])[:30]  # no cosine twice
    one, other = ([f"text {i}" for i in column] for column in pairs.T)
    scores = random.integers(6, size=30).astype(float)

    class Made(AbsTaskSTS):
        metadata = TaskMetadata(
            name="Made",
            dataset={"path": "made/made", "revision": "0"},
            description="Made pairs.",
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )

        def load_data(self, **kwargs):
            rows = {"sentence1": one, "sentence2": other, "score": scores}
            self.dataset, self.data_loaded = {"test": datasets.Dataset.from_dict(rows)}, True

    encoder = MtebEncoder(model, "jaxrep/fake")
    assert isinstance(encoder, EncoderProtocol)
    results = mteb.evaluate(encoder, tasks=[Made()], cache=None)
    cosines = [model.texts[a] @ model.texts[b] for a, b in zip(one, other, strict=True)]
    found = results.task_results[0].scores["test"][0]["cosine_spearman"]
    assert found == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-6)
    assert results.model_name == "jaxrep/fake"


def test_clip_benchmark_retrieval(model):
    retrieval = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_retrieval", reason="clip_benchmark is not installed"
    )
    torch = pytest.importorskip("torch")
    adapter = ClipBenchmark(model)
    rows = [(adapter.transform(Image.fromarray(x)), [f"text {i}"]) for i, x in enumerate(pictures(range(12)))]
    loader = torch.utils.data.DataLoader(
        rows, batch_size=5, collate_fn=lambda rows: (torch.stack([x for x, _ in rows]), [texts for _, texts in rows])
    )
    found = retrieval.evaluate(adapter, loader, adapter.tokenize, "cpu", amp=False, recall_k_list=[1, 5])
    similarity = model.images @ np.stack([*model.texts.values()]).T
    ranks = (similarity >= np.diag(similarity)[:, None]).sum(1)
    assert found["text_retrieval_recall@1"] == pytest.approx(np.mean(ranks <= 1))
    assert found["text_retrieval_recall@5"] == pytest.approx(np.mean(ranks <= 5))


def test_clip_benchmark_methods_return_embeddings(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    adapter = ClipBenchmark(model).to("cpu").eval()
    shown = torch.stack([adapter.transform(Image.fromarray(x)) for x in pictures(range(12))])
    same(adapter.encode_image(shown).numpy(), model.images)
    tokens = adapter.tokenize(list(model.texts))
    assert tokens.dtype == torch.int64
    same(adapter.encode_text(tokens).numpy(), np.stack([*model.texts.values()]))
