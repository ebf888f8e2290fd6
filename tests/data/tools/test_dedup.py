"""Recompressed, resized and brightened copies are found, other images are not, and hashes are compared exactly."""

import io
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.dedup import dhash, fingerprint, groups, near, phash, shared
from tests.helpers.tars import write


def _photo(seed):
    """Smooth blobs, which differ as much as images do."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC))


def _bits(hashed):
    return bin(hashed).count("1")


@pytest.mark.parametrize("hashing", [dhash, phash])
def test_copies_are_near_and_others_far(hashing):
    for seed in range(5):
        original = _photo(seed)
        jpeg = io.BytesIO()
        original.save(jpeg, "JPEG", quality=40)
        copies = [Image.open(jpeg), original.resize((48, 36)), ImageEnhance.Brightness(original).enhance(0.85)]
        for copy in copies:
            assert _bits(hashing(np.asarray(original)) ^ hashing(np.asarray(copy.convert("RGB")))) <= 6
        assert _bits(hashing(np.asarray(original)) ^ hashing(np.asarray(_photo(seed + 100)))) > 12


def test_dhash_is_as_defined():
    pixels = np.zeros((8, 9, 3), np.uint8)
    pixels[:, :, :] = np.arange(9)[None, :, None] * 10  # brighter to the right everywhere
    pixels[3] = pixels[3, ::-1]
    assert dhash(pixels) == 0xFFFFFF00FFFFFFFF


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 2**32))
def test_near_pairs_equal_brute_force(seeds, distance, seed):
    rng = np.random.default_rng(seed)
    flipped = [
        value ^ sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 8), replace=False)) for value in seeds
    ]
    values = np.array([*seeds, *flipped], np.uint64)
    actual = {tuple(sorted(pair)) for pairs in near(values, distance) for pair in pairs.tolist()}
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(values)), 2)
        if _bits(int(values[i]) ^ int(values[j])) <= distance
    }
    assert actual == expected


def test_groups_join_chains():
    values = np.array([0b0, 0b11 << 60, 0b1, 0b11, 0b11 << 60, 0b111 << 20], np.uint64)
    assert groups(values) == [[1, 4]]
    assert groups(values, 1) == [[0, 2, 3], [1, 4]]  # 0 and 0b11 are joined by 0b1


def test_shared_images_of_two_sets():
    train, test = np.array([7, 8, 7, 1 << 40], np.uint64), np.array([99, 7, (1 << 40) | 1], np.uint64)
    assert shared(train, test, 0) == [(0, 1)]
    assert shared(train, test, 1) == [(0, 1), (3, 2)]


def test_images_are_hashed_and_bad_ones_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    members = []
    for name, seed, quality in (("a", 1, 95), ("b", 2, 95), ("c", 1, 95), ("d", 1, 60)):
        file = io.BytesIO()
        _photo(seed).save(file, "JPEG", quality=quality)
        members.append((f"{name}.jpg", file.getvalue()))
    write(tmp_path / "x.tar", [*members, ("e.jpg", b"no picture")])
    actual = fingerprint(parse_source(f"{tmp_path}/x.tar,text=").open())
    assert actual.indices.tolist() == [0, 1, 2, 3] and actual.bad == {"the image cannot be decoded": 1}
    assert groups(actual.digests) == [[0, 2]] and groups(actual.hashes, 3) == [[0, 2, 3]]
