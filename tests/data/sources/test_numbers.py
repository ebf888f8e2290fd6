"""Numbers of an example are decoded to their declared shape and type, and nothing is unpickled."""

import json
import pickle

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.sources.numbers import Numbers
from jaxrep.spec import problems
from tests.helpers.tars import npy


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i1", "<i8", "u2", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_arrays_equal_numpy(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for kept in (array, np.array(array, order="F")):
        for declared in ("float32", "int32", "bool"):
            actual = Numbers(at="npy", shape=shape, dtype=declared).decode(npy(kept))
            assert actual.dtype == declared and actual.shape == shape
            np.testing.assert_array_equal(actual, array.astype(declared))
    assert Numbers(at="npy", shape=shape).field() == Field(shape, "float32")


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        ("0.25", {}, np.float32(0.25)),
        ("3", {"dtype": "int32"}, np.int32(3)),
        ("[[1, 2.5], [3, 4]]", {"shape": (2, 2)}, np.array([[1, 2.5], [3, 4]], np.float32)),
        ("[true, false]", {"shape": (2,), "dtype": "bool"}, np.array([True, False])),
        ("[]", {"shape": (0,)}, np.zeros(0, np.float32)),
        (" 7\n", {}, np.float32(7)),
    ],
)
def test_json_is_read(content, fields, expected):
    actual = Numbers(at="json:x", **fields).decode(content.encode())
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


class Mark:
    """Raises where it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (npy(np.zeros((3, 4))), {"shape": (4,)}, r"have the shape \(3, 4\), and \(4,\) is declared"),
        (npy(np.zeros(1)), {}, r"have the shape \(1,\), and \(\) is declared"),
        (npy(np.array([Mark()], object)), {"shape": (1,)}, "Python objects"),
        (npy(np.array(["a"])), {"shape": (1,)}, "it holds <U1, and numbers are read"),
        (npy(np.zeros(2, "u8,u8")), {"shape": (2,)}, "and numbers are read"),
        (npy(np.array([1, np.nan])), {"shape": (2,)}, "a number that is not finite"),
        (npy(np.array(1e300)), {}, "a number that is not finite as float32"),
        (npy(np.array(2**40)), {"dtype": "int32"}, "int64 numbers that int32 cannot hold"),
        (npy(np.array(0.5)), {"dtype": "int32"}, "float64 numbers that int32 cannot hold"),
        (npy(np.array(3)), {"dtype": "bool"}, "int64 numbers that bool cannot hold"),
        (npy(np.zeros(9))[:-1], {"shape": (9,)}, "ends after"),
        (npy(np.zeros(9))[:20], {"shape": (9,)}, "header"),
        (b"\x93NUMPY\x09\x00", {}, "version"),
        (b"", {}, "neither a NumPy array nor numbers, but ''"),
        (pickle.dumps(1.0), {}, "neither a NumPy array nor numbers"),
        (b'"high"', {}, "it holds <U4, and numbers are read"),
        (b"[1, null]", {"shape": (2,)}, "it holds object, and numbers are read"),
        (b"[[1], [1, 2]]", {"shape": (2,)}, "neither a NumPy array nor numbers"),
        (b"NaN", {}, "not finite"),
        (json.dumps({"a": 1}).encode(), {}, "it holds object"),
        (b"[" * 100_000, {}, "neither a NumPy array nor numbers"),
    ],
)
def test_other_contents_are_refused(content, fields, message):
    with pytest.raises(ValueError, match=message):
        Numbers(at="npy", **fields).decode(content)


def test_shapes_and_types_are_checked():
    assert problems(Numbers(at="npy", shape=(512,), dtype="int32")) == []
    for fields in ({"shape": (-1,)}, {"shape": 3}, {"dtype": "float64"}):
        assert problems(Numbers(at="npy", **fields))  # pyright: ignore[reportArgumentType]
