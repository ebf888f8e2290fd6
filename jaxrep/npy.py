"""Read arrays in NumPy's formats (.npy, .npz), from several threads at a time.

NumPy parses a header as a Python literal. Python 3.11's parser counts its depth for all threads together, and raises
SystemError if two of them parse at once (https://github.com/python/cpython/issues/106905). So threads take turns here.
"""

import io
import math
import threading
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, Any, NamedTuple

import numpy as np

ATTEMPTS = 100
"""Attempts at a header, since threads of other libraries may parse at the same time."""

GIB = 2**30

MAX_UNPACKED = 2 * GIB
"""Bytes that the arrays of one .npz file may take: a small file may unpack to a thousand times its size."""

_parser = threading.Lock()


class Header(NamedTuple):
    """Describe the array whose data follow."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def read_npy_header(file: IO[bytes]) -> Header:
    """Read the header of an array, after which the data begin. Raises ValueError: it is damaged."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of version {version[0]}.{version[1]} of the format, and 1.0 and 2.0 can be read")
    length = file.read(2 * version[0])
    content = length + file.read(int.from_bytes(length, "little"))
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    for attempt in range(ATTEMPTS):
        try:
            with _parser:
                return Header(*parse(io.BytesIO(content)))
        except SystemError:
            if attempt == ATTEMPTS - 1:
                raise
        except TypeError as error:  # of a damaged type
            raise ValueError(str(error)) from error
    raise AssertionError("unreachable")


def read_npy(file: IO[bytes]) -> np.ndarray:
    """Read an array, as ``numpy.load`` does. Raises ValueError: it is damaged, or holds Python objects."""
    shape, fortran_order, dtype = read_npy_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    array = np.ndarray(math.prod(shape), dtype)
    if array.nbytes and (read := file.readinto(array.view(np.uint8))) < array.nbytes:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"it ends after {read} of the {array.nbytes} bytes of its data")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def read_npz(file: Any, names: Iterable[str] = (), limit: int | None = None) -> dict[str, np.ndarray]:
    """Read ``names`` of an .npz file, or all its arrays, from a path or an open file.

    Raises ValueError: it is damaged, or its arrays take more than ``limit`` (2 GiB) bytes; OSError: it cannot be read.
    """
    limit = MAX_UNPACKED if limit is None else limit
    try:
        with zipfile.ZipFile(file) as archive:
            members = [f"{name}.npy" for name in names] or archive.namelist()
            size = sum(archive.getinfo(member).file_size for member in members)
            if size > limit:
                raise ValueError(f"its arrays take {size / GIB:.3g} GiB, more than {limit / GIB:.3g}: split it")
            arrays = {}
            for member in members:
                with archive.open(member) as content:
                    arrays[member.removesuffix(".npy")] = read_npy(content)
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
