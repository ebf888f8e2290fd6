"""Examples as a measure reads them: what cannot be read is left out, and told."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from jaxrep.data.source import Examples, stack
from jaxrep.errors import BadSample, JaxrepError

MAX_BAD_SHARE = 0.01
"""Of the examples that may be left out, or one of them; with more, figures of two runs would not compare."""

Row = dict[str, Any] | BadSample
"""The values of an example by column, or why it cannot be read."""

_noted: ContextVar[set[str]] = ContextVar("noted")


def blocks(examples: Examples, size: int) -> Iterator[dict[str, Any]]:
    """The columns of the examples that can be read, ``size`` examples after ``size``, in their order.

    How many were left out, and why the first one was, is printed at the end. Raises JaxrepError: it is more than
    ``MAX_BAD_SHARE``; BadShard: a shard cannot be read.
    """
    bad: list[BadSample] = []
    for start in range(0, len(examples), size):
        found = rows(examples, np.arange(start, min(start + size, len(examples))))
        bad += [row for row in found if isinstance(row, BadSample)]
        check(bad, len(examples))
        if good := [row for row in found if not isinstance(row, BadSample)]:
            yield {name: stack([row[name] for row in good]) for name in good[0]}
    go_without(bad, len(examples))


def rows(examples: Examples, indices: np.ndarray) -> list[Row]:
    """The examples at ``indices``. Raises BadShard: a shard cannot be read."""
    if not len(indices):
        return []
    try:
        columns = examples.gather(indices)
    except BadSample as error:
        if len(indices) == 1:
            return [error]
        return [row for index in indices for row in rows(examples, np.array([index]))]
    return [{name: values[i] for name, values in columns.items()} for i in range(len(indices))]


def check(bad: Sequence[BadSample], count: int) -> None:
    """That no more than ``MAX_BAD_SHARE`` of ``count`` examples could not be read. Raises JaxrepError."""
    if len(bad) > max(1, MAX_BAD_SHARE * count) or len(bad) == count:
        told = f"{_told(bad)}, more than {MAX_BAD_SHARE:.0%} of {count}: repair them, and run the same command again"
        raise JaxrepError(told) from bad[0]


def go_without(bad: Sequence[BadSample], count: int, *, aloud: bool = True) -> None:
    """Notes which of ``count`` examples a measure goes without, and prints how many, if there are any."""
    with contextlib.suppress(LookupError):  # nobody takes note
        _noted.get().update(map(str, bad))
    if bad and aloud:
        print(f"{_told(bad)} of {count}: the evaluation goes without", file=sys.stderr)


@contextlib.contextmanager
def noted() -> Iterator[set[str]]:
    """Within, what measures go without is added to the set: a sentence each."""
    found: set[str] = set()
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def _told(bad: Sequence[BadSample]) -> str:
    return f"{len(bad)} examples cannot be read (the first: {bad[0]})"
