"""Every exported evaluation: JSON, help texts, finite metrics, declared outputs and columns, and equal repeated runs.

A new evaluation needs an example in EXAMPLES.
"""

import dataclasses
import inspect
import json
import math
import sys
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from tyro._docstrings import get_field_docstring

import jaxrep.evals
from jaxrep import objectives
from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Columns, Source
from jaxrep.errors import UsageError
from jaxrep.evals import Eval, RetrievalDataset, run_evals
from jaxrep.evals.text.beir import RetrievalData
from jaxrep.objectives import evaluate
from jaxrep.spec import problems, spec
from jaxrep.spec_json import from_json, to_json
from tests.helpers.fake_model import TABLES, FakeModel, Given, given

N, DIM, CLASSES = 24, 6, ("car", "cat", "dog")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(256, size=(N, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(N, dtype=np.int32) % 3
CAPTIONS = [
    f"{who} with a {color} {thing}"
    for who in ("man", "woman")
    for color in ("red", "blue", "green")
    for thing in ("car", "cat", "dog", "hat")
]
PAIRS = {"text": CAPTIONS, "text_2": CAPTIONS[::-1]}


def labeled(part: slice = slice(None)) -> Given:
    return given({"label": CLASSES}, image=IMAGES[part], label=LABELS[part])


def captioned() -> Given:
    return given(image=IMAGES, text=CAPTIONS)


def masked() -> Given:
    return given(classes=3, image=IMAGES, mask=RANDOM.integers(3, size=(N, 4, 4), dtype=np.int32))


def scenes() -> Given:
    regions = {"region": [("cat", "dog")] * N, "region/present": np.tile([True, False], (N, 1))}
    return given(image=IMAGES, boxes=np.full((N, 2, 4), 0.4, np.float32), **regions)


@spec
class Answers(RetrievalDataset):
    """Declare one relevant document per query."""

    def load(self):
        texts = {str(i): text for i, text in enumerate(CAPTIONS)}
        return RetrievalData(texts, {f"d{i}": text for i, text in texts.items()}, {i: {f"d{i}": 1} for i in texts})


FITTED = {"train": labeled(slice(16)), "data": labeled(slice(16, None))}
EXAMPLES: Mapping[str, dict] = {
    "Classification": {"data": labeled()},
    "Clustering": {"data": labeled(), "restarts": 2},
    "ComposedQueries": {"data": captioned()},
    "Composition": {"data": captioned()},
    "DescriptionClassification": {"data": labeled(), "descriptors": {name: ("legs", "wheels") for name in CLASSES}},
    "EmbeddingSpace": {"data": captioned(), "neighbors": 3},
    "FewShot": {**FITTED, "shots": (2,), "draws": 2},
    "FrechetMean": {"data": labeled()},
    "Grounding": {"data": scenes()},
    "HeldOutObjective": {
        "data": given(label=LABELS),
        "objective": {"classes": objectives.CrossEntropy("image")},
        "batch_size": 8,
    },
    "InformationRetrieval": {"data": Answers()},
    "Knn": {**FITTED, "neighbors": (3,)},
    "LayerMap": {
        "data": given(text=[(text, text) for text in CAPTIONS], text_id=np.arange(2 * N).reshape(N, 2)),
        "dims": (2,),
    },
    "LinearProbe": FITTED,
    "Matryoshka": {"data": captioned(), "dims": (2,), "funnel": ((2, 8), (4, 4))},
    "NearestMean": FITTED,
    "PairClassification": {"data": given(**PAIRS, label=np.arange(N) % 2)},
    "Retrieval": {"data": captioned()},
    "SameClass": {"data": labeled()},
    "Segmentation": {"train": masked(), "data": masked()},
    "SentenceSimilarity": {"data": given(**PAIRS, score=np.arange(N) % 5)},
    "Utilization": FITTED,
    "VocabularyFree": {"data": labeled(), "captions": given(text=CAPTIONS)},
    "ZeroShot": {"data": labeled(), "templates": ("a {}.", "my {}.")},
}


class HashModel(FakeModel):
    """Compute random but repeatable outputs, and record the names of the outputs that are read."""

    def __init__(self):
        super().__init__(None, None)
        self.fields = dict(self.fields) | {"image": Field((4, 4, 3), "uint8")}
        self.read: set[str] = set()

    def _output(self, name: str, inputs: np.ndarray) -> np.ndarray:
        self.read.add(name)
        shape = {"query": (3, DIM), "query/boxes": (3, 4), "image/tokens": (4, DIM), "text/layers": (2, DIM)}
        rows = inputs.reshape(len(inputs), -1).astype(np.float64)
        random = np.random.default_rng(zlib.crc32(name.encode()))
        size = shape.get(name, (DIM,))
        x = np.sin(rows @ random.normal(size=(rows.shape[1], math.prod(size))) / 99).reshape(-1, *size)
        x = 0.3 + 0.2 * x if name.endswith("boxes") else x
        return x.astype(np.float32)

    def encode_block(self, host_arrays, rows, want, *, normalize):
        ((_, images),) = host_arrays.items()
        outputs = {name: self._output(name, images) for name in want}
        return {n: x / np.linalg.norm(x, axis=-1, keepdims=True) if normalize else x for n, x in outputs.items()}

    def outputs(self, batch, want):
        return {name: self._output(name, next(iter(batch.values()))) for name in want}

    def tokenize(self, texts):
        ids = np.array([[zlib.crc32(text.encode()) % 1009, len(text)] for text in texts])
        return {"text": ids, "text/valid": ids > 0}

    def encode_text(self, texts, name="text"):
        self.read.add(name)
        x = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIM) for text in texts])
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def losses(self, views, objective):
        def loss(batch, ctx):
            outputs = self.per_step(("classes", "classes/bias")) | {"image": self._output("image", batch["label"])}
            return evaluate(objective, outputs, batch, ctx)

        return loss

    def per_step(self, want):
        self.read |= set(want)
        shapes = {"scale": (), "classes": (3, DIM), "classes/bias": (3,)}
        return {name: np.full(shapes[name], 10.0) for name in want}


