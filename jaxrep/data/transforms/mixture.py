"""Several sources as one: each with a weight, which may change in the course of training.

Who is drawn is dealt out by a closed form (``shares``), and each source goes through its own examples in the order
that the recipe says, epoch after epoch of its own. So any position maps to (source, example) without history.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.batch import Field
from jaxrep.data.orders.base import Indices, Order
from jaxrep.data.source import Examples, Instead, Source
from jaxrep.data.transforms.shares import Shares
from jaxrep.errors import UsageError, hint
from jaxrep.spec import spec

RAMP_STEPS = 64
"""A ramp is this many equal steps."""


@spec
class Reweight:
    """Other weights from a place in training on."""

    at: int
    """Examples seen when the weights begin to change."""
    weights: Mapping[str, float]
    """The new weight of each source; none: a source that is not named."""
    ramp: int = 0
    """Examples in which the shares move there on a straight line; 0: at once."""


@spec
class Mixture(Source):
    """Examples of several sources, which hold the same fields (``select.SelectFields`` makes them so).

    Its length, by which epochs are counted, is the sum of theirs. Its metrics are ``data/share/<name>``: the share of
    each source in the examples so far, exactly.
    """

    sources: Mapping[str, Source]
    """The sources by name."""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """How often each is drawn, by their proportion; empty: as often as it has examples."""
    changes: tuple[Reweight, ...] = ()
    """How the weights change, in the order of training."""
    one_source_a_batch: bool = False
    """Whether all examples of a batch are of one source, so that no other is among their negatives."""

    def problems(self) -> Iterator[str]:
        if not self.sources:
            yield "sources is empty: there is nothing to mix"
        for path, weights in self._weightings():
            if unknown := [name for name in weights if name not in self.sources]:
                yield f"{path} names {unknown[0]!r}, which is no source; {hint(unknown[0], self.sources)}"
            if any(weight < 0 or math.isinf(weight) for weight in weights.values()) or not sum(weights.values()):
                yield f"{path} are numbers from 0 on, one of them above it, not {dict(weights)}"
        end = 0
        for i, change in enumerate(self.changes):
            if change.at < max(end, 1) or change.ramp < 0:
                yield f"changes.{i} is at example {change.at} with a ramp of {change.ramp}: changes follow one another"
            end = change.at + change.ramp
        yield from self._differences()
        for name, source in self.sources.items():
            if isinstance(source, Mixture) and source.one_source_a_batch and not self.one_source_a_batch:
                yield f"sources.{name} is of one source a batch, and its examples share batches with others here"

    def _weightings(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        if self.weights:
            yield "weights", self.weights
        for i, change in enumerate(self.changes):
            yield f"changes.{i}.weights", change.weights

    def _differences(self) -> Iterator[str]:
        fields = {name: source.fields() for name, source in self.sources.items()}
        for name, own in list(fields.items())[1:]:
            first, expected = next(iter(fields.items()))
            for field in sorted(own.keys() | expected.keys()):
                a, b = expected.get(field), own.get(field)
                if a != b:
                    yield (
                        f"sources.{first} and sources.{name} differ in '{field}': {a or 'none'} and {b or 'none'}; "
                        "choose and rename fields by jaxrep.data.transforms.select.SelectFields"
                    )

    def fields(self) -> dict[str, Field]:
        return next(iter(self.sources.values())).fields()

    def open(self) -> Examples:
        return MixedExamples(self, {name: source.open() for name, source in self.sources.items()})


class MixedExamples(Examples):
    """The examples of one source after those of another."""

    def __init__(self, mixture: Mixture, parts: Mapping[str, Examples]):
        for name, part in parts.items():
            if not len(part):
                raise UsageError(f"the source '{name}' of the mixture has no examples")
        self._mixture, self._names, self._parts = mixture, list(parts), list(parts.values())
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.classes = {name: values for part in self._parts for name, values in part.classes.items()}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[int, int]:
        """Which source an index lies in, and the index there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - self._start(part)

    def _start(self, part: int) -> int:
        return int(self._ends[part]) - len(self._parts[part])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, within = self._at(index)
        return self._parts[part][within]

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        which = np.searchsorted(self._ends, indices, side="right")
        found: dict[str, Any] = {}
        for part in np.unique(which):
            rows, start = np.flatnonzero(which == part), self._start(part)
            inside = instead and _inside(instead, rows, start, len(self._parts[part]))
            columns = self._parts[part].gather(indices[rows] - start, None if keys is None else keys[rows], inside)
            if len(rows) == len(indices):
                return columns
            for name, values in columns.items():
                _put(found, name, rows, values, len(indices))
        return found

    def column(self, name: str) -> Any:
        columns = [part.column(name) for part in self._parts]
        if isinstance(columns[0], np.ndarray):
            return np.concatenate(columns)
        return [value for column in columns for value in column]

    @property
    def ends(self) -> np.ndarray:
        return np.concatenate([part.ends + self._start(i) for i, part in enumerate(self._parts)])

    def shard(self, index: int) -> str:
        part, within = self._at(index)
        return f"{self._names[part]}: {self._parts[part].shard(within)}"

    def arranged(self, order: Order, batch_size: int) -> Indices:
        parts = {
            name: part.arranged(order.at(name), batch_size) for name, part in zip(self._names, self._parts, strict=True)
        }
        block = batch_size if self._mixture.one_source_a_batch else order.block(batch_size)
        starts = np.array([self._start(part) for part in range(len(self._parts))])
        return MixedOrder(parts, starts, self._shares(block), block)

    def _shares(self, block: int) -> Shares:
        """The weights in the course of training, counted in blocks."""
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
        return Shares(starts, np.stack(shares))

    def _normal(self, weights: Mapping[str, float]) -> np.ndarray:
        given = np.array([weights.get(name, 0.0) for name in self._names], np.float64)
        return given / given.sum()


