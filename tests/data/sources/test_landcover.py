"""Maps of land cover: materials have their spectra, mix at borders, and follow from the seed alone."""

import dataclasses

import numpy as np
import pytest

from jaxrep.data import Landcover, LandcoverSpectra
from jaxrep.data.sources.landcover import MATERIALS, surfaces
from jaxrep.spec import problems

CLEAR = Landcover(image_size=24, count=8, light=0.0, noise=0.0, mixing=1e-3)
"""Maps without light, noise and borders: each pixel has the spectrum of its material."""


def test_pixels_have_the_spectrum_of_their_material():
    examples, spectra = CLEAR.open(), np.array(list(MATERIALS.values()))
    for index in range(len(examples)):
        example = examples[index]
        difference = np.abs(example["image"] - spectra[example["mask"]] * 255).max(axis=-1)
        assert (difference <= 0.5).mean() > 0.95  # the others lie on a border
        assert example["label"] == np.bincount(example["mask"].ravel()).argmax()
    assert examples.classes["mask"] == list(MATERIALS)


def test_forest_and_crops_are_alike_in_the_visible_only():
    forest, crops = np.array(MATERIALS["forest"]), np.array(MATERIALS["crops"])
    np.testing.assert_array_equal(forest[:3], crops[:3])
    assert (crops[3:] > forest[3:] + 0.02).all()


def test_shares_add_up_and_light_is_the_same_in_all_bands():
    spectra = np.array(list(MATERIALS.values()))
    mixed = dataclasses.replace(CLEAR, mixing=0.5)
    lit = dataclasses.replace(mixed, light=0.3)
    reflected, mask, _ = mixed.open().draw(0)
    shares = np.linalg.lstsq(spectra.T, reflected.reshape(-1, 10).T, rcond=None)[0].T
    assert shares.min() > -1e-4 and shares.max() < 1 + 1e-4
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(shares.argmax(axis=1), mask.ravel())
    ratio = lit.open().draw(0)[0] / reflected
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[..., :1], ratio.shape), rtol=1e-5)
    assert np.log(ratio).std() > 0.05


def test_surfaces_are_sums_of_waves():
    actual = surfaces(np.random.default_rng(3), 2, 5, 2.0)
    random = np.random.default_rng(3)
    waves, phase = random.uniform(-2, 2, (2, 2, 16, 1))[..., 0], random.uniform(0, 1, (2, 16, 1))[..., 0]
    for k in range(2):
        for i in range(5):
            for j in range(5):
                angle = 2 * np.pi * (waves[0, k] * i / 5 + phase[k] + waves[1, k] * j / 5)
                np.testing.assert_allclose(actual[k, i, j], np.cos(angle).sum() * np.sqrt(2 / 16), atol=1e-9)


def test_pictures_follow_from_seed_part_and_index():
    source = Landcover(image_size=8, count=4)
    one, more = source.open(), dataclasses.replace(source, count=9).open()
    for index in range(4):
        np.testing.assert_array_equal(one[index]["image"], more[index]["image"])
    for change in ({"seed": 1}, {"part": "test"}):
        assert (dataclasses.replace(source, **change).open()[0]["image"] != one[0]["image"]).any()
    with pytest.raises(IndexError, match="picture 4 of 4"):
        one[4]


def test_spectra_are_pixels_of_the_maps():
    spectra = LandcoverSpectra(maps=CLEAR, pixels=7).open()
    assert len(spectra) == 7 * CLEAR.count
    maps = CLEAR.open()
    for index in range(CLEAR.count):
        reflected, mask, _ = maps.draw(index)
        for row in range(7 * index, 7 * index + 7):
            at = (reflected == spectra[row]["spectrum"]).all(axis=-1)
            assert spectra[row]["material"] in mask[at]


@pytest.mark.parametrize("field, value", [("image_size", 0), ("mixing", 0.0), ("noise", -1.0), ("part", "all")])
def test_invalid_values_are_problems(field, value):
    (sentence,) = problems(Landcover(**{field: value}))
    assert sentence.startswith(field)
