"""Order examples of one value (a class, a concept) next to each other; each example still comes once per epoch."""

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.orders.base import Indices, Order, require_examples
from jaxrep.data.orders.permutation import epoch_keys, epochs_and_places, permute
from jaxrep.data.source import Examples, is_unknown, ranked
from jaxrep.spec import Count, spec


@spec
class Grouped(Order):
    """Read groups of ``per_group`` examples of one value, in a random order, with new members in each epoch.

    Examples that do not fill a group of their value, or have an unknown one ("", -1 or NaN), form mixed groups among
    the others. If an epoch is not a whole number of groups, a batch may cut groups at its ends. The order reads the
    column when it is opened, and takes four bytes per example.
    """

    by: str = "label"
    """Column of the values: a class, a concept."""
    per_group: Count = 4
    """Examples per group."""

    @property
    def batch_unit(self) -> int:
        return self.per_group

    def block_size(self, batch_size: int) -> int:
        return self.per_group

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        require_examples(examples)
        column = examples.column(self.by)
        values, unknown = ranked(column), np.flatnonzero(is_unknown(column))
        if len(unknown):
            _, values = np.unique(values, return_inverse=True)
            values[unknown] = len(values) + np.arange(len(unknown))
        return ShuffledGroups(self.seed, values, self.per_group)


class ShuffledGroups(Indices):
    """Compute ``Grouped`` by ``values`` [N]."""

    def __init__(self, seed: int, values: np.ndarray, size: int):
        self._seed, self._size, self._length = seed, np.uint64(size), len(values)
        by_value = np.argsort(values, kind="stable")
        ordered = values[by_value]
        self._rows = by_value.astype(np.uint32 if len(values) <= 2**32 else np.int64)  # value after value
        starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        self._starts = np.concatenate([[0], starts, [len(values)]]).astype(np.uint64)
        self._members = np.diff(self._starts)
        self._groups = _starts(self._members // self._size)
        self._rest = _starts(self._members % self._size)

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = epochs_and_places(positions, self._length)
        keys = epoch_keys(self._seed, epochs)
        value, member = self._members_at(places, keys)
        member = permute(member, self._members[value], splitmix64(keys + value.astype(np.uint64)))
        return self._rows[self._starts[value] + member].astype(np.int64)

    def _members_at(self, places: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the value at each place, and the number of its member before members are shuffled."""
        block, within = np.divmod(places, self._size)
        blocks = self._length // int(self._size)
        whole = block < blocks
        block[whole] = permute(block[whole], blocks, keys[whole])
        grouped = block < self._groups[-1]
        value, member = np.empty(places.shape, np.int64), np.empty_like(places)
        value[grouped], group = _locate(self._groups, block[grouped])
        member[grouped] = group * self._size + within[grouped]
        rest = ((block - self._groups[-1]) * self._size + within)[~grouped]
        value[~grouped], last = _locate(self._rest, permute(rest, self._rest[-1], ~keys[~grouped]))
        member[~grouped] = np.diff(self._groups)[value[~grouped]] * self._size + last
        return value, member


def _starts(counts: np.ndarray) -> np.ndarray:
    """Return the sum of all counts before each one, and of all."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)


def _locate(starts: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the value to which each number belongs, and its place among the numbers of that value."""
    value = np.searchsorted(starts, numbers, side="right") - 1
    return value, numbers - starts[value]
