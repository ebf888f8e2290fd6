"""Keep the examples that a file of uids names, as DataComp and DFN publish their subsets of a pool.

A uid has 128 bits. A file holds them as a sorted array of pairs of 64 bits (NumPy's dtype ``u8,u8``), or as text, one
uid of 32 hexadecimal digits per line (Gadre et al. 2023, DataComp, arXiv:2304.14108; its ``resharder.py``). The array
is searched where it lies, so that memory does not grow with it.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrep.data.local_copy import local_copy
from jaxrep.data.source import Examples
from jaxrep.data.sources.numbers import MAGIC
from jaxrep.data.sources.patterns import local
from jaxrep.data.transforms.base import SubsetSource
from jaxrep.errors import UsageError
from jaxrep.npy import read_npy_header
from jaxrep.spec import spec
from jaxrep.storage import open_stream

UID = np.dtype("u8,u8")
"""The high and the low 64 bits of a uid."""
DIGITS = 32
BLOCK = 2**20
"""Uids of a file that are compared with each other at a time."""
EXPECTED = (
    "expected a .npy array of dtype u8,u8, as DataComp has, or text with one uid of 32 hexadecimal digits per line"
)


@spec
class KeepUids(SubsetSource):
    """Keep the examples whose uid a file has, as often as it has them; DataComp's and DFN's subsets are such files."""

    path: str
    """The file of uids, or its URL: a sorted .npy array of dtype u8,u8, or a text with a hexadecimal uid per line."""
    column: str = "uid"
    """Column of the examples' uids, 32 hexadecimal digits each."""

    def indices(self, examples: Examples) -> np.ndarray:
        uids = read_uids(local(self.path))
        kept, start, unknown, first = [], 0, 0, ""
        for values in examples.column_parts(self.column):
            queries, known = self._queries(values)
            counts = np.zeros(len(values), np.int64)
            counts[known] = count_uids(uids, queries)
            kept.append(np.repeat(np.arange(start, start + len(values)), counts))
            start, unknown = start + len(values), unknown + int((~known).sum())
            first = first or next((values[at] for at in np.flatnonzero(known)[:1]), "")
        indices = np.concatenate(kept) if kept else np.zeros(0, np.int64)
        if not len(indices):
            why = f"the first is {first}" if first else f"none of them is {DIGITS} hexadecimal digits"
            raise UsageError(
                f"{self.path} has none of the uids in the column '{self.column}' of {start:,} examples: {why}, and the "
                f"file's first of {len(uids):,} is {_written(uids[0])}"
            )
        if unknown:
            print(
                f"{unknown:,} of {start:,} examples have no uid of {DIGITS} hexadecimal digits in the column "
                f"'{self.column}': they are left out",
                file=sys.stderr,
            )
        return indices

    def _queries(self, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the uids among values UID [K], and which values are uids, bool [N]. Raises UsageError: numbers."""
        if isinstance(values, np.ndarray):
            if len(numbers := values[~np.isnan(values)]):
                what = f"numbers, as {numbers[0]:g}, and uids are texts of {DIGITS} hexadecimal digits"
                raise UsageError(f"the column '{self.column}' holds {what}")
            return np.zeros(0, UID), np.zeros(len(values), bool)
        if (uids := _parse_all(values)) is not None:
            return uids, np.ones(len(values), bool)
        known = np.array([_is_uid(value) for value in values], bool)
        return _parse([value for value, is_uid in zip(values, known, strict=True) if is_uid]), known


def _is_uid(value: str) -> bool:
    return len(value) == DIGITS and value.isascii() and all(digit in "0123456789abcdefABCDEF" for digit in value)


def _parse_all(values: Sequence[str]) -> np.ndarray | None:
    """Return values as UID [N], much faster than one by one; None where one of them is no uid."""
    with contextlib.suppress(ValueError, TypeError):
        if all(len(value) == DIGITS for value in values):
            uids = _parse(values)
            return uids if len(uids) == len(values) else None  # white space is skipped
    return None


def _parse(uids: Sequence[str]) -> np.ndarray:
    """Return uids of 32 hexadecimal digits as UID [N]."""
    numbers = np.frombuffer(bytes.fromhex("".join(uids)), ">u8").astype(np.uint64)
    return numbers.view(UID)


def _written(uid: Any) -> str:
    return f"{int(uid[0]):016x}{int(uid[1]):016x}"


def read_uids(path: str) -> np.ndarray:
    """Return the sorted uids of a file, UID [N]: a memory map, unless it is text or unsorted.

    Raises UsageError: it holds something else, or nothing; BadShard: it cannot be read.
    """
    path = local_copy(path)
    with open_stream(path) as file:
        start = file.read(len(MAGIC))
        file.seek(0)
        if start != MAGIC:
            return _read_text(path, file.read())
        try:
            shape, _, dtype = read_npy_header(file)
        except ValueError as error:
            raise UsageError(f"{path} is no array that can be read: {error}") from error
        offset, size = file.tell(), file.seek(0, 2)
    pair = [dtype[name] for name in dtype.names or ()]
    if len(shape) != 1 or [field.str[1:] for field in pair] != ["u8", "u8"] or dtype.itemsize != UID.itemsize:
        raise UsageError(f"{path} holds an array of {dtype} {list(shape)}: {EXPECTED}")
    if not shape[0]:
        raise UsageError(f"{path} has no uid")
    if size - offset < shape[0] * UID.itemsize:
        raise UsageError(f"{path} ends after {size - offset:,} of the {shape[0] * UID.itemsize:,} bytes of its uids")
    uids = np.memmap(path, dtype, "r", offset, shape)
    if pair[0].isnative and _is_sorted(uids):
        return uids.view(UID)
    why = "not sorted" if pair[0].isnative else "of another byte order"
    print(f"{path} is {why}: its {len(uids):,} uids are sorted in memory", file=sys.stderr)
    return _sorted(np.array(uids).astype(UID))


def _read_text(path: str, content: bytes) -> np.ndarray:
    lines = content.decode("utf-8-sig", errors="replace").split("\n")
    uids = []
    for number, line in enumerate(lines, 1):
        if not (line := line.strip()):
            continue
        if not _is_uid(line):
            raise UsageError(f"{path}, line {number} is no uid but {line[:40]!r}: {EXPECTED}")
        uids.append(line)
    if not uids:
        raise UsageError(f"{path} has no uid")
    return _sorted(_parse(uids))


def _fields(uids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high, low = uids.dtype.names or ("f0", "f1")
    return uids[high], uids[low]


def _is_sorted(uids: np.ndarray) -> bool:
    """Compare each uid with the next, block by block."""
    for start in range(0, len(uids) - 1, BLOCK):
        high, low = (np.asarray(part) for part in _fields(uids[start : start + BLOCK + 1]))
        if np.any((high[:-1] > high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] > low[1:]))):
            return False
    return True


def _sorted(uids: np.ndarray) -> np.ndarray:
    high, low = _fields(uids)
    return uids[np.lexsort((low, high))]


def count_uids(uids: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return how often each of ``queries`` UID [K] is among sorted ``uids`` UID [N], int64 [K]."""
    return _search(uids, queries, after_equal=True) - _search(uids, queries, after_equal=False)


def _search(uids: np.ndarray, queries: np.ndarray, *, after_equal: bool) -> np.ndarray:
    """Return where each query belongs among sorted uids, before or after equal ones: binary searches side by side.

    ``np.searchsorted`` gives the same, several times slower, since it compares pairs one by one.
    """
    high, low = _fields(queries)
    begin, end = np.zeros(len(queries), np.int64), np.full(len(queries), len(uids), np.int64)
    for _ in range(len(uids).bit_length()):
        middle = np.minimum((begin + end) // 2, len(uids) - 1)
        at_high, at_low = _fields(uids[middle])
        before = (at_low <= low) if after_equal else (at_low < low)
        right = (begin < end) & ((at_high < high) | ((at_high == high) & before))
        begin, end = np.where(right, middle + 1, begin), np.where(right | (begin >= end), end, middle)
    return begin
