"""A cached array is complete or absent."""

import os
import resource
import tempfile

import numpy as np
import pytest

from jaxrep import disk_cache
from jaxrep.disk_cache import cached
from tests.helpers.harness import logged

ARRAY = np.arange(60_000, dtype=np.uint8).reshape(100, 200, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _never():
    raise AssertionError("made again")


def test_array_is_made_once(folder):
    np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
    np.testing.assert_array_equal(cached("a.npy", _never), ARRAY)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_damaged_file_is_made_again(folder, damage):
    cached("a.npy", lambda: ARRAY)
    content = bytearray((folder / "a.npy").read_bytes())
    content[5_000] ^= 1
    (folder / "a.npy").write_bytes({"empty": b"", "cut": content[:1_000], "flipped": content}[damage])
    with logged() as messages:
        np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
    assert len(messages) == 1 and "a.npy is damaged" in messages[0]
    np.testing.assert_array_equal(cached("a.npy", _never), ARRAY)


def test_nested_writes_of_the_same_array(folder):
    np.testing.assert_array_equal(cached("a.npy", lambda: cached("a.npy", lambda: ARRAY)), ARRAY)
    assert [path.name for path in folder.iterdir()] == ["a.npy"]


def temporary(monkeypatch, tmp_path):
    """Temporary folders are made below ``tmp_path``; return that of the cache."""
    disk_cache._temporary.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"jaxrep-{os.getuid()}"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JAXREP_CACHE": "{here}/own", "XDG_CACHE_HOME": "{here}/xdg", "HOME": "{here}"}, "own"),
        ({"XDG_CACHE_HOME": "{here}/xdg", "HOME": "{here}"}, "xdg/jaxrep"),
        ({"HOME": "{here}/home"}, "home/.cache/jaxrep"),
        ({"JAXREP_CACHE": "~/other", "HOME": "{here}/home"}, "home/other"),
    ],
)
def test_folder_of_the_cache(tmp_path, monkeypatch, environment, expected):
    for name in ("JAXREP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(here=tmp_path))
    with logged() as messages:
        assert disk_cache.cache_dir() == tmp_path / expected
    assert messages == []


@pytest.mark.parametrize("place", ["/proc/jaxrep", "{here}/file", "{here}/file/below", "~nobody-there/x"])
def test_unusable_cache_is_replaced_by_a_temporary_one_and_told_once(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXREP_CACHE", place.format(here=tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc")  # for root, all can be written
    folder = temporary(monkeypatch, tmp_path)
    with logged() as messages:
        np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
        np.testing.assert_array_equal(cached("a.npy", _never), ARRAY)
    assert len(messages) == 1 and "JAXREP_CACHE names another folder" in messages[0]
    assert (folder / "a.npy").exists() and folder.stat().st_mode & 0o77 == 0


def test_temporary_cache_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE", "~nobody-there/x")
    folder = temporary(monkeypatch, tmp_path)
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with logged():
        assert disk_cache.cache_dir() not in (folder, tmp_path / "theirs")


def test_folder_in_place_of_a_file_costs_time_only(folder):
    (folder / "a.npy").mkdir(parents=True)
    with logged() as messages:
        np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
    assert messages and all("a.npy cannot be used (Is a directory)" in message for message in messages)


def test_full_disk_costs_time_only_and_leaves_no_file(folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with logged() as messages:
            np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(messages) == 1 and "a.npy cannot be used (File too large)" in messages[0]
    assert not list(folder.iterdir())
