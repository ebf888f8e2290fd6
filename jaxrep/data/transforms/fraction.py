"""A share of a source, and the rest of it: for a split of one's own, or to learn from less."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.transforms.select import Subset, WrappedSource
from jaxrep.errors import UsageError
from jaxrep.spec import spec


@spec
class Fraction(WrappedSource):
    """The examples that fall, each by a draw of its own, into a share; a smaller share is part of a larger one."""

    share: float
    """Share of the examples."""
    rest: bool = False
    """The other examples in its place."""
    by: str = ""
    """Column of whole numbers of which equal ones stay together, as a class; empty: each example for itself."""
    seed: int = 0
    """Seed of the draw."""

    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.by else ()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 < self.share < 1:
            yield f"share is between 0 and 1, got {self.share}"

    def open(self) -> Examples:
        examples = self.source.open()
        units = np.asarray(examples.column(self.by)) if self.by else np.arange(len(examples))
        drawn = mix(mix(units.astype(np.uint64)) + np.uint64(self.seed)) < self.share * 2.0**64
        taken = np.flatnonzero(drawn != self.rest)
        if not len(taken):
            raise UsageError(f"a share of {self.share} of {len(examples)} examples holds none")
        return Subset(examples, taken)
