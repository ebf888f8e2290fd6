"""``jaxrep.model``: encoding in blocks, on one device and on meshes; image preprocessing; zero-shot classification."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrep import block_layout
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from jaxrep.model_inputs import check_images, check_texts, token_ids
from jaxrep.prompts import CLIP_SEVEN
from tests.helpers.harness import RECIPE, batch, drawn, traced

TRACED = traced(RECIPE)
TOKENIZER = RECIPE.data.tokenizer.load(RECIPE.data.train.open().column("text"))
MODEL = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=4)
BATCH = {name: np.concatenate([batch(step)[name] for step in range(2)]) for name in ("image", "text", "text/valid")}
BOTH = ("image", "text")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def reference():
    return MODEL.encode(BATCH, BOTH)


def test_encode_returns_normalized_outputs_of_the_method(reference):
    module = TRACED.structure.merge(drawn(TRACED.arrays))
    kernel, head = np.float64(module.image.kernel[...]), np.float64(module.image_head.kernel[...])
    patches = (BATCH["image"] / 255).reshape(16, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(16, 4, 48)
    expected = unit(np.tanh(patches @ kernel).mean(1) @ head)
    assert reference["image"].dtype == np.float32
    np.testing.assert_allclose(reference["image"], expected, atol=2e-6)  # float32 rounding of sums of 48
    np.testing.assert_allclose(np.linalg.norm(reference["text"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("n", (1, 3, 4, 5, 11))
def test_encode_of_any_number_of_rows(reference, n):
    embeddings = MODEL.encode({name: value[:n] for name, value in BATCH.items()}, BOTH)
    for name in BOTH:
        assert embeddings[name].shape == (n, 4)
        # Blocks of another size sum in another order.
        np.testing.assert_allclose(embeddings[name], reference[name][:n], atol=1e-6)


def test_encode_of_no_rows():
    embeddings = MODEL.encode({name: value[:0] for name, value in BATCH.items()}, BOTH)
    assert {name: x.shape for name, x in embeddings.items()} == {"image": (0, 4), "text": (0, 4)}
    assert MODEL.encode_image([]).shape == (0, 4)
    assert MODEL.encode_text([]).shape == (0, 4)


def test_encode_does_not_depend_on_block_size(reference):
    other = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=16)
    for name, x in other.encode(BATCH, BOTH).items():
        np.testing.assert_allclose(x, reference[name], atol=1e-6)  # other shapes, other order of sums


SPLIT = Mesh(data=4, fsdp=2, min_shard_size=1)


@pytest.mark.parametrize("n", (0, 1, 5, 8, 11, 16))
def test_encode_on_a_mesh_with_padded_blocks(reference, n):
    sharded = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=9).shard(SPLIT)
    assert sharded.layout.max_rows == 16
    for name, x in sharded.encode({name: value[:n] for name, value in BATCH.items()}, BOTH).items():
        np.testing.assert_allclose(x, reference[name][:n], atol=1e-6)  # other shapes, other order of sums
    pictures = BATCH["image"][:n]
    np.testing.assert_array_equal(sharded.layout.gather(pictures, n), pictures)


@pytest.mark.parametrize("hosts", (1, 2, 4, 8))
def test_host_rows_split_a_block_evenly(monkeypatch, hosts):
    sharded = MODEL.shard(SPLIT)
    for host in range(hosts):
        monkeypatch.setattr(
            block_layout,
            "local_rows",
            lambda _, size: slice(size * host // hosts, size * (host + 1) // hosts),  # noqa: B023
        )
        assert sharded.layout.max_rows == max(4 * hosts, 8)
        for rows in range(sharded.layout.max_rows + 1):
            assert sharded.layout.host_rows(rows) == slice(rows * host // hosts, rows * (host + 1) // hosts)


def test_float_images_from_0_to_1_equal_uint8_images(reference):
    embeddings = MODEL.encode({"image": BATCH["image"] / np.float32(255)}, ("image",))
    np.testing.assert_allclose(embeddings["image"], reference["image"], atol=1e-6)


def test_zero_outputs_are_not_nan():
    arrays = {path: 0 * value for path, value in drawn(TRACED.arrays).items()}
    embeddings = Model(TRACED.structure, arrays, TRACED.fields, block_size=4).encode(BATCH, BOTH)
    assert all((x == 0).all() for x in embeddings.values())


def test_encode_text_and_encode_image_equal_encode(reference):
    texts = RECIPE.data.train.open().column("text")[:5]
    np.testing.assert_allclose(MODEL.encode_text(texts), reference["text"][:5], atol=1e-6)
    np.testing.assert_allclose(MODEL.encode_image(list(BATCH["image"][:5])), reference["image"][:5], atol=1e-6)


def test_encode_image_returns_other_outputs_normalized_or_raw():
    pooled = MODEL.encode_image(list(BATCH["image"]), output="image/pooled", normalize=False)
    np.testing.assert_array_equal(pooled, MODEL.outputs({"image": BATCH["image"]}, ("image/pooled",))["image/pooled"])
    unit = MODEL.encode_image(list(BATCH["image"]), output="image/pooled")
    np.testing.assert_allclose(unit, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), rtol=1e-6)  # float32
    assert pooled.shape == (len(BATCH["image"]), 6)


def test_unknown_output_error_lists_the_outputs():
    with pytest.raises(UsageError) as error:
        MODEL.encode(BATCH, ("imag",))
    assert "does not emit 'imag'" in str(error.value)
    assert str(error.value).endswith(
        "did you mean image? there are: image, image/pooled, image/tokens, text, text/pooled"
    )


def test_encode_text_without_tokenizer_is_refused():
    with pytest.raises(JaxrepError, match="this model has no tokenizer, so it cannot read texts: give it token ids"):
        Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields).encode_text(["red"])


def test_preprocess_resizes_shorter_side_and_center_crops():
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:, 16:32] = (10, 200, 90)  # the middle square; its neighbors reach a pixel into it, by bicubic weights
    image = MODEL.preprocess(picture)
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(image[:, 2:-2], np.broadcast_to(np.uint8([10, 200, 90]), (8, 4, 3)))
    np.testing.assert_array_equal(MODEL.preprocess(BATCH["image"][0]), BATCH["image"][0])


def test_preprocess_makes_transparent_pixels_white():
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 8, 4))
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:4] = (255, 0, 0)
    np.testing.assert_array_equal(MODEL.preprocess(red), expected)
    grey = Image.new("LA", (8, 8), (40, 0))
    np.testing.assert_array_equal(MODEL.preprocess(grey), np.full((8, 8, 3), 255, np.uint8))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9])
    palette.info["transparency"] = 0
    np.testing.assert_array_equal(MODEL.preprocess(palette), np.full((8, 8, 3), 255, np.uint8))
    np.testing.assert_array_equal(MODEL.preprocess(Image.new("L", (8, 8), 40)), np.full((8, 8, 3), 40, np.uint8))


def test_preprocess_applies_exif_orientation(tmp_path):
    upright = Image.new("RGB", (8, 8), (0, 0, 0))
    upright.paste((250, 250, 250), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    upright.rotate(180).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(MODEL.preprocess(tmp_path / "turned.png"), np.asarray(upright))


def test_preprocess_refuses_float_arrays():
    with pytest.raises(UsageError, match=r"an image as an array has to be uint8, got float32 of shape \(8, 8, 3\)"):
        MODEL.preprocess(np.zeros((8, 8, 3), np.float32))


def test_unreadable_image_and_unknown_tower_errors(tmp_path):
    with pytest.raises(UsageError, match=r"the image /nowhere/at/all.png cannot be read: No such file"):
        MODEL.encode_image(["/nowhere/at/all.png"])
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(UsageError, match=r"text.png: the image cannot be decoded \(unknown format; known are .*PNG"):
        MODEL.encode_image([tmp_path / "text.png"])
    with pytest.raises(UsageError, match="the model has no tower that reads 'sound'"):
        MODEL.encode_image([np.zeros((8, 8, 3), np.uint8)], "sound")
    with pytest.raises(UsageError, match="the model has no tower that reads 'caption'"):
        MODEL.encode_text(np.zeros((1, 6), np.int32), "caption")


def test_an_unknown_tower_is_told_with_the_towers_alone():
    text = {name: TRACED.fields[name] for name in ("text", "text/valid")}
    other = {"position": TRACED.fields["label"], "text_id": TRACED.fields["label"]}
    model = Model(TRACED.structure, drawn(TRACED.arrays), other | text, TOKENIZER)
    with pytest.raises(UsageError, match=r"the model has no tower that reads 'image'; there are: text$"):
        model.encode_image([np.zeros((8, 8, 3), np.uint8)])
    assert MODEL.towers() == ["image", "text"]


NAMES = ("red", "green", "blue")


def prompt_means(templates):
    """Class embeddings by plain arithmetic, float64 [K,D]."""
    prompts = [[MODEL.encode_text([template.format(name)])[0] for template in templates] for name in NAMES]
    return unit(np.float64(prompts).mean(1))


@pytest.mark.parametrize("templates", [("a photo of a {}.",), ("{}",), CLIP_SEVEN])
def test_classify_is_the_softmax_of_scaled_cosines(reference, templates):
    images = BATCH["image"][:5]
    probabilities = MODEL.classify(images, NAMES, templates=templates)
    logits = float(MODEL.per_step(["scale"])["scale"]) * np.float64(reference["image"][:5]) @ prompt_means(templates).T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)  # float32 embeddings, times the scale
    if templates == ("a photo of a {}.",):
        np.testing.assert_array_equal(MODEL.classify(images, NAMES), probabilities)


def test_classify_and_similarity_of_paths_pil_images_and_arrays(reference, tmp_path):
    arrays = list(BATCH["image"][:3])
    pil_images = [Image.fromarray(array) for array in arrays]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, pil_images, strict=True):
        image.save(path)
    probabilities, similarity = MODEL.classify(arrays, NAMES), MODEL.similarity(arrays, NAMES)
    expected = np.float64(reference["image"][:3]) @ np.float64(MODEL.encode_text(NAMES)).T
    np.testing.assert_allclose(similarity, expected, atol=1e-6)  # float32
    for images in (pil_images, paths, list(map(str, paths)), BATCH["image"][:3]):
        np.testing.assert_array_equal(MODEL.classify(images, NAMES), probabilities)
        np.testing.assert_array_equal(MODEL.similarity(images, NAMES), similarity)
    assert MODEL.classify([], NAMES).shape == (0, 3) and MODEL.similarity([], NAMES).shape == (0, 3)
    assert MODEL.similarity(arrays, []).shape == (3, 0)


def test_classify_errors_are_one_sentence():
    images = BATCH["image"][:1]
    arrays = drawn(TRACED.arrays)
    with pytest.raises(UsageError, match=r"^names is empty: classify needs at least one class name$"):
        MODEL.classify(images, [])
    with pytest.raises(UsageError, match=r"a template contains {} once, for the name; 'a photo' does not"):
        MODEL.classify(images, NAMES, templates=("a photo",))
    without_text = Model(TRACED.structure, arrays, {"image": TRACED.fields["image"]}, TOKENIZER)
    without_tokenizer = Model(TRACED.structure, arrays, TRACED.fields)
    for call in (Model.classify, Model.similarity):
        with pytest.raises(UsageError, match="the model has no tower that reads 'text'"):
            call(without_text, images, NAMES)
        with pytest.raises(JaxrepError, match="this model has no tokenizer, so it cannot read texts"):
            call(without_tokenizer, images, NAMES)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("a cat", r"texts is one string, expected a list of strings"),
        (b"a cat", r"texts is one string"),
        (3, r"texts is a int, expected a list of strings"),
        (["a", None], r"texts\[1\] is a NoneType, expected a string"),
        ([("a",), "b"], r"texts\[0\] is a tuple, expected a string"),
    ],
)
def test_texts_of_another_type_are_one_sentence(texts, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_texts(texts)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("a.png", r"images is one image \(a str\), expected a list of images"),
        (Path("a.png"), "images is one image"),
        (Image.new("RGB", (4, 4)), "images is one image"),
        (np.zeros((4, 4, 3), np.uint8), r"images is one image \(an array of shape \(4, 4, 3\)\)"),
        (None, "images is a NoneType, expected a list of images"),
        ([b"x"], r"images\[0\] is a bytes, expected a path, a PIL image or a uint8 array"),
        ([np.zeros((3, 4, 8), np.uint8)], r"images\[0\] is an array of shape \(3, 4, 8\)"),
        ([[1, 2]], r"images\[0\] is a list"),
    ],
)
def test_images_of_another_type_are_one_sentence(images, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_images(images)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: MODEL.encode_text("a cat"), r"texts is one string, expected a list of strings: write \['a cat'\]"),
        (lambda: MODEL.encode_text(text for text in ["a"]), "texts is a generator, expected a list of strings"),
        (lambda: MODEL.tokenize("a cat"), "texts is one string"),
        (lambda: MODEL.tokenize([None]), r"texts\[0\] is a NoneType"),
        (lambda: MODEL.similarity(BATCH["image"], "a cat"), "texts is one string"),
        (lambda: MODEL.similarity(BATCH["image"][0], ["a cat"]), "images is one image"),
        (lambda: MODEL.classify(BATCH["image"], "cat"), r"names is one string, expected .*: write \['cat'\]"),
        (lambda: MODEL.classify(BATCH["image"], ["cat", 3]), r"names\[1\] is a int, expected a string"),
        (lambda: MODEL.classify(BATCH["image"], ["cat"], templates="a {}."), "templates is one string"),
        (lambda: MODEL.encode_image("a.png"), r"images is one image \(a str\)"),
        (lambda: MODEL.encode_image([None]), r"images\[0\] is a NoneType"),
        (lambda: MODEL.preprocess(None), "image is a NoneType, expected a path, a PIL image or a uint8 array"),
        (lambda: MODEL.preprocess(b"x"), "image is a bytes"),
        (lambda: MODEL.preprocess("/"), "the image / cannot be read: Is a directory"),
        (lambda: MODEL.encode(BATCH, "image"), r"want is one string, expected a list of strings: write \['image'\]"),
        (lambda: MODEL.outputs(BATCH, "image"), "want is one string"),
        (lambda: MODEL.encode(BATCH["image"], ("image",)), "batch is a ndarray, expected one array or more by"),
        (lambda: MODEL.encode({}, ("image",)), "batch is a dict, expected one array or more by"),
        (lambda: MODEL.per_step("scale"), "want is one string"),
    ],
)
def test_arguments_of_another_type_are_one_sentence(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_gray_arrays_are_images(shape):
    gray = np.arange(64, dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(MODEL.preprocess(gray), np.repeat(gray.reshape(8, 8, 1), 3, axis=2))
    assert MODEL.encode_image([gray]).shape == (1, 4)


def test_half_of_a_surrogate_pair_is_a_text():
    assert np.isfinite(MODEL.encode_text(["a \ud83d cat"])).all()


def test_token_ids_are_rows_of_integers():
    assert token_ids(["a", "b"]) is None and token_ids(np.array(["a"])) is None
    np.testing.assert_array_equal(token_ids([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.int32))
    for wrong in ([[1, 2], [3]], np.zeros(3, np.int32), [["a"], ["b"]]):
        with pytest.raises(UsageError, match="token ids are one array of integers"):
            token_ids(wrong)


def test_too_little_memory_of_a_device_is_one_sentence(monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore")

    monkeypatch.setattr("jaxrep.model._encode", full)
    with pytest.raises(JaxrepError) as error:
        MODEL.encode(BATCH, BOTH)
    assert str(error.value) == (
        "the devices have too little memory to encode 4 rows at a time (RESOURCE_EXHAUSTED: Out of memory allocating "
        "123 bytes.): lower the model's block_size (4; the option --batch-size), or spread the model over more devices"
    )
    monkeypatch.setattr("jaxrep.model._encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        MODEL.encode(BATCH, BOTH)
