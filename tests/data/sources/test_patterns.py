"""Patterns expand braces as a shell does, globs are sorted, and URLs work alike."""

import os

import fsspec
import pytest

from jaxrep.data.sources.patterns import braces, files
from jaxrep.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("x-{008..011}.tar", ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("t{,est}", ["t", "test"]),
        ("{a,{1..2}}", ["a", "1", "2"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, expected):
    assert braces(pattern) == expected


@pytest.mark.parametrize(("pattern", "why"), [("{0..", "half"), ("{9..0}", "ascending range"), ("{}", "{00..99}")])
def test_faulty_braces_are_refused(pattern, why):
    with pytest.raises(UsageError, match=why):
        braces(pattern)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tar", "a.tar", "c0.tar", "c1.tar", "odd[0].tar", "d.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_are_in_given_order_and_globs_sorted(folder):
    actual = files((f"{folder}/c{{0..1}}.tar", f"{folder}/?.tar", f"{folder}/odd[0].tar"))
    assert [os.path.basename(path) for path in actual] == ["c0.tar", "c1.tar", "a.tar", "b.tar", "odd[0].tar"]
    assert [os.path.basename(path) for path in files(f"{folder}/d.txt")] == ["d.txt"]


def test_missing_file_is_reported(folder):
    with pytest.raises(UsageError, match=r"there is no file .*c2.tar, from the pattern '.*c\{0..2\}.tar'"):
        files(f"{folder}/c{{0..2}}.tar")
    with pytest.raises(UsageError, match=r"no file matches .*\*.zip"):
        files(f"{folder}/*.zip")


def test_a_folder_is_named_by_its_files(tmp_path):
    (tmp_path / "pool").mkdir()
    for name in ("a.tar", "b.tar", "a.json"):
        (tmp_path / "pool" / name).touch()
    with pytest.raises(UsageError, match=r"pool is a folder, and files are read: name them, as '.*/pool/\*\.tar'"):
        files(f"{tmp_path}/pool/")


def test_urls_are_unchanged_and_their_globs_sorted():
    assert files("gs://bucket/{00000..41455}.tar")[-1] == "gs://bucket/41455.tar"  # no store is asked
    assert files("https://host/a.tar?token=1") == ["https://host/a.tar?token=1"]
    store = fsspec.filesystem("memory")
    for file in ("b.tar", "a.tar", "c.txt"):
        store.pipe(f"/patterns/{file}", b"")
    assert [os.path.basename(path) for path in files("memory://patterns/*.tar")] == ["a.tar", "b.tar"]
    with pytest.raises(UsageError, match=r"no file matches 'memory://patterns/\*.zip'"):
        files("memory://patterns/*.zip")


def test_store_without_driver_is_reported():
    with pytest.raises(UsageError, match=r"nosuch://bucket/\*.tar cannot be reached: Protocol not known: nosuch"):
        files("nosuch://bucket/*.tar")


@pytest.mark.parametrize("name", ["a b[1]", "[x]", "a{1,2}", "b[!c]/d[0-9]"])
def test_brackets_of_existing_folders_are_literal(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    for file in ("b.parquet", "a.parquet", "c.txt"):
        (tmp_path / name / file).touch()
    pattern = f"{tmp_path}/{name}/*.parquet"
    if "{" in name:
        pattern = pattern.replace("*", "a")  # braces are expanded unless the whole path is a file
    actual = files(pattern)
    assert actual == [
        f"{tmp_path}/{name}/{file}" for file in (["a.parquet"] if "{" in name else ["a.parquet", "b.parquet"])
    ]
    (tmp_path / "x1").mkdir()
    (tmp_path / "x1" / "y.parquet").touch()
    assert files(f"{tmp_path}/x[1]/*.parquet") == [f"{tmp_path}/x1/y.parquet"]  # no folder has this name
