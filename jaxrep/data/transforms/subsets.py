"""Keep some examples of a source: the first ones, those that meet conditions, some per class, or a random share."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.source import Examples, is_unknown, ranked
from jaxrep.data.sources.values import as_numbers, written
from jaxrep.data.transforms.base import SubsetSource
from jaxrep.errors import UsageError
from jaxrep.spec import Count, Natural, Range, spec


@spec
class Take(SubsetSource):
    """Take the first examples of a source, for a quick look or an ablation; all if there are fewer."""

    count: Count
    """Number of examples."""

    def indices(self, examples: Examples) -> np.ndarray:
        return np.arange(min(self.count, len(examples)))


@spec
class Where:
    """Set a condition on one column of the metadata; an example without a value does not meet it."""

    column: str
    """The column: a score, a width, a license."""
    at_least: float = float("-inf")
    """Smallest number that meets the condition."""
    at_most: float = float("inf")
    """Largest number that meets the condition."""
    among: tuple[str, ...] = ()
    """Words that meet the condition, whole numbers without a point; empty: the column holds numbers."""

    def problems(self) -> Iterator[str]:
        if self == Where(column=self.column):
            yield "it has no condition: give at_least, at_most or among"
        if self.among and (self.at_least > float("-inf") or self.at_most < float("inf")):
            yield "a column holds numbers or words: give at_least and at_most, or among"
        if self.at_least > self.at_most or self.at_least == float("inf") or self.at_most == float("-inf"):
            yield f"no number is at least {self.at_least} and at most {self.at_most}"

    def __call__(self, values: Any) -> np.ndarray:
        """Return which values meet the condition, bool [N]."""
        if self.among:
            return np.array([not {written(value), str(value)}.isdisjoint(self.among) for value in values], bool)
        numbers = as_numbers(values, self.column, "numbers are compared: give among=(…), or remove the words")
        return (numbers >= self.at_least) & (numbers <= self.at_most)


@spec
class Filter(SubsetSource):
    """Keep the examples that meet all conditions."""

    where: tuple[Where, ...]
    """The conditions."""

    def indices(self, examples: Examples) -> np.ndarray:
        kept = np.ones(len(examples), bool)
        for condition in self.where:
            kept &= np.concatenate([condition(part) for part in examples.column_parts(condition.column)])
        return np.flatnonzero(kept)


@spec
class FewShot(SubsetSource):
    """Draw the same number of examples of each class, once: a few-shot training set; a smaller class is kept whole."""

    count: Count
    """Examples per class."""
    label: str = "label"
    """Field of the classes; an example with a negative or unknown class is left out."""
    seed: Natural = 0
    """Seed of the draw; a larger count includes the examples of a smaller one."""

    def reads(self) -> tuple[str, ...]:
        return (self.label,)

    def indices(self, examples: Examples) -> np.ndarray:
        column = examples.column(self.label)
        labels = np.where(is_unknown(column), -1, ranked(column))
        drawn = few_of_each(labels, self.count, np.random.default_rng(self.seed))
        return np.sort(drawn[labels[drawn] >= 0])


def few_of_each(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw the indices of up to ``count`` examples per label; a larger count adds to those of a smaller one."""
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    grouped = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return order[place < count]


@spec
class Fraction(SubsetSource):
    """Draw a share of the examples, or the rest of them; a smaller share is part of a larger one."""

    share: Annotated[float, Range(above=0, below=1)]
    """Share of the examples."""
    rest: bool = False
    """Keep the other examples instead."""
    by: str = ""
    """Column of integers; examples of one value are drawn as a group, as those of a class. Empty: each one alone."""
    seed: Natural = 0
    """Seed of the draw."""

    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.by else ()

    def indices(self, examples: Examples) -> np.ndarray:
        units = examples.column(self.by) if self.by else np.arange(len(examples))
        if len(units) and isinstance(units[0], str):
            raise UsageError(f"by='{self.by}' is a column of strings, and a fraction is drawn by integers, as of an id")
        keys = splitmix64(np.asarray(units).astype(np.uint64)) + np.uint64(self.seed)
        drawn = splitmix64(keys) < self.share * 2.0**64
        return np.flatnonzero(drawn != self.rest)