def concrete() -> dict[str, type[Eval]]:
    exports = {name: getattr(jaxrep.evals, name) for name in dir(jaxrep.evals)}
    evals = {name: cls for name, cls in exports.items() if inspect.isclass(cls) and issubclass(cls, Eval)}
    return {name: cls for name, cls in evals.items() if not inspect.isabstract(cls)}


@pytest.fixture(params=concrete())
def evaluation(request: pytest.FixtureRequest) -> Eval:
    name = request.param
    assert name in EXAMPLES, f"{name} has no example: add its fields to EXAMPLES in tests/conformance/test_evals.py"
    return concrete()[name](**EXAMPLES[name])


def test_json_round_trip(evaluation: Eval):
    assert not problems(evaluation)
    sources = {
        f.name: OpenMoji() for f in dataclasses.fields(evaluation) if isinstance(getattr(evaluation, f.name), Given)
    }
    exported = dataclasses.replace(evaluation, **sources)  # a source that JSON can name
    assert from_json(json.loads(json.dumps(to_json(exported))), sys.modules[__name__]) == exported


def test_every_field_has_help(evaluation: Eval):
    cls = type(evaluation)
    missing = [field.name for field in dataclasses.fields(cls) if not get_field_docstring(cls, field.name, ())]
    assert not missing, f"{cls.__name__}: write a docstring below {missing}"


def test_metrics_are_finite_and_equal_in_a_second_run(evaluation: Eval):
    metrics = run_evals((evaluation,), HashModel())
    assert metrics and all(isinstance(value, float) and math.isfinite(value) for value in metrics.values()), metrics
    assert all(name == evaluation.name or name.startswith(f"{evaluation.name}/") for name in metrics)
    assert run_evals((evaluation,), HashModel()) == metrics


def test_reads_names_the_outputs(evaluation: Eval):
    model = HashModel()
    evaluation.run(model)
    bias = {f"{name}/bias" for name in evaluation.reads}
    assert model.read - bias - {"scale"} == {*evaluation.reads} - bias  # a temperature may replace the scale


def missing_columns(evaluation: Eval) -> list[tuple[Eval, str, str]]:
    """Return the evaluation without each of its columns, the name of the source, and that of the column."""
    sources = {f.name: getattr(evaluation, f.name) for f in dataclasses.fields(evaluation)}
    return [
        (dataclasses.replace(evaluation, **{field: without(source, column)}), field, column)
        for field, source in sources.items()
        if isinstance(source, Given)
        for column in source.names
    ]


def without(source: Given, column: str) -> Source:
    table: Callable[[str], object] = TABLES[source.key].column
    columns = {name: table(name) for name in source.names if name != column}
    key = f"{source.key} without {column}"
    TABLES[key] = Columns(columns or {"other": LABELS}, TABLES[source.key].classes)
    return dataclasses.replace(source, names=tuple(columns) or ("other",), key=key)


def test_missing_column_is_one_sentence(evaluation: Eval):
    for changed, field, column in missing_columns(evaluation):
        with pytest.raises(UsageError) as raised:
            run_evals((changed,), HashModel())
        assert f"{evaluation.name}: {field} (Given) has no column '{column}'" in str(raised.value)
