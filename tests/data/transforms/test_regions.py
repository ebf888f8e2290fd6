"""Scenes of emojis are reproducible, their boxes contain the drawn pictures, and regions are parsed from texts."""

import dataclasses

import numpy as np
import pytest

from jaxrep.data.images.crop import HostCenterCrop, HostRandomResizedCrop, HostResize
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.openmoji.scenes import INK, OpenMojiScenes
from jaxrep.data.source import Columns, Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.base import ComputedExamples
from jaxrep.data.transforms.regions import ParseRegions
from jaxrep.data.transforms.subsets import Take
from jaxrep.errors import JaxrepError
from jaxrep.spec import problems, spec

SMALL = OpenMojiScenes(image_size=64, min_size=0.2, max_size=0.375, count=60)  # pictures of 24 pixels


@pytest.fixture(scope="module")
def scenes():
    return SMALL.open()


def test_scenes_are_reproducible(scenes):
    again, other = SMALL.open(), dataclasses.replace(SMALL, seed=1).open()
    for index in (7, 3):
        for name, value in scenes[index].items():
            np.testing.assert_array_equal(value, again[index][name])
    assert not np.array_equal(scenes[3]["image"], other[3]["image"])


def test_captions_name_regions_and_columns_agree(scenes):
    rows = [scenes[index] for index in range(len(scenes))]
    for row in rows:
        names = [name for name, here in zip(row["region"], row["region/present"], strict=True) if here]
        assert 2 <= len(names) <= 4 and row["text"] == f"{', '.join(names[:-1])} and {names[-1]}"
        assert (np.array(row["region"]) != "").tolist() == row["region/present"].tolist()
    assert scenes.column("text") == [row["text"] for row in rows]
    np.testing.assert_array_equal(scenes.column("region_id"), [row["region_id"] for row in rows])
    one = dataclasses.replace(SMALL, min_emojis=1, max_emojis=1).open()[0]
    assert one["text"] == one["region"][0]


def test_boxes_contain_the_drawing_and_hardly_overlap(scenes):
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


def test_test_scenes_show_unseen_pictures(scenes):
    held_out = dataclasses.replace(SMALL, part="test").open()
    seen = {name for row in scenes.column("region") for name in row if name}
    assert seen <= set(OpenMoji(image_size=24).open().column("text"))
    unseen = {name for row in held_out.column("region") for name in row if name}
    assert unseen and not unseen & seen


def test_impossible_sizes_are_problems():
    wrong = OpenMojiScenes(min_emojis=3, max_emojis=2, min_size=0.6, max_size=0.5)
    assert len(problems(wrong)) == 2


@spec
class Written(Source):
    """A source without fields."""

    def fields(self):
        return {}

    def open(self):
        raise NotImplementedError


def test_regions_are_parsed_in_order_and_padded():
    texts = ["0.5 0.5 0.2 0.4 a red dot\n0.1 0.2 0.1 0.1 sky\n0.3 0.3 0.1 0.1 too many", ""]
    actual = ComputedExamples(
        ParseRegions(source=Written(), count=2), Columns({"regions": texts, "regions_id": np.arange(2)})
    )
    columns = actual.gather(np.arange(2))
    assert columns["region"] == [("a red dot", "sky"), ("", "")] == actual.column("region")
    np.testing.assert_array_equal(columns["region/present"], [[True, True], [False, False]])
    np.testing.assert_allclose(columns["boxes"][0], [[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.1, 0.1]], rtol=1e-6)
    assert set(columns) == {"region", "region/present", "boxes"} and (columns["boxes"][1] == 0).all()


@pytest.mark.parametrize("line", ["a dot", "0.5 0.5 0.2 wide dot", "0.5 0.5 2 0.1 dot", "0.5 0.5 0.2 nan dot"])
def test_faulty_region_is_reported(line):
    actual = ComputedExamples(ParseRegions(source=Written()), Columns({"regions": [line]}))
    with pytest.raises(JaxrepError, match="x y width height"):
        actual.gather(np.arange(1))


@pytest.mark.parametrize("crop", [HostCenterCrop(), HostRandomResizedCrop(), HostResize()])
def test_source_that_crops_is_refused_since_boxes_are_shares_of_the_whole_image(crop):
    pictures = TarShards(shards="a.tar", captions=("regions",), crop=crop)
    for source in (pictures, Take(source=pictures, count=2)):
        found = problems(ParseRegions(source=source))
        assert [type(crop).__name__ in line and "crop = HostResize()" in line for line in found] == [True] * len(found)
        assert len(found) == (not isinstance(crop, HostResize))
