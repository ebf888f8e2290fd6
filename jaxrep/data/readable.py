"""All of a data set, some examples at a time, for what measures on it: what cannot be read is left out, and told."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.data.decode import BadSample
from jaxrep.data.source import Examples
from jaxrep.errors import JaxrepError

MAX_BAD_SHARE = 0.01
"""Of the examples that may be left out, or one of them; with more, figures of two runs would not compare."""


def blocks(examples: Examples, size: int) -> Iterator[dict[str, Any]]:
    """The columns of the examples that can be read, ``size`` examples after ``size``, in their order.

    How many were left out, and why the first one was, is printed at the end. Raises JaxrepError: it is more than
    ``MAX_BAD_SHARE``; BadShard: a shard cannot be read.
    """
    bad: list[BadSample] = []
    for start in range(0, len(examples), size):
        indices = np.arange(start, min(start + size, len(examples)))
        try:
            columns = examples.gather(indices)
        except BadSample:
            good = [index for index in indices.tolist() if not _bad(examples, index, bad)]
            if len(bad) > max(1, MAX_BAD_SHARE * len(examples)) or len(bad) == len(examples):
                raise JaxrepError(f"{_told(bad)}, more than {MAX_BAD_SHARE:.0%} of {len(examples)}") from bad[0]
            if not good:
                continue
            columns = examples.gather(np.array(good))
        yield columns
    if bad:
        print(f"{_told(bad)} of {len(examples)}: the evaluation goes without", file=sys.stderr)


def _bad(examples: Examples, index: int, bad: list[BadSample]) -> bool:
    """Whether an example cannot be read; then why not is added to ``bad``."""
    try:
        examples.gather(np.array([index]))
    except BadSample as error:
        bad.append(error)
        return True
    return False


def _told(bad: list[BadSample]) -> str:
    return f"{len(bad)} examples cannot be read (the first: {bad[0]})"
