"""Boxes that crops tell are those of the pixels: pictures hold their own coordinates, and a loop reads them back."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep import views
from jaxrep.batch import StepContext

B, HEIGHT, WIDTH = 6, 24, 36
X, Y = np.meshgrid((np.arange(WIDTH) + 0.5) / WIDTH, (np.arange(HEIGHT) + 0.5) / HEIGHT)
PICTURES = np.tile(np.stack([X, Y], axis=-1).astype(np.float32), (B, 1, 1, 1))
CROP = views.RandomResizedCrop("a", size=12, scale=(0.2, 0.6), tell_box=True)


def after(*steps: views.View, count: int = 0, fields: Mapping[str, np.ndarray] = {}) -> dict[str, np.ndarray]:
    positions = np.stack([np.zeros(B), np.arange(B)], 1).astype(np.uint32)
    ctx = StepContext(step=np.int32(3), base_key=jax.random.key(0), positions=positions)

    def run(batch):
        for i, view in enumerate((views.CopyField("image", out="a", count=count), *steps)):
            batch = view(batch, ctx.at(i))
        return batch

    return jax.device_get(jax.jit(run)({"image": jnp.asarray(PICTURES), **fields}))


CHAINS = {
    "resized": (CROP,),
    "square": (views.RandomSquareCrop("a", size=9, tell_box=True),),
    "mirrored": (CROP, views.RandomHorizontalFlip("a", p=1.0)),
    "mirrored first": (views.RandomHorizontalFlip("a", p=1.0), CROP),
    "crop of a mirrored crop": (
        views.RandomResizedCrop("a", size=40, scale=(0.5, 0.9), tell_box=True),
        views.RandomHorizontalFlip("a"),
        views.RandomSquareCrop("a", size=16),
        views.RandomResizedCrop("a", size=10, scale=(0.4, 0.9), tell_box=True),
    ),
    "moved": (CROP, views.RandomTranslate("a", pixels=2, fill=0.0)),
    "painted": (CROP, views.Cutout("a", size=2, fill=0.0), views.GaussianBlur("a", p=0.0), views.Solarize("a", p=0.0)),
}


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_a_box_gives_the_place_of_every_pixel(name, count):
    found = after(*CHAINS[name], count=count)
    images, boxes = found["a"].reshape(-1, *found["a"].shape[-3:]), found["a/box"].reshape(-1, 4)
    assert len(images) == len(boxes) == B * max(count, 1)
    assert found["a/box"].dtype == np.float32
    assert len(np.unique(boxes, axis=0)) > len(boxes) // 2
    size = images.shape[1]
    for image, (left, top, right, bottom) in zip(images, boxes, strict=True):
        columns = left + (right - left) * (np.arange(size) + 0.5) / size
        rows = top + (bottom - top) * (np.arange(size) + 0.5) / size
        places = np.stack(np.meshgrid(columns, rows), -1)
        if name == "mirrored first":  # the crop is the first view that tells: the mirrored picture is its picture
            places[..., 0] = 1 - places[..., 0]
        # Next to the edge of a crop the interpolation has no pixels beyond it, and covered pixels are 0.
        inside = np.zeros((size, size), bool)
        inside[3:-3, 3:-3] = True
        inside &= (image > 0).all(-1)
        assert inside.sum() > 8
        # A tenth of a pixel of the picture: a few weights of the interpolation do not reproduce a slope exactly.
        np.testing.assert_allclose(image[inside], places[inside], atol=0.1 / HEIGHT)
    if "mirrored" in name and name != "mirrored first":
        assert (boxes[:, 0] > boxes[:, 2]).any()


def test_nothing_is_told_unless_a_crop_is_asked():
    silent = views.RandomResizedCrop("a", size=12, scale=(0.2, 0.6))
    plain, told = after(silent, views.RandomHorizontalFlip("a")), after(CROP, views.RandomHorizontalFlip("a"))
    assert "a/box" not in plain
    np.testing.assert_array_equal(plain["a"], told["a"])


def test_copies_and_stacks_of_a_crop_keep_its_box():
    found = after(
        CROP,
        views.CopyField("a", out="b"),
        views.CopyField("a", out="many", count=2),
        views.StackFields("a", others=("b",)),
    )
    np.testing.assert_array_equal(found["many/box"], np.repeat(found["b/box"][:, None], 2, 1))
    np.testing.assert_array_equal(found["a/box"], found["many/box"])


def test_a_rotated_crop_and_strange_boxes_are_refused():
    with pytest.raises(ValueError, match="rotated image shows is no box: rotate 'a' before the crop"):
        after(CROP, views.RandomRotation("a", degrees=5.0))
    after(views.RandomRotation("a", degrees=5.0), CROP)
    with pytest.raises(ValueError, match=r"^'image/box' has shape \(6, 2, 4\), .* a box per image, \(6, 4\)"):
        after(views.RandomHorizontalFlip("image"), fields={"image/box": np.zeros((B, 2, 4), np.float32)})
