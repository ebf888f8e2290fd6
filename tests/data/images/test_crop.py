"""Host crops follow their spec and depend on their key alone."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxrep.data.images.crop import Box, HostCenterCrop, HostRandomResizedCrop, HostResize
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.spec import problems


def test_center_crop_matches_pillow():
    for width, height, shape in ((640, 480, 1.0), (30, 90, 1.0), (100, 100, 0.5), (64, 48, 4 / 3)):
        columns = Image.fromarray(np.tile(np.arange(width, dtype=np.float32), (height, 1)))
        rows = Image.fromarray(np.tile(np.arange(height, dtype=np.float32)[:, None], (1, width)))
        box = HostCenterCrop().box(width, height, shape, None)
        size = (box.right - box.left, box.bottom - box.top)
        assert size[0] / size[1] == pytest.approx(shape)
        assert np.asarray(ImageOps.fit(columns, size))[0, 0] == box.left
        assert np.asarray(ImageOps.fit(rows, size))[0, 0] == box.top
    assert HostResize().box(30, 20, 1.0, None) == Box(0, 0, 30, 20)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (300, 256), (256, 411)])
def test_center_crop_of_a_share_is_the_middle_of_a_resized_picture(width, height):
    """Pictures whose short side is 256 pixels, of which ImageNet's usual evaluation reads the middle 224."""
    box = HostCenterCrop(side=224 / 256).box(width, height, 1, None)
    left, top = (width - 224) // 2, (height - 224) // 2
    assert box == (left, top, left + 224, top + 224)
    left, top, right, bottom = HostCenterCrop(side=0.001).box(width, height, 1, 7)
    assert (right - left, bottom - top) == (1, 1)
    assert [*problems(HostCenterCrop(side=0.0))] and [*problems(HostCenterCrop(side=1.5))]


def test_random_boxes_cover_the_declared_ranges():
    crop, width, height = HostRandomResizedCrop(scale=(0.2, 0.5)), 400, 300
    boxes = np.array([crop.box(width, height, 1.0, key) for key in range(4000)])
    left, top, right, bottom = boxes.T
    area, ratio = (right - left) * (bottom - top) / (width * height), (right - left) / (bottom - top)
    assert left.min() == 0 and top.min() == 0 and right.max() == width and bottom.max() == height
    # Whole pixels move an area by 1% here. Four standard errors of 4,000 draws: 0.0055 and 0.0105
    assert area.min() > 0.198 and area.max() < 0.506 and abs(area.mean() - 0.35) < 0.0055
    assert ratio.min() > 0.74 and ratio.max() < 1.35 and abs(np.log(ratio).mean()) < 0.0105
    # where there is room, places are uniform: the mean share of the room is a half
    assert abs((left / (width - (right - left))).mean() - 0.5) < 0.02
    assert abs((top / (height - (bottom - top))).mean() - 0.5) < 0.02


def test_box_depends_on_its_key():
    crop = HostRandomResizedCrop(scale=(0.08, 1.0))
    boxes = [crop.box(400, 300, 1.0, key) for key in (0, 1, 2**64 - 1)]
    assert boxes == [crop.box(400, 300, 1.0, key) for key in (0, 1, 2**64 - 1)]
    assert len(set(boxes)) == 3
    # published with the first release: a run that is resumed by a later one goes on with the same crops
    assert boxes == [(23, 0, 368, 298), (174, 40, 347, 181), (62, 114, 167, 229)]


def test_random_crop_without_key_is_center_crop():
    assert HostRandomResizedCrop().box(400, 300, 1.0, None) == Box(50, 0, 350, 300)


def test_random_crop_falls_back_to_the_center():
    """Check the largest central box of an allowed aspect ratio, as in torchvision."""
    crop = HostRandomResizedCrop(scale=(1.0, 1.0))
    assert crop.box(300, 30, 1.0, 7) == Box(130, 0, 170, 30)
    assert crop.box(30, 300, 1.0, 7) == Box(0, 130, 30, 170)


def test_invalid_crop_ranges():
    assert problems(HostRandomResizedCrop(scale=(0.08, 1.0))) == []
    assert len(problems(HostRandomResizedCrop(scale=(0.5, 1.2), ratio=(0.0, 1.0)))) == 2


def test_source_crops_by_key_and_center_without(tmp_path):
    ramp = np.tile(np.arange(120, dtype=np.uint8), (80, 1))  # the value is the column
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crop = HostRandomResizedCrop(scale=(0.1, 0.2))
    examples = ImageFolder(path=str(tmp_path), labels_from_folders=False, image_size=20, crop=crop).open()
    middle = examples[0]["image"]
    drawn = examples.gather(np.zeros(3, np.int64), np.array([1, 2, 1], np.uint64))["image"]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    boxes = Box(20, 0, 100, 80), crop.box(120, 80, 1.0, 1), crop.box(120, 80, 1.0, 2)
    for pixels, box in zip((middle, *drawn[:2]), boxes, strict=True):
        # the mean column of the box: resizing keeps it but for rounding
        assert abs(pixels.mean() - (box.left + box.right - 1) / 2) < 1