class MixedOrder(Indices):
    """Positions in blocks; each block is of one source, and follows in the source's order the block before it there."""

    def __init__(self, parts: Mapping[str, Indices], starts: Int[np.ndarray, "S"], shares: Shares, block: int):
        self._parts, self._starts, self._shares, self._block = dict(parts), starts, shares, np.uint64(block)

    def _places(self, positions: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        blocks, within = np.divmod(np.asarray(positions, np.uint64), self._block)
        source, number = self._shares(blocks)
        return source, number * self._block + within

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        sources, places = self._places(positions)
        indices = np.empty(places.shape, np.int64)
        for i, order in enumerate(self._parts.values()):
            if (rows := sources == i).any():
                indices[rows] = self._starts[i] + order(places[rows])
        return indices

    def instead(self, position: int, attempt: int) -> int:
        (source,), (place,) = self._places(np.array([position], np.uint64))
        return int(self._starts[source]) + list(self._parts.values())[source].instead(int(place), attempt)

    def tokens(self, position: int) -> int:
        (source,), (place,) = self._places(np.array([position], np.uint64))
        return list(self._parts.values())[source].tokens(int(place))

    def counts(self, position: int) -> dict[str, int]:
        blocks, rest = divmod(position, int(self._block))
        numbers = [int(number) * int(self._block) for number in self._shares.counts(blocks)]
        numbers[int(self._shares(np.array([blocks], np.uint64))[0][0])] += rest
        found = {}
        for (name, order), number in zip(self._parts.items(), numbers, strict=True):
            inner = {f"{name}/{below}": count for below, count in order.counts(number).items()}
            found |= {name: number} | inner
        return found


def _inside(instead: Instead, rows: np.ndarray, start: int, length: int) -> Instead:
    """``instead`` for the source whose indices begin at ``start`` and which is asked for ``rows`` of the batch."""

    def inside(row: int, error: Any) -> int:
        index = instead(int(rows[row]), error) - start
        if not 0 <= index < length:
            raise ValueError(f"example {index + start} stands in for one of another source")
        return index

    return inside


def _put(found: dict[str, Any], name: str, rows: np.ndarray, values: Any, length: int) -> None:
    """Writes one source's values into their rows of a column."""
    if isinstance(values, np.ndarray):
        if name not in found:
            found[name] = np.empty((length, *values.shape[1:]), values.dtype)
        found[name][rows] = values
    else:
        column = found.setdefault(name, [None] * length)
        for row, value in zip(rows, values, strict=True):
            column[row] = value
