"""Label maps are cropped and resized like their images, and keep their class numbers."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.images.crop import HostRandomResizedCrop
from jaxrep.data.openmoji.emoji import CLASSES, OpenMoji
from jaxrep.data.openmoji.masks import OpenMojiMasks
from jaxrep.data.openmoji.scenes import INK, OpenMojiScenes
from jaxrep.data.sources.label_maps import LabelMaps
from jaxrep.errors import BadSample, UsageError

HEIGHT, WIDTH = 12, 16


@pytest.fixture
def folders(tmp_path):
    """Pictures in which a pixel is 100 times its class, and maps of one channel, of a palette, and of one bit."""
    random = np.random.default_rng(0)
    for name, mode, most in (("a.png", "L", 3), ("deep/b.png", "P", 3), ("c.png", "1", 2)):
        classes = random.integers(most, size=(HEIGHT // 2, WIDTH // 2)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
        for folder, array in (("pictures", 100 * classes), ("maps", classes)):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            if folder == "maps" and mode == "P":
                picture = picture.copy()
                picture.putpalette([(7 * value) % 256 for value in range(768)])
            if folder == "maps" and mode == "1":
                picture = Image.fromarray(array.astype(bool))
            assert folder == "pictures" or picture.mode == mode
            picture.save(path)
    return LabelMaps(path=f"{tmp_path}/pictures", masks=f"{tmp_path}/maps", image_size=6, classes=3), tmp_path


def test_map_is_aligned_with_its_image(folders):
    source, _ = folders
    assert source.fields()["mask"] == Field((6, 6), "int32", 3) and "mask_id" not in source.fields()
    examples = source.open()
    assert examples.column("key") == ["a.png", "c.png", "deep/b.png"]
    for index in range(3):
        row = examples[index]
        assert set(row) == set(source.fields()) and row["mask"].dtype == np.int32
        np.testing.assert_array_equal(row["mask"], np.rint(row["image"][..., 0] / 100))


def test_random_crop_is_that_of_the_image(folders):
    source, _ = folders
    drawn = dataclasses.replace(source, image_size=8, crop=HostRandomResizedCrop(scale=(0.3, 0.5), ratio=(1, 1))).open()
    kept = []
    for key in range(8):
        row = drawn.decoded(0, drawn.contents(0), key)
        # Where interpolation mixes two classes, the picture is of neither.
        sure = np.isin(row["image"][..., 0], (0, 100, 200))
        np.testing.assert_array_equal(row["mask"][sure], row["image"][..., 0][sure] // 100)
        kept.append(sure.mean())
    assert np.mean(kept) > 0.2


def test_unfit_map_is_a_bad_sample(folders):
    source, folder = folders
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "maps/a.png")
    Image.new("L", (HEIGHT, WIDTH)).save(folder / "maps/c.png")
    (folder / "maps/deep/b.png").unlink()
    examples = source.open()
    message = (
        "maps/a.png: a map of classes has one channel",
        "the map has 12 x 16 pixels, and its image 16 x 12",
        "b.png",
    )
    for index, sentence in enumerate(message):
        with pytest.raises(BadSample, match=sentence):
            examples[index]
    with pytest.raises(UsageError, match="has no image"):
        LabelMaps(path=str(folder / "maps/deep"), masks="x").open()


def test_map_of_scene_has_groups_of_its_emojis():
    scenes = OpenMojiScenes(image_size=64, min_size=0.2, max_size=0.375, count=20)
    source, emojis = OpenMojiMasks(scenes=scenes), OpenMoji(image_size=24).open()
    examples, plain = source.open(), scenes.open()
    groups = dict(zip(emojis.column("text"), emojis.column("group"), strict=True))
    assert examples.classes["mask"] == ["background", *emojis.classes["group"]]
    assert source.fields()["mask"] == Field((64, 64), "int32", CLASSES["group"] + 1) and len(examples) == 20
    for index in range(20):
        row, scene = examples[index], plain[index]
        np.testing.assert_array_equal(row["image"], scene["image"])
        np.testing.assert_array_equal(row["mask"] > 0, scene["image"].min(axis=-1) < INK)
        names = [name for name in scene["region"] if name]
        assert set(np.unique(row["mask"])) - {0} == {groups[name] + 1 for name in names}
        for name, box in zip(names, 64 * scene["boxes"], strict=False):
            x, y, width, height = box
            inside = row["mask"][
                round(y - height / 2) : round(y + height / 2), round(x - width / 2) : round(x + width / 2)
            ]
            assert (inside == groups[name] + 1).any()


def test_column_of_maps_marks_one_that_cannot_be_read(folders):
    source, folder = folders
    (folder / "maps/c.png").write_bytes(b"no map")
    masks = source.open().column("mask")
    assert masks.shape == (3, 6, 6) and (masks[1] == -1).all() and masks[[0, 2]].min() >= 0
