"""A cached array is complete or absent."""

import resource

import numpy as np
import pytest

from jaxrep.disk_cache import cached
from jaxrep.errors import UsageError

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
def test_damaged_file_is_made_again(folder, damage, capsys):
    cached("a.npy", lambda: ARRAY)
    content = bytearray((folder / "a.npy").read_bytes())
    content[5_000] ^= 1
    (folder / "a.npy").write_bytes({"empty": b"", "cut": content[:1_000], "flipped": content}[damage])
    np.testing.assert_array_equal(cached("a.npy", lambda: ARRAY), ARRAY)
    assert "a.npy is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(cached("a.npy", _never), ARRAY)


def test_nested_writes_of_the_same_array(folder):
    np.testing.assert_array_equal(cached("a.npy", lambda: cached("a.npy", lambda: ARRAY)), ARRAY)
    assert [path.name for path in folder.iterdir()] == ["a.npy"]


def test_unwritable_folder_is_an_error_before_any_work(folder):
    folder.write_text("a file where the folder should be")
    with pytest.raises(UsageError, match=r"^the cache file .*a\.npy cannot be written \(.*\): .* JAXREP_CACHE$"):
        cached("a.npy", _never)


def test_full_disk_is_an_error_and_leaves_no_file(folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UsageError, match=r"^the cache file .*a\.npy cannot be written \(.*\): make room"):
            cached("a.npy", lambda: ARRAY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.iterdir())
