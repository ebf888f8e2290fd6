"""Mix several sources by weights, which may change during training.

A closed form (``shares``) assigns draws to sources, and each source passes through its examples in the recipe's order,
epoch by epoch. So any position maps to (source, example) without history.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.batch import Field
from jaxrep.data.orders.base import Indices, JoinedIndices, Order
from jaxrep.data.orders.lanes import joined, lanes_of
from jaxrep.data.source import Examples, Keys, Source, Substitute
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.data.transforms.shares import UNIT, Shares
from jaxrep.errors import UsageError, hint
from jaxrep.spec import Count, Natural, NonNegative, spec

RAMP_STEPS = 64
"""Number of equal steps of a ramp."""


@spec
class Reweight:
    """Change the weights of a mixture during training."""

    at: Count
    """Number of examples seen when the weights begin to change."""
    weights: Mapping[str, NonNegative]
    """New weight of each source; 0 for a source that is not named."""
    ramp: Natural = 0
    """Number of examples over which the shares change linearly; 0: at once."""


@spec
class Mixture(Source):
    """Mix the examples of several sources that have the same fields; rename fields by ``SelectFields``.

    Its length, by which epochs are counted, is the sum of the sources' lengths. It reports ``data/share/<name>``: the
    exact share of each source in the examples so far.
    """

    sources: Mapping[str, Source]
    """The sources by name."""
    weights: Mapping[str, NonNegative] = dataclasses.field(default_factory=dict)
    """Relative frequency of each source; empty: proportional to its number of examples."""
    changes: tuple[Reweight, ...] = ()
    """Changes of the weights, in the order of training."""
    one_source_per_batch: bool = False
    """Whether all examples of a batch come from one source, so that no other source gives negatives."""

    def problems(self) -> Iterator[str]:
        if not self.sources:
            yield "sources is empty: there is nothing to mix"
        given = {"weights": self.weights} if self.weights else {}
        changed = {f"changes.{i}.weights": change.weights for i, change in enumerate(self.changes)}
        for path, weights in (given | changed).items():
            if unknown := [name for name in weights if name not in self.sources]:
                yield f"{path} names {unknown[0]!r}, which is no source; {hint(unknown[0], self.sources)}"
            if not 0 < sum(weights.values()) < math.inf:
                yield f"{path} are finite numbers, one of them above 0, got {dict(weights)}"
        for i, (first, second) in enumerate(itertools.pairwise(self.changes), 1):
            if second.at < first.at + first.ramp:
                yield f"changes.{i} begins at example {second.at}, before the ramp of the change before it ends"
        yield from self._differences()
        for name, source in self.sources.items():
            if isinstance(source, Mixture) and source.one_source_per_batch and not self.one_source_per_batch:
                yield f"sources.{name} has one source per batch, and its examples would share batches with others"

    def _differences(self) -> Iterator[str]:
        fields = {name: source.fields() for name, source in self.sources.items()}
        for name, others in list(fields.items())[1:]:
            first, expected = next(iter(fields.items()))
            for field in sorted(others.keys() | expected.keys()):
                a, b = expected.get(field), others.get(field)
                if a != b:
                    yield (
                        f"sources.{first} and sources.{name} differ in '{field}': {a or 'none'} and {b or 'none'}; "
                        "choose and rename fields by jaxrep.data.SelectFields"
                    )

    def fields(self) -> dict[str, Field]:
        return next(iter(self.sources.values())).fields()

    def open(self) -> Examples:
        return MixedExamples(self, {name: source.open() for name, source in self.sources.items()})


class MixedExamples(ShardedExamples):
    """Concatenate the examples of several sources."""

    def __init__(self, mixture: Mixture, parts: Mapping[str, Examples]):
        for name, part in parts.items():
            if not len(part):
                raise UsageError(f"the source '{name}' of the mixture has no examples")
        self._mixture, self._parts = mixture, list(parts.values())
        lengths = [len(part) for part in self._parts]
        super().__init__(list(parts), lengths)
        self._starts = self._ends - lengths
        self.classes = {name: values for part in self._parts for name, values in part.classes.items()}

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, row = self.find(range(len(self))[index])
        return self._parts[part][row]

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        which = np.searchsorted(self._ends, indices, side="right")
        mixed: dict[str, Any] = {}
        for part in np.unique(which):
            rows, start = np.flatnonzero(which == part), int(self._starts[part])
            inside = substitute and _inside(substitute, rows, start, len(self._parts[part]))
            columns = self._parts[part].gather(indices[rows] - start, None if keys is None else keys[rows], inside)
            if len(rows) == len(indices):
                return columns
            for name, values in columns.items():
                _put(mixed, name, rows, values, len(indices))
        return mixed

    def column(self, name: str) -> Any:
        columns = [part.column(name) for part in self._parts]
        if isinstance(columns[0], np.ndarray):
            return np.concatenate(columns)
        return [value for column in columns for value in column]

    def column_names(self) -> Sequence[str]:
        return self._parts[0].column_names()

    def read_from(self, name: str) -> str:
        return " and ".join(dict.fromkeys(filter(None, (part.read_from(name) for part in self._parts))))

    @property
    def shard_ends(self) -> np.ndarray:
        return np.concatenate([part.shard_ends + start for part, start in zip(self._parts, self._starts, strict=True)])

    def shard(self, index: int) -> str:
        part, row = self.find(index)
        return f"{self._shards[part]}: {self._parts[part].shard(row)}"

    def fingerprint(self) -> dict[str, Any]:
        parts = zip(self._shards, self._parts, strict=True)
        return {"examples": len(self), "sources": {name: part.fingerprint() for name, part in parts}}

    def origins(self, indices: np.ndarray) -> Iterator[tuple[Examples, np.ndarray]]:
        which = np.searchsorted(self._ends, indices, side="right")
        for number, part in enumerate(self._parts):
            yield from part.origins(indices[which == number] - self._starts[number])

    def ordered_indices(self, order: Order, batch_size: int) -> Indices:
        named = zip(self._shards, self._parts, strict=True)
        parts = {name: _ordered(name, part, order, batch_size) for name, part in named}
        by_lane = list(zip(*map(lanes_of, parts.values()), strict=True))
        whole = self._mixture.one_source_per_batch
        block = batch_size // len(by_lane) if whole else order.block_size(batch_size)
        lanes = []
        for lane, own in enumerate(by_lane):
            # Lanes round at different places, so that a rare source is not drawn by all of them in the same batch.
            rounding = UNIT // 2 if whole else UNIT * (2 * lane + 1) // (2 * len(by_lane))
            shares = self._shares(block * len(by_lane), rounding)
            lanes.append(MixedOrder(dict(zip(parts, own, strict=True)), self._starts, shares, block))
        return joined(lanes, batch_size)

    def _shares(self, block: int, rounding: int) -> Shares:
        """Return the shares during training, counted in blocks of so many examples."""
        mixture, lengths = self._mixture, np.diff(self._ends, prepend=0)
        now = self._normal(mixture.weights) if mixture.weights else lengths / lengths.sum()
        starts, shares = [0], [now]
        for change in mixture.changes:
            goal = self._normal(change.weights)
            steps = RAMP_STEPS if change.ramp else 1
            for step in range(1, steps + 1):
                starts.append(-(-(change.at + change.ramp * (step - 1) // steps) // block))
                shares.append(now + (goal - now) * (step / steps))
            now = goal
        return Shares(starts, np.stack(shares), rounding)

    def _normal(self, weights: Mapping[str, float]) -> np.ndarray:
        given = np.array([weights.get(name, 0.0) for name in self._shards], np.float64)
        return given / given.sum()


class MixedOrder(JoinedIndices):
    """Order positions by blocks: each block has one source, and continues this source's order after its last block."""

    def __init__(self, parts: Mapping[str, Indices], starts: Int[np.ndarray, "S"], shares: Shares, block: int):
        super().__init__(list(parts.values()), starts)
        self._names, self._shares, self._block = tuple(parts), shares, np.uint64(block)

    def places(self, positions: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        blocks, within = np.divmod(positions, self._block)
        source, number = self._shares(blocks)
        return source, number * self._block + within

    def source_counts(self, position: int) -> dict[str, int]:
        blocks, rest = divmod(position, int(self._block))
        numbers = [int(number) * int(self._block) for number in self._shares.counts(blocks)]
        numbers[int(self._shares(np.array([blocks], np.uint64))[0][0])] += rest
        counts = {}
        for name, order, number in zip(self._names, self.parts, numbers, strict=True):
            inner = {f"{name}/{below}": count for below, count in order.source_counts(number).items()}
            counts |= {name: number} | inner
        return counts


def _ordered(name: str, part: Examples, order: Order, batch_size: int) -> Indices:
    """Return the indices of one source's examples. Raises UsageError: they do not fit the order."""
    try:
        return part.ordered_indices(order.for_source(name), batch_size)
    except UsageError as error:
        raise UsageError(f"the source '{name}' of the mixture: {error}") from error


def _inside(substitute: Substitute, rows: np.ndarray, start: int, length: int) -> Substitute:
    """Return ``substitute`` for a source whose indices begin at ``start`` and which fills ``rows`` of the batch."""

    def inside(row: int, error: Any) -> int:
        index = substitute(int(rows[row]), error) - start
        if not 0 <= index < length:
            raise ValueError(f"example {index + start} cannot replace an example of another source")
        return index

    return inside


def _put(columns: dict[str, Any], name: str, rows: np.ndarray, values: Any, length: int) -> None:
    """Write one source's values into their rows of a column."""
    if isinstance(values, np.ndarray):
        if name not in columns:
            columns[name] = np.empty((length, *values.shape[1:]), values.dtype)
        columns[name][rows] = values
    else:
        column = columns.setdefault(name, [None] * length)
        for row, value in zip(rows, values, strict=True):
            column[row] = value
