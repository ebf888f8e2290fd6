"""Scenes of emojis and written regions: the same each time, with boxes that hold what is drawn."""

import dataclasses

import numpy as np
import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.openmoji.scenes import INK, OpenMojiScenes
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.regions import RegionExamples, Regions
from jaxrep.errors import JaxrepError
from jaxrep.spec import problems, spec

SMALL = OpenMojiScenes(image_size=64, smallest=0.2, largest=0.375, count=60)  # pictures of 24 pixels


@pytest.fixture(scope="module")
def scenes():
    return SMALL.open()


def test_a_scene_is_what_its_fields_say(scenes):
    columns = scenes.gather(np.arange(8))
    for name, field in SMALL.fields().items():
        values = columns[name]
        if field.dtype == "str":
            assert all(len(np.shape(value)) == len(field.shape) for value in values), name
        else:
            assert (values.shape, str(values.dtype)) == ((8, *field.shape), field.dtype), name


def test_scenes_are_the_same_each_time_whatever_was_read_before(scenes):
    again, other = SMALL.open(), dataclasses.replace(SMALL, seed=1).open()
    for index in (7, 3):
        for name, value in scenes[index].items():
            np.testing.assert_array_equal(value, again[index][name])
    assert not np.array_equal(scenes[3]["image"], other[3]["image"])


def test_captions_hold_the_names_and_columns_are_told_without_pictures(scenes):
    rows = [scenes[index] for index in range(len(scenes))]
    for row in rows:
        names = [name for name, here in zip(row["region"], row["region/present"], strict=True) if here]
        assert 2 <= len(names) <= 4 and row["text"] == f"{', '.join(names[:-1])} and {names[-1]}"
        assert (np.array(row["region"]) != "").tolist() == row["region/present"].tolist()
    assert scenes.column("text") == [row["text"] for row in rows]
    np.testing.assert_array_equal(scenes.column("region_id"), [row["region_id"] for row in rows])
    one = dataclasses.replace(SMALL, fewest=1, most=1).open()[0]
    assert one["text"] == one["region"][0]


def test_boxes_hold_all_that_is_drawn_and_pictures_hardly_overlap(scenes):
    shares = []
    for index in range(len(scenes)):
        row = scenes[index]
        covered = np.zeros((64, 64), int)
        for middle_x, middle_y, width, height in 64 * row["boxes"][row["region/present"]]:
            edges = [middle_y - height / 2, middle_y + height / 2, middle_x - width / 2, middle_x + width / 2]
            low_y, high_y, low_x, high_x = np.rint(edges).astype(int)
            covered[low_y:high_y, low_x:high_x] += 1
        assert (row["image"][covered == 0] >= INK).all()
        assert (row["boxes"][~row["region/present"]] == 0).all()
        shares.append((covered > 1).sum() / (covered > 0).sum())
    assert np.mean(shares) < 0.05


def test_test_scenes_show_pictures_that_training_does_not(scenes):
    held_out = dataclasses.replace(SMALL, part="test").open()
    seen = {name for row in scenes.column("region") for name in row if name}
    assert seen <= set(OpenMoji(image_size=24).open().column("text"))
    unseen = {name for row in held_out.column("region") for name in row if name}
    assert unseen and not unseen & seen


def test_what_cannot_be_placed_is_refused():
    wrong = OpenMojiScenes(fewest=3, most=2, smallest=0.6, largest=0.5)
    assert len(problems(wrong)) == 2


@spec
class Written(Source):
    """Pictures are not needed here."""


def test_regions_are_read_in_their_order_and_filled_up():
    texts = ["0.5 0.5 0.2 0.4 a red dot\n0.1 0.2 0.1 0.1 sky\n0.3 0.3 0.1 0.1 too many", ""]
    found = RegionExamples(Regions(source=Written(), count=2), Columns({"regions": texts, "regions_id": np.arange(2)}))
    columns = found.gather(np.arange(2))
    assert columns["region"] == [("a red dot", "sky"), ("", "")] == found.column("region")
    np.testing.assert_array_equal(columns["region/present"], [[True, True], [False, False]])
    np.testing.assert_allclose(columns["boxes"][0], [[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.1, 0.1]], rtol=1e-6)
    assert set(columns) == {"region", "region/present", "boxes"} and (columns["boxes"][1] == 0).all()


@pytest.mark.parametrize("line", ["a dot", "0.5 0.5 0.2 wide dot", "0.5 0.5 2 0.1 dot", "0.5 0.5 0.2 nan dot"])
def test_a_region_that_cannot_be_read_is_named(line):
    found = RegionExamples(Regions(source=Written()), Columns({"regions": [line]}))
    with pytest.raises(JaxrepError, match="x y width height"):
        found.gather(np.arange(1))
