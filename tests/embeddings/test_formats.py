"""Every format keeps every number, of one part or of many, and never has all of them in memory."""

import tracemalloc

import numpy as np
import pytest

from jaxrep.embeddings.formats import FORMATS, NpzPart, write_npz
from tests.helpers.embedding_files import assert_equal, columns


def part(first, count, width=5):
    rng = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    embeddings = {name: rng.normal(size=(count, width)).astype(np.float32) for name in ("image", "text")}
    return {"key": np.array([f"é/{10**n}" for n in numbers]), "index": numbers, **embeddings}


@pytest.fixture
def parts(tmp_path):
    """Three parts whose longest keys are of different lengths, and the same parts as files."""
    found = [part(0, 3), part(3, 1), part(4, 5)]
    for number, one in enumerate(found):
        write_npz(tmp_path / f"{number}.npz", [one])
    return found, [NpzPart(tmp_path / f"{number}.npz") for number in range(3)]


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_are_merged_in_order(tmp_path, parts, kind):
    arrays, stored = parts
    expected = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    ending, write = FORMATS[kind]
    write(tmp_path / f"a{ending}", stored)
    assert_equal(columns(tmp_path / f"a{ending}"), expected)
    write(tmp_path / f"b{ending}", [expected])
    assert_equal(columns(tmp_path / f"b{ending}"), expected)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_equal_parts_give_equal_bytes(tmp_path, parts, kind):
    _, stored = parts
    for name in "ab":
        FORMATS[kind][1](tmp_path / name, stored)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_parquet_has_fixed_size_lists(tmp_path, parts):
    from pyarrow import parquet

    FORMATS["parquet"][1](tmp_path / "a.parquet", parts[1])
    kinds = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "a.parquet")}
    assert kinds["image"].startswith("fixed_size_list<") and kinds["image"].endswith("float>[5]")
    assert (kinds["key"], kinds["index"]) == ("string", "int64")


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_is_bounded_by_a_part(tmp_path, kind):
    for number in range(12):
        write_npz(tmp_path / f"{number}.npz", [part(100 * number, 100, width=512)])
    stored = [NpzPart(tmp_path / f"{number}.npz") for number in range(12)]
    FORMATS[kind][1](tmp_path / "before", stored[:2])  # what is imported stays
    tracemalloc.start()
    FORMATS[kind][1](tmp_path / "out", stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A part is 0.4 MB, and 3.3 MB as Python's numbers, of which ArrayRecord is made; a few are there at once. All
    # twelve are 4.9 MB, and 39 MB.
    assert peak < (9e6 if kind == "arrayrecord" else 2.5e6)
