"""Read examples for evaluations: unreadable examples are skipped and reported."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import numpy as np

from jaxrep import hosts
from jaxrep.data._util.parallel import thread_map
from jaxrep.data.loading.read_ahead import ahead_of
from jaxrep.data.source import Examples, is_unknown, stack, take
from jaxrep.errors import BadSample, JaxrepError

BLOCKS_AHEAD = 2
"""Blocks of examples that threads read ahead."""

MAX_BAD_SHARE = 0.01
"""Largest share of skipped examples (one is always allowed): with more, the metrics of two runs do not compare."""

Row = dict[str, Any] | BadSample
"""The values of an example by column, or the reason why it cannot be read."""

_skipped: ContextVar[set[str]] = ContextVar("skipped")


def read_blocks(examples: Examples, size: int) -> Iterator[dict[str, Any]]:
    """Yield the columns of the readable examples, from ``size`` examples at a time, in their order.

    The number of skipped examples, and the first reason, are printed at the end.

    Raises:
        JaxrepError: more than ``MAX_BAD_SHARE`` of the examples are unreadable.
        BadShard: a shard cannot be read.
    """
    bad: list[BadSample] = []
    with contextlib.closing(rows_ahead(examples, range(len(examples)), size)) as futures:
        while rows := [future.result() for future in itertools.islice(futures, size)]:
            bad += [row for row in rows if isinstance(row, BadSample)]
            check_bad_share(bad, len(examples))
            if good := [row for row in rows if not isinstance(row, BadSample)]:
                yield {name: stack([row[name] for row in good]) for name in good[0]}
    report_skipped(bad, len(examples))


def rows_ahead(
    examples: Examples,
    indices: Iterable[int],
    block: int,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
) -> Generator[Future[Row], None, None]:
    """Yield the future row of each example, in the order of ``indices``; threads read two blocks ahead.

    The threads also call ``prepare`` on a row that can be read. Close the generator if it is not read to its end.
    """
    order = np.fromiter(indices, np.int64)
    ahead = ahead_of(examples, order, block)

    def read(place: int) -> Row:
        with ahead.reading(place // block):
            (row,) = read_rows(examples, order[[place]])
        return row if isinstance(row, BadSample) else prepare(row)

    with contextlib.closing(ahead):
        yield from thread_map(read, range(len(order)), BLOCKS_AHEAD * block)


def read_columns(examples: Examples, names: Sequence[str]) -> dict[str, Any]:
    """Return these columns of the examples that have a value in each of them: arrays, or lists of strings.

    An example is left out, and reported, if ``Examples.column`` has "", NaN or -1 in place of what cannot be read, or
    if its text is empty or its number NaN. Whatever their share, the same examples are left out in every run.

    Raises:
        JaxrepError: no example is left.
        BadShard: a shard cannot be read.
    """
    columns = {name: examples.column(name) for name in names}
    bad: dict[int, BadSample] = {}
    for name, values in columns.items():
        for index in np.flatnonzero(is_unknown(values)).tolist():
            (row,) = read_rows(examples, np.array([index]))
            if isinstance(row, BadSample):
                bad[index] = row
            elif np.asarray(values[index]).dtype.kind not in "iu":  # a -1 that can be read is a number
                bad[index] = BadSample(f"{examples.shard(index)}, example {index}", f"it has no '{name}'")
    if bad and len(bad) == len(examples):
        raise JaxrepError(f"no example has {' and '.join(map(repr, names))}: {_describe([*bad.values()])}")
    report_skipped([*bad.values()], len(examples), aloud=hosts.is_main())
    kept = np.delete(np.arange(len(examples)), [*bad])
    return {name: take(values, kept) for name, values in columns.items()}


def read_rows(examples: Examples, indices: np.ndarray) -> list[Row]:
    """Read the examples at ``indices``. Raises BadShard: a shard cannot be read."""
    if not len(indices):
        return []
    try:
        columns = examples.gather(indices)
    except BadSample as error:
        if len(indices) == 1:
            return [error]
        return [row for index in indices for row in read_rows(examples, np.array([index]))]
    return [{name: values[i] for name, values in columns.items()} for i in range(len(indices))]


def check_bad_share(bad: Sequence[BadSample], count: int) -> None:
    """Check that at most ``MAX_BAD_SHARE`` of ``count`` examples are unreadable. Raises JaxrepError."""
    if len(bad) > max(1, MAX_BAD_SHARE * count) or len(bad) == count:
        raise JaxrepError(
            f"{_describe(bad)}, more than {MAX_BAD_SHARE:.0%} of {count}: repair them, and run the same command again"
        ) from bad[0]


def report_skipped(bad: Sequence[BadSample], count: int, *, aloud: bool = True) -> None:
    """Record which of ``count`` examples an evaluation skips, and print their number if it is not 0."""
    record_skipped(map(str, bad))
    if bad and aloud:
        print(f"{_describe(bad)} of {count}: the evaluation skips them", file=sys.stderr)


def record_skipped(sentences: Iterable[str]) -> None:
    """Record one sentence per example that an evaluation skips, or per judgment that it cannot follow."""
    with contextlib.suppress(LookupError):  # outside of collect_skipped
        _skipped.get().update(sentences)


@contextlib.contextmanager
def collect_skipped() -> Iterator[set[str]]:
    """Collect one sentence per example that evaluations skip inside the context."""
    sentences: set[str] = set()
    token = _skipped.set(sentences)
    try:
        yield sentences
    finally:
        _skipped.reset(token)


def _describe(bad: Sequence[BadSample]) -> str:
    return f"{len(bad)} examples cannot be read (the first: {bad[0]})"
