"""A model's embeddings do not depend on company: rows are encoded in blocks, and any number of them."""

import numpy as np
import pytest
from PIL import Image

from jaxrep import model
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from tests.helpers.harness import RECIPE, batch, drawn, traced

TRACED = traced(RECIPE)
TOKENIZER = RECIPE.data.tokenizer.load(RECIPE.data.train.open().column("text"))
MODEL = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=4)
ROWS = {name: np.concatenate([batch(step)[name] for step in range(2)]) for name in ("image", "text", "text/valid")}
BOTH = ("image", "text")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def whole():
    return MODEL.encode(ROWS, BOTH)


def test_embeddings_are_those_of_the_method_normalized(whole):
    module = TRACED.structure.merge(drawn(TRACED.arrays))
    kernel, head = np.float64(module.image.kernel[...]), np.float64(module.image_head.kernel[...])
    patches = (ROWS["image"] / 255).reshape(16, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(16, 4, 48)
    expected = unit(np.tanh(patches @ kernel).mean(1) @ head)
    assert whole["image"].dtype == np.float32
    np.testing.assert_allclose(whole["image"], expected, atol=2e-6)  # float32 rounding of sums of 48
    np.testing.assert_allclose(np.linalg.norm(whole["text"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("n", (1, 3, 4, 5, 11))
def test_any_number_of_rows_gives_the_same_rows(whole, n):
    found = MODEL.encode({name: value[:n] for name, value in ROWS.items()}, BOTH)
    for name in BOTH:
        assert found[name].shape == (n, 4)
        # Blocks of another size sum in another order.
        np.testing.assert_allclose(found[name], whole[name][:n], atol=1e-6)


def test_no_rows_are_no_embeddings_and_of_the_width_of_the_others():
    found = MODEL.encode({name: value[:0] for name, value in ROWS.items()}, BOTH)
    assert {name: x.shape for name, x in found.items()} == {"image": (0, 4), "text": (0, 4)}
    assert MODEL.encode_image([]).shape == (0, 4)
    assert MODEL.encode_text([]).shape == (0, 4)


def test_blocks_of_another_size_give_the_same(whole):
    other = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=16)
    for name, x in other.encode(ROWS, BOTH).items():
        np.testing.assert_allclose(x, whole[name], atol=1e-6)  # other shapes, other order of sums


SPLIT = Mesh(data=4, fsdp=2, min_shard_size=1)


@pytest.mark.parametrize("n", (0, 1, 5, 8, 11, 16))
def test_over_devices_with_rows_that_fill_up_it_gives_the_same(whole, n):
    laid = Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields, TOKENIZER, block_size=9).laid(SPLIT)
    assert laid.rows_at_once == 16
    for name, x in laid.encode({name: value[:n] for name, value in ROWS.items()}, BOTH).items():
        np.testing.assert_allclose(x, whole[name][:n], atol=1e-6)  # other shapes, other order of sums
    pictures = ROWS["image"][:n]
    np.testing.assert_array_equal(laid.gathered(pictures, n), pictures)


@pytest.mark.parametrize("hosts", (1, 2, 4, 8))
def test_every_row_of_a_block_is_the_share_of_one_host_and_shares_are_even(monkeypatch, hosts):
    laid = MODEL.laid(SPLIT)
    for host in range(hosts):
        monkeypatch.setattr(
            model,
            "local_rows",
            lambda _, size: slice(size * host // hosts, size * (host + 1) // hosts),  # noqa: B023
        )
        assert laid.rows_at_once == max(4 * hosts, 8)
        for rows in range(laid.rows_at_once + 1):
            assert laid.share(rows) == slice(rows * host // hosts, rows * (host + 1) // hosts)


def test_images_in_numbers_from_0_to_1_are_those_in_bytes(whole):
    found = MODEL.encode({"image": ROWS["image"] / np.float32(255)}, ("image",))
    np.testing.assert_allclose(found["image"], whole["image"], atol=1e-6)


def test_a_row_of_nothing_is_no_nan():
    arrays = {path: 0 * value for path, value in drawn(TRACED.arrays).items()}
    found = Model(TRACED.structure, arrays, TRACED.fields, block_size=4).encode(ROWS, BOTH)
    assert all((x == 0).all() for x in found.values())


def test_texts_and_pictures_come_to_the_same_as_their_arrays(whole):
    texts = RECIPE.data.train.open().column("text")[:5]
    np.testing.assert_allclose(MODEL.encode_text(texts), whole["text"][:5], atol=1e-6)
    np.testing.assert_allclose(MODEL.encode_image(list(ROWS["image"][:5])), whole["image"][:5], atol=1e-6)


def test_pictures_have_every_output_of_their_tower_scaled_to_unit_length_or_as_it_is():
    pooled = MODEL.encode_image(list(ROWS["image"]), output="image/pooled", unit=False)
    np.testing.assert_array_equal(pooled, MODEL.outputs({"image": ROWS["image"]}, ("image/pooled",))["image/pooled"])
    unit = MODEL.encode_image(list(ROWS["image"]), output="image/pooled")
    np.testing.assert_allclose(unit, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), rtol=1e-6)  # float32
    assert pooled.shape == (len(ROWS["image"]), 6)


def test_a_name_that_the_model_does_not_emit_is_told_the_names_that_exist():
    with pytest.raises(UsageError) as error:
        MODEL.encode(ROWS, ("imag",))
    assert "does not emit 'imag'" in str(error.value)
    assert str(error.value).endswith(
        "did you mean image? there are: image, image/pooled, image/tokens, text, text/pooled"
    )


def test_without_a_tokenizer_texts_are_refused():
    with pytest.raises(JaxrepError, match="this model has no tokenizer, so it cannot read texts: give it token ids"):
        Model(TRACED.structure, drawn(TRACED.arrays), TRACED.fields).encode_text(["red"])


def test_a_picture_is_resized_by_its_shorter_side_and_cut_in_the_middle():
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:, 16:32] = (10, 200, 90)  # the middle square; its neighbors reach a pixel into it, by bicubic weights
    found = MODEL.image(picture)
    assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(found[:, 2:-2], np.broadcast_to(np.uint8([10, 200, 90]), (8, 4, 3)))
    np.testing.assert_array_equal(MODEL.image(ROWS["image"][0]), ROWS["image"][0])


def test_what_is_transparent_becomes_white():
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 8, 4))
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:4] = (255, 0, 0)
    np.testing.assert_array_equal(MODEL.image(red), expected)
    grey = Image.new("LA", (8, 8), (40, 0))
    np.testing.assert_array_equal(MODEL.image(grey), np.full((8, 8, 3), 255, np.uint8))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9])
    palette.info["transparency"] = 0
    np.testing.assert_array_equal(MODEL.image(palette), np.full((8, 8, 3), 255, np.uint8))
    np.testing.assert_array_equal(MODEL.image(Image.new("L", (8, 8), 40)), np.full((8, 8, 3), 40, np.uint8))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    upright = Image.new("RGB", (8, 8), (0, 0, 0))
    upright.paste((250, 250, 250), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    upright.rotate(180).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(MODEL.image(tmp_path / "turned.png"), np.asarray(upright))


def test_an_array_of_another_type_is_refused():
    with pytest.raises(UsageError, match=r"a picture as an array is uint8, got float32 of shape \(8, 8, 3\)"):
        MODEL.image(np.zeros((8, 8, 3), np.float32))


def test_a_file_that_is_no_picture_and_a_tower_that_is_not_there_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"the picture /nowhere/at/all.png cannot be read: No such file"):
        MODEL.encode_image(["/nowhere/at/all.png"])
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(UsageError, match=r"text.png: the picture cannot be decoded \(unknown format\)"):
        MODEL.encode_image([tmp_path / "text.png"])
    with pytest.raises(UsageError, match="the model has no tower that reads 'sound'"):
        MODEL.encode_image([np.zeros((8, 8, 3), np.uint8)], "sound")
    with pytest.raises(UsageError, match="the model has no tower that reads 'caption'"):
        MODEL.encode_text(np.zeros((1, 6), np.int32), "caption")
