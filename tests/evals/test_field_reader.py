"""Any field is embedded as the model reads it: arrays of any shape and type, texts, several outputs, views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep import encoders, methods
from jaxrep.batch import Field, StepContext
from jaxrep.data.source import Columns
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import BadSample, JaxrepError
from jaxrep.evals.classification.knn import Knn
from jaxrep.evals.embed import embed_rows
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from jaxrep.params import split
from jaxrep.views import MixUp, RandomTranslate
from tests.helpers.fake_model import given, unit

N, LENGTH = 11, 6
RANDOM = np.random.default_rng(0)
DATA = {
    "row": RANDOM.normal(size=(N, 10)),  # float64, which the model reads as float32
    "series": RANDOM.normal(size=(N, LENGTH, 2)).astype(np.float32),
    "series/valid": np.arange(LENGTH) < RANDOM.integers(1, LENGTH + 1, size=(N, 1)),
    "bands": RANDOM.integers(256, size=(N, 8, 8, 10), dtype=np.uint8),
    "image": RANDOM.integers(256, size=(N, 8, 8, 3), dtype=np.uint8),
    "text": [f"text {i}" * (1 + i % 2) for i in range(N)],
}
ENCODERS = {
    "row": (encoders.Perceptron(widths=(32, 16)), Field((10,), "float32")),
    "series": (
        encoders.SeriesTransformer(length=LENGTH, width=8, depth=1, heads=2),
        Field((LENGTH, 2), "float32"),
    ),
    "bands": (
        encoders.ViT(
            width=8,
            depth=1,
            heads=2,
            stem=encoders.PatchStem(patch=4),
            pixels=encoders.PixelNorm(mean=(0.5,) * 10, std=(0.25,) * 10),
        ),
        Field((8, 8, 10), "float32"),
    ),
    "image": (encoders.ViT(width=8, depth=1, heads=2, stem=encoders.PatchStem(patch=4)), Field((8, 8, 3), "float32")),
    "text": (
        encoders.TextTransformer(width=8, depth=1, heads=2, pool="mean", causal=False),
        Field((12,), "int32", 259),
    ),
}


@functools.cache
def model_of(field: str) -> Model:
    """Return a model of one tower with random values."""
    encoder, described = ENCODERS[field]
    fields = {field: described}
    if field in ("series", "text"):
        fields[f"{field}/valid"] = Field(fields[field].shape[:1], "bool")
    module = methods.SingleEncoder(name=field, encoder=encoder, head=methods.Linear(features=5)).build(
        nnx.Rngs(0), inputs=fields
    )
    tokenizer = Bytes(length=12).load(()) if field == "text" else None
    return Model(*split(module), fields, tokenizer, block_size=4)


def examples(*fields: str, **changes) -> Columns:
    chosen = {name: x for name, x in DATA.items() if name.split("/")[0] in fields}
    return Columns(chosen | {"number": np.arange(N)} | changes)


def by_hand(field: str, output: str) -> np.ndarray:
    """Return the outputs that the model gives the whole arrays in one call."""
    batch = {name: x for name, x in DATA.items() if name.split("/")[0] == field}
    if field == "text":
        tokens = model_of(field).tokenize(DATA["text"])
        batch = {name: x for name, x in tokens.items()}
    return model_of(field).encode(batch, (output,), normalize=False)[output]


@pytest.mark.parametrize("field", ENCODERS)
def test_every_field_is_embedded_as_the_model_reads_it(field):
    model, data = model_of(field), examples(field)
    for output in ("", f"{field}/pooled"):
        found, columns = embed_rows(model, data, field, (output,), ("number",), unit=False)
        np.testing.assert_allclose(found, by_hand(field, output or field), rtol=1e-4, atol=1e-6)
        assert columns["number"] == list(range(N))
    scaled, _ = embed_rows(model, data, field, unit=True)
    np.testing.assert_allclose(scaled, unit(by_hand(field, field)), rtol=1e-4, atol=1e-6)


def test_valid_changes_the_embedding_of_a_series():
    found, _ = embed_rows(model_of("series"), examples("series"), "series", unit=False)
    whole, _ = embed_rows(model_of("series"), Columns({"series": DATA["series"]}), "series", unit=False)
    short = ~DATA["series/valid"].all(axis=1)
    assert short.any() and (np.abs(found - whole).max(axis=1) > 1e-4)[short].all()
    np.testing.assert_allclose(found[~short], whole[~short], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mesh", [Mesh(data=8), Mesh(data=2, fsdp=4)])
def test_embeddings_are_the_same_on_any_number_of_devices(mesh):
    for field in ("row", "series"):
        sharded = model_of(field).shard(mesh)
        assert sharded.layout.mesh is not None
        for output in (field, "pixels"):
            found, columns = embed_rows(sharded, examples(field), field, (output,), ("number",), unit=False)
            one, _ = embed_rows(model_of(field), examples(field), field, (output,), unit=False)
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-6)
            assert columns["number"] == list(range(N))


def test_several_outputs_are_scaled_and_joined():
    names = ("row", "row/pooled")
    found, _ = embed_rows(model_of("row"), examples("row"), "row", names, unit=False)
    parts = [unit(by_hand("row", name)) for name in names]
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-6)
    scaled, _ = embed_rows(model_of("row"), examples("row"), "row", names, unit=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)


def test_pixels_are_the_numbers_of_any_field():
    found, _ = embed_rows(model_of("row"), examples("row"), "row", ("pixels",), unit=False)
    np.testing.assert_array_equal(found, DATA["row"].astype(np.float32))
    found, _ = embed_rows(model_of("bands"), examples("bands"), "bands", ("pixels",), unit=False)
    np.testing.assert_array_equal(found, DATA["bands"].reshape(N, -1).astype(np.float32) / 255)


def test_views_are_drawn_by_seed_and_example():
    model, view = model_of("image"), RandomTranslate("image", pixels=2)
    embed = functools.partial(embed_rows, model, field="image", unit=False, views=(view,))
    found, _ = embed(examples("image"), seed=3)
    part, _ = embed(Columns({"image": DATA["image"][:5]}), seed=3)  # blocks of 4: another cut
    np.testing.assert_allclose(found[:5], part, rtol=1e-5, atol=1e-6)
    assert np.abs(embed(examples("image"), seed=4)[0] - found).max() > 1e-3

    def drawn(draw):
        positions = np.stack([np.full(N, draw), np.arange(N)], axis=1).astype(np.uint32)
        ctx = StepContext(jnp.int32(draw), jax.random.key(3), positions)
        images = view({"image": jnp.asarray(DATA["image"])}, ctx.at("views/0"))["image"]
        return model.encode({"image": np.asarray(images)}, ("image",), normalize=False)["image"]

    np.testing.assert_allclose(found, drawn(0), rtol=1e-4, atol=1e-5)
    mean, _ = embed(examples("image"), seed=3, draws=2)
    np.testing.assert_allclose(mean, (drawn(0) + drawn(1)) / 2, rtol=1e-4, atol=1e-5)


class Damaged(Columns):
    """Examples of which the first block, and one more, cannot be read."""

    def gather(self, indices, keys=None, substitute=None):
        if set(indices.tolist()) & {0, 1, 2, 3, 9}:
            raise BadSample("a.npz", f"row {indices[0]} is cut short")
        return super().gather(indices, keys, substitute)


def test_blocks_without_a_readable_row_are_passed_over():
    many = {name: np.concatenate([x] * 60) for name, x in DATA.items() if name.startswith("series")}
    found, columns = embed_rows(
        model_of("series"), Damaged(many | {"number": np.arange(60 * N)}), "series", columns=("number",), unit=False
    )
    kept = np.delete(np.arange(60 * N), [0, 1, 2, 3, 9])
    assert columns["number"] == kept.tolist()
    np.testing.assert_allclose(found, by_hand("series", "series")[kept % N], rtol=1e-4, atol=1e-6)


def test_labeled_evaluation_of_vectors_and_texts_equals_that_of_their_embeddings():
    labels = np.arange(N, dtype=np.int32) % 2
    for field in ("row", "text"):
        data = given(**{field: DATA[field], "label": labels}, classes=2)
        task = Knn(train=data, data=data, image=field, neighbors=(3,))
        stored = np.asarray(by_hand(field, field))
        plain = methods.SingleEncoder(name="row", encoder=encoders.Perceptron(widths=(5,)))
        inputs = {"row": Field((5,), "float32")}
        model = Model(*split(plain.build(nnx.Rngs(0), inputs=inputs)), inputs)
        same = given(row=stored, label=labels, classes=2)
        expected = Knn(train=same, data=same, image="row", output="pixels", neighbors=(3,)).run(model)
        assert task.run(model_of(field)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("field", "changes", "sentence"),
    [
        ("row", {"row": DATA["row"][:, :9]}, r"example 0 has 'row' of shape \[9\], and the model reads \[10\]"),
        ("row", {"row": DATA["bands"][:, 0, 0]}, "example 0 has 'row' of type uint8, and the model reads float32"),
        ("row", {"row": DATA["text"]}, "example 0 has a text as 'row', and the model reads float32"),
        ("text", {"text": [()] * N}, r"example 0 has 'text' of shape \[0\], and the model reads \[12\]"),
        (
            "image",
            {"image": DATA["bands"]},
            "example 0 has no 'image' that the model reads: image is an array of shape",
        ),
        ("image", {"image": DATA["text"]}, "example 0 has a text as 'image', and the model reads float32"),
        ("series", {"series": [None] * N}, "example 0 has no array of numbers as 'series', but a NoneType"),
        ("bands", {"bands": DATA["image"]}, r"example 0 has 'bands' of shape \[8, 8, 3\], and the model reads"),
        ("image", {"image": DATA["image"].astype(np.float32)[:, :6]}, r"'image' of shape \[6, 8, 3\]"),
        ("row", {"row": np.where(np.arange(N) == 7, np.nan, 1.0)[:, None] * np.ones(10)}, "'row' of example 7"),
    ],
)
def test_what_the_model_does_not_read_is_one_sentence(field, changes, sentence):
    data = Columns({name: x for name, x in DATA.items() if name.split("/")[0] == field} | changes)
    with pytest.raises(JaxrepError, match=sentence):
        embed_rows(model_of(field), data, field, unit=True)


class Mixed(Columns):
    def __getitem__(self, index):
        return {"image": DATA["image"][index] if index % 2 else DATA["image"][index].astype(np.float32)}

    def gather(self, indices, keys=None, substitute=None):
        return {name: x[None] for name, x in self[int(indices[0])].items()}


def test_rows_that_differ_and_wrong_draws_are_one_sentence():
    data = examples("image")
    with pytest.raises(JaxrepError, match=r"example 1 has 'image' of uint8 .*, and example 0 'image' of float32"):
        embed_rows(model_of("image"), Mixed({"image": DATA["image"]}), "image", unit=True)
    with pytest.raises(JaxrepError, match="example 0 has no 'image'; there are: row"):
        embed_rows(model_of("image"), Columns({"row": DATA["row"]}), "image", unit=True)
    with pytest.raises(JaxrepError, match="draws is 2, and views 0: give one draw, or views whose draws differ"):
        embed_rows(model_of("image"), data, "image", unit=True, draws=2)
    with pytest.raises(JaxrepError, match="the view MixUp mixes rows"):
        embed_rows(model_of("image"), data, "image", unit=True, views=(MixUp("image"),))
    with pytest.raises(JaxrepError, match="no tower that reads 'row'"):
        embed_rows(model_of("image"), data, "row", unit=True)
